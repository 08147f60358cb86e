"""Every case of the corpus does what it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from edgellm_core import build, detect, load_bundle
from edgellm_core.errors import EdgellmError
from edgellm_core.pipeline.detection import NUMBERS, VALUES
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.runtime.session import DecoderSession
from edgellm_core.runtime.text import TextGenerator
from tests.corpus.case import CorpusCase, Made, all_cases
from tests.corpus.independent import answers, largest_error, load_original, prompts
from tests.corpus.independent_tokenizer import difference

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.bundle import Bundle
    from edgellm_core.events import Event

CASES = all_cases()


def open_session(bundle: Bundle) -> DecoderSession:
    if (bundle.llm / "tokenizer.json").is_file():
        return TextGenerator(bundle, threads=1).session
    return DecoderSession(bundle.model_path, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: CorpusCase, tmp_path: Path):
    made = case.make(tmp_path)
    out, said = tmp_path / "bundle", []
    settings = {"precision": "fp32", "engine": "none", **case.settings}

    def listen(event: Event) -> None:
        said.append(event.message or "")

    if case.outcome == "refused":
        assert case.message, "say which message is expected"
        with pytest.raises(EdgellmError, match=re.escape(case.message)):
            build(made.source, out, listener=listen, **settings)
        assert not out.exists()
        assert not list(tmp_path.glob(".edgellm-work-*"))
        return
    build(made.source, out, listener=listen, **settings)
    assert case.note in "\n".join(said)
    assert difference(out / "llm", made.original or made.source) == ""
    model = load_original(made.original or made.source)
    rows = prompts(model.config.get_text_config().vocab_size, case.lengths)
    session = open_session(load_bundle(out))
    assert largest_error(session, model, rows) <= case.tolerance
    if case.new_tokens:
        mine, theirs = answers(out, model, rows, case.new_tokens)
        assert mine == theirs


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_detect_agrees_with_build(case: CorpusCase, tmp_path: Path):
    problems = detected_problems(case, case.make(tmp_path))
    if case.outcome == "right":
        assert not problems
    elif case.values_only:  # detect says that it did not look at them
        assert case.message not in problems, "without values_only"
    else:
        assert case.message in problems, "a refusal that only values of weights show states values_only"


def detected_problems(case: CorpusCase, made: Made) -> str:
    """Return what ``detect --deep`` says will not work, with the settings of the build."""
    settings = BuildSettings(**{"precision": "fp32", "engine": "none", **case.settings})
    try:
        found = detect(
            made.source,
            deep=True,
            precision=settings.compute_precision,
            target=settings.target,
            family=settings.family,
            plugin_paths=settings.plugin_paths,
            trust_remote_code=settings.trust_remote_code,
        )
    except EdgellmError as error:
        return str(error)
    assert {VALUES, NUMBERS} <= set(found.not_checked)
    return "\n".join(found.summary.will_not_work)
