"""A comparison from end to end: numbers, page, what fails, and what can't be measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import edgellm_core
from edgellm_core.bundle import load_bundle
from edgellm_core.bundle.errors import BundleExistsError
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.report import plots
from edgellm_core.report.compare import compare
from edgellm_core.report.errors import MissingMatplotlibError
from edgellm_core.report.settings import CompareSettings
from edgellm_core.runtime import generate_text
from edgellm_core.verification.original_weights import OriginalWeights

FEW = {"verify": "off", "quality_samples": 2, "quality_length": 32}


def test_the_numbers_are_those_that_a_build_measures(compared, llama, tmp_path):
    _, comparison = compared
    measured = build(
        str(llama), tmp_path / "out", BuildSettings(**FEW, precision="fp16", engine="none", quality="on")
    ).manifest.quality
    exact, half = comparison.results
    assert (half.perplexity, half.kl, half.top1_agreement) == pytest.approx(
        (measured.perplexity, measured.kl, measured.top1_agreement), rel=1e-6
    )
    assert comparison.original_perplexity == pytest.approx(measured.original_perplexity, rel=1e-9)
    assert comparison.tokens == measured.tokens
    assert exact.kl < half.kl


def test_sizes_are_those_on_disk(compared):
    out, comparison = compared
    exact, half = comparison.results
    assert half.bytes == sum(path.stat().st_size for path in (out / "fp16" / "llm").iterdir())
    weights = 3 * (96 * (6 + 2 + 2) * 16 + 96 * 96 + 3 * 96 * 112)
    assert (exact.linear_bytes, half.linear_bytes) == (4 * weights, 2 * weights)
    assert (exact.linear_share, half.linear_share) == (2.0, 1.0)
    assert half.build_seconds > 0
    assert half.build_peak_mib > 0


def test_layer_errors_begin_at_the_embedding(compared):
    exact, half = compared[1].results
    assert len(half.layer_errors) == 4
    assert max(exact.layer_errors) < 1e-5 < half.layer_errors[-1] < 1e-2


def test_all_answer_the_same_prompts_as_edgellm_run_does(compared):
    out, comparison = compared
    expected = tuple(
        generate_text(load_bundle(out / "fp32"), prompt, max_new_tokens=4, chat=True).text
        for prompt in comparison.prompts
    )
    assert comparison.results[0].answers == expected
    assert comparison.original_answers == expected  # float32 on both sides
    assert len(comparison.results[1].answers) == 2


def test_the_json_file_holds_everything(compared):
    out, comparison = compared
    stored = json.loads((out / "compare.json").read_text())
    assert [result["precision"] for result in stored["results"]] == ["fp32", "fp16"]
    assert stored["results"][1]["kl"] == comparison.results[1].kl
    assert {path.name for path in out.iterdir()} == {"compare.html", "compare.json", "fp32", "fp16"}


class Page(HTMLParser):
    """Collects tags, and what a browser would load."""

    def __init__(self):
        super().__init__()
        self.tags, self.loaded, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_one_file_and_escapes_what_it_shows(compared):
    page = Page()
    page.feed((compared[0] / "compare.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("svg") == 2
    assert all(place.startswith("#") for place in page.loaded)
    assert any("word <script>1</script>" in text for text in page.text)


def test_ids_of_the_plots_do_not_clash(compared):
    ids = re.findall(r'\bid="([^"]+)"', (compared[0] / "compare.html").read_text())
    referred = [name for name in ids if not re.fullmatch(r"[\w.]+_\d+", name)]  # the others only name groups
    assert referred
    assert len(referred) == len(set(referred))


def test_a_precision_that_fails_is_shown_and_ends_with_exit_code_1(overflowing, tmp_path):
    command = [sys.executable, "-c", "from edgellm_core.cli import main; main()", "compare", str(overflowing)]
    options = ["--precision", "fp16,fp32", "--verify", "off", "--quality-samples", "1", "--quality-length", "16"]
    done = subprocess.run(
        [*command, *options, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Error: 1 precision(s) could not be compared" in done.stderr
    assert "Traceback" not in done.stderr
    results = json.loads((tmp_path / "out" / "compare.json").read_text())["results"]
    assert [result["error"] is None for result in results] == [False, True]
    assert "F16 can't hold" in results[0]["error"]
    assert "failed: " in (tmp_path / "out" / "compare.html").read_text()


def test_where_nothing_can_be_built_the_page_says_so(overflowing, tmp_path):
    settings = CompareSettings(precisions=("fp16",), build=FEW)
    comparison = compare(str(overflowing), tmp_path / "out", settings)
    assert set(comparison.failed) == {"fp16"}
    assert comparison.not_measured == "no precision could be built"
    assert "<svg" not in (tmp_path / "out" / "compare.html").read_text()


def test_an_original_larger_than_memory_is_measured_and_does_not_answer(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(OriginalWeights, "total_bytes", lambda _self: 1 << 50)
    comparison = edgellm_core.compare(
        llama, tmp_path / "out", precisions=["fp16"], prompts=["a"], max_new_tokens=2, **FEW
    )
    assert comparison.not_measured is None
    assert comparison.results[0].perplexity
    assert comparison.results[0].answers
    assert comparison.original_answers == ()


def test_existing_bundles_are_left_alone(compared, llama):
    with pytest.raises(BundleExistsError, match="--force"):
        compare(str(llama), compared[0], CompareSettings(precisions=("bf16", "fp16"), build=FEW))
    assert not (compared[0] / "bf16").exists()


def test_without_matplotlib_the_extra_is_named(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingMatplotlibError, match=r'pip install "edgellm\[report\]"'):
        compare(str(llama), tmp_path / "out", CompareSettings(precisions=("fp16",)))
    assert not (tmp_path / "out").exists()
