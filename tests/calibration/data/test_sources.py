"""Where texts come from: files, local data sets, packs, and what is said when one can't be had."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from edgellm_core.calibration.data import CalibrationDataSettings, calibration_set
from edgellm_core.calibration.data.errors import (
    CalibrationTextFailedError,
    HubTextError,
    MissingColumnError,
    MissingTextError,
    NoCalibrationTemplateError,
    NotEnoughTextError,
    TextFileError,
    TextTypeError,
    UnknownTextFileError,
)
from edgellm_core.calibration.data.hub_text import articles
from edgellm_core.contract import CalibrationData
from edgellm_core.errors import UnknownNameError

TEXTS = [f"text number {number}\nhas two lines" for number in range(6)]
ROWS = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def write_txt(path):
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def write_csv(path):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path):
    parquet.write_table(pa.Table.from_pylist(ROWS), path)


WRITERS = {".txt": write_txt, ".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


def whole_text(tokenizer, path, **settings):
    """Return all texts that a source gives, read back from the samples (one token is one byte here)."""
    tokens = sum(len(text) + 1 for text in TEXTS)
    settings = {"samples": tokens // 2, "length": 2, **settings}
    found = calibration_set(CalibrationDataSettings(data=str(path), **settings), tokenizer)
    return tokenizer.backend.decode(found.ids.ravel().tolist(), skip_special_tokens=False).split("</s>")


@pytest.fixture(params=WRITERS)
def text_file(request, tmp_path):
    """The same texts in a file of each kind."""
    path = tmp_path / f"texts{request.param}"
    WRITERS[request.param](path)
    return path


def test_every_kind_of_file_gives_its_texts(text_file, tokenizer):
    assert sorted(filter(None, whole_text(tokenizer, text_file))) == TEXTS


def test_the_order_is_that_of_the_seed(text_file, tokenizer):
    orders = {tuple(whole_text(tokenizer, text_file, seed=seed)) for seed in (0, 0, 1)}
    assert len(orders) == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_another_column_is_read_when_asked_for(tmp_path, tokenizer, suffix):
    path = tmp_path / f"texts{suffix}"
    WRITERS[suffix](path)
    found = whole_text(tokenizer, path, column="id", samples=6)
    assert sorted(filter(None, found)) == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_column_that_is_not_there_lists_those_that_are(tmp_path, tokenizer, suffix):
    path = tmp_path / f"texts{suffix}"
    WRITERS[suffix](path)
    with pytest.raises(MissingColumnError, match=r"Column 'body' does not exist in .* Columns: id, text\."):
        whole_text(tokenizer, path, column="body")


def test_the_only_column_needs_no_name(tmp_path, tokenizer):
    path = tmp_path / "texts.csv"
    path.write_text("body\nabc\nabc\n")
    assert whole_text(tokenizer, path, samples=4) == ["abc", "abc", ""]


def test_a_long_field_of_a_csv_file_is_read(tmp_path, tokenizer):
    path = tmp_path / "texts.csv"
    path.write_text(f"text\n{'a' * 200_000}\n")
    limit = csv.field_size_limit()
    assert whole_text(tokenizer, path, samples=1, length=200_001)[0] == "a" * 200_000
    assert csv.field_size_limit() == limit


def test_a_local_data_set_is_streamed(tmp_path, tokenizer):
    write_jsonl(tmp_path / "train.jsonl")
    assert sorted(filter(None, whole_text(tokenizer, tmp_path))) == TEXTS
    with pytest.raises(MissingColumnError, match="Columns: id, text"):
        whole_text(tokenizer, tmp_path, column="body")


def test_a_folder_without_data_is_refused(tmp_path, tokenizer):
    (tmp_path / "notes").mkdir()
    with pytest.raises(HubTextError, match="needs a split 'train'"):
        whole_text(tokenizer, tmp_path / "notes")


@pytest.mark.parametrize(
    ("name", "contents", "error", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": ', TextFileError, "line 2 is no JSON"),
        ("a.jsonl", b'["x"]\n', TextFileError, "line 1 is no JSON object"),
        ("a.jsonl", b'{"text": 5}\n', TextTypeError, "must hold text; got a value of type int"),
        ("a.jsonl", b'{"text": "x"}\n{"title": "x"}\n', MissingColumnError, "Columns: title"),
        ("a.txt", b"\xff\xfe\xff", TextFileError, "can't decode"),
        ("a.parquet", b"PAR1 not really", TextFileError, "can't be read"),
        ("a.csv", b"", MissingColumnError, "Columns: none"),
        ("a.txt", b" \n\n", NotEnoughTextError, r"has 0\. It holds no text"),
        ("a.txt", b"tiny", NotEnoughTextError, r"has 5\. Give a --calib-length of at most 5"),
        ("a.pdf", b"%PDF", UnknownTextFileError, r"must end in .txt, .jsonl, .csv, .parquet; got .*a\.pdf"),
    ],
)
def test_files_that_can_not_be_used_say_why(tmp_path, tokenizer, name, contents, error, message):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(error, match=message):
        calibration_set(CalibrationDataSettings(data=str(tmp_path / name), samples=2), tokenizer)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("wikitxt", UnknownNameError, "Unknown calibration data 'wikitxt'. Did you mean 'wikitext'"),
        ("medical", UnknownNameError, "Available: builtin, cnn_dailymail, notes, wikitext"),
        ("texts.txt", MissingTextError, "there is no texts.txt"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused(tokenizer, name, error, message):
    with pytest.raises(error, match=message):
        calibration_set(CalibrationDataSettings(data=name), tokenizer, packs={"notes": CalibrationData})


@pytest.fixture
def _no_hub(monkeypatch):
    """Make the hub unreachable, on machines with a network too."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("_no_hub")
@pytest.mark.parametrize("name", ["cnn_dailymail", "wikitext", "owner/name", "owner/name:config"])
def test_a_hub_that_does_not_answer_names_the_remedy(tokenizer, name):
    with pytest.raises(HubTextError, match=r"the hub does not answer .* give --calib-data builtin or a file"):
        calibration_set(CalibrationDataSettings(data=name), tokenizer)


@pytest.mark.usefixtures("_no_hub")
def test_without_a_network_the_builtin_text_is_used_and_said(tokenizer):
    said = []
    found = calibration_set(CalibrationDataSettings(samples=2, length=8), tokenizer, tell=said.append)
    assert found.source.startswith("builtin calibration text")
    assert len(said) == 1
    assert "no --calib-data was given and cnn_dailymail is out of reach" in said[0]


def test_fewer_samples_than_the_default_are_said(tmp_path, tokenizer):
    write_txt(tmp_path / "texts.txt")
    said = []
    settings = CalibrationDataSettings(data=str(tmp_path / "texts.txt"), length=8)
    found = calibration_set(settings, tokenizer, tell=said.append)
    assert found.samples < 512
    assert said == [f"Calibrating on {found.samples} samples, all that {found.source} gives, in place of 512."]


class Notes(CalibrationData):
    name = "notes"

    def texts(self):
        yield from TEXTS
        raise OSError("the disk is gone")


def test_texts_of_a_pack_are_read_only_as_far_as_needed(tokenizer):
    found = calibration_set(
        CalibrationDataSettings(data="notes", samples=4, length=8), tokenizer, packs={"notes": Notes}
    )
    assert found.source == "notes (of a plugin)"
    with pytest.raises(CalibrationTextFailedError, match="'notes' of a plugin failed: OSError: the disk is gone"):
        calibration_set(CalibrationDataSettings(data="notes", samples=400), tokenizer, packs={"notes": Notes})


def test_conversations_are_written_in_the_chat_template(tmp_path, tokenizer):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"id": "a", "messages": CHAT}) + "\n")
    settings = CalibrationDataSettings(data=str(tmp_path / "chat.jsonl"), samples=1, length=28, chat=True)
    found = calibration_set(settings, tokenizer)
    assert found.chat
    text = tokenizer.backend.decode(found.ids[0].tolist(), skip_special_tokens=False)
    assert text == "<s>user: Hi</s><s>assistant: Hello</s>"


def test_plain_text_is_made_a_conversation(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("one two three")
    settings = CalibrationDataSettings(data=str(tmp_path / "a.txt"), samples=1, length=32, chat=True)
    text = tokenizer.backend.decode(calibration_set(settings, tokenizer).ids[0].tolist(), skip_special_tokens=False)
    assert text.startswith("<s>user: one two</s><s>assistant: three")


def test_conversations_without_the_option_are_refused(tmp_path, tokenizer):
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n")
    with pytest.raises(TextTypeError, match="These are conversations: add --calib-chat"):
        calibration_set(CalibrationDataSettings(data=str(tmp_path / "chat.jsonl")), tokenizer)


def test_a_model_without_chat_template_is_refused(make_tokenizer):
    settings = CalibrationDataSettings(data="builtin", chat=True)
    with pytest.raises(NoCalibrationTemplateError, match="--calib-chat needs a chat template"):
        calibration_set(settings, make_tokenizer(template=""))


def test_lines_of_wikitext_are_joined_to_articles():
    lines = [" = A = \n", " one \n", " = = Section = = \n", " two \n", " = B = \n", " three \n"]
    assert list(articles(lines)) == [" = A = \n one \n = = Section = = \n two \n", " = B = \n three \n"]
