"""Rules about the repository that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "edgellm_core").rglob("*.py"))
PRODUCT = [*CORE, *sorted((ROOT / "plugins").rglob("*.py"))]
LONGEST_FILE = 400
HEAVY = ("torch", "transformers", "onnx", "onnx_graphsurgeon", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy")
CONTRACT_METHODS = {
    "edgellm_core/contract.py:CalibrationData.texts",
    "edgellm_core/contract.py:Target.rules",
    "edgellm_core/contract.py:QuantizationScheme.linear_format",
}
"""Methods without a body, which every subclass has to write."""


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_a_file_is_short_enough_to_read(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_decides_nothing_by_model_type(path):
    assert decisions_by_model_type(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("model_type == 'gemma'", True),
        ("'gemma' != self.config.model_type", True),
        ("config['model_type'] in GEMMAS", True),
        ("config.get('model_type') not in ('gemma', 'gemma2')", True),
        ("NORMS[model_type]", True),
        ("NORMS.get(config.model_type)", True),
        ("match model_type:\n    case 'gemma': pass", True),
        ("known == model_type", False),
        ("key in {'model_type', 'architectures'}", False),
        ("claims.get('model_type', model_type)", False),
        ("config.get('model_type')", False),
        ("model_type is None", False),
    ],
)
def test_the_search_for_decisions_by_model_type(source, found):
    assert bool(decisions_by_model_type(source)) == found


def decisions_by_model_type(source):
    """Return comparisons of a model type with a literal or a set, look-ups of it in a constant, and matches on it."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(source)) if decides_by_model_type(node)]


def decides_by_model_type(node):
    if isinstance(node, ast.Match):
        return is_model_type(node.subject)
    if isinstance(node, ast.Subscript):
        return is_constant(node.value) and is_model_type(node.slice)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return is_constant(node.func.value) and any(map(is_model_type, node.args))
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    if isinstance(node.ops[0], (ast.In, ast.NotIn)):
        return is_model_type(node.left)
    return any(map(is_model_type, sides)) and any(is_literal(side) or is_constant(side) for side in sides)


def is_model_type(node):
    """Say whether an expression is a model type: a variable, an attribute, or an entry of a config."""
    if isinstance(node, ast.Subscript):
        node = node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        node = node.args[0]
    else:
        return getattr(node, "id", getattr(node, "attr", "")) == "model_type"
    return isinstance(node, ast.Constant) and node.value == "model_type"


def is_literal(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_constant(node):
    return isinstance(node, ast.Name) and node.id.isupper()


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_nothing_is_left_to_do(path):
    with tokenize.open(path) as stream:
        tokens = list(tokenize.generate_tokens(stream.readline))
    words = [token.string for token in tokens if token.type in {tokenize.COMMENT, tokenize.STRING}]
    assert not [word for word in words if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", word)]
    assert unwritten_methods(path) <= CONTRACT_METHODS


def unwritten_methods(path):
    """Return the functions that raise NotImplementedError."""
    found = set()

    def visit(node, parents):
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.ClassDef, ast.FunctionDef))
            if isinstance(child, ast.Raise) and "NotImplementedError" in ast.unparse(child):
                found.add(f"{name_of(path)}:{'.'.join(parents)}")
            visit(child, [*parents, child.name] if named else parents)

    visit(ast.parse(path.read_text()), [])
    return found


def test_every_package_is_listed():
    listed = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)[1]
    names = re.findall(r'"([\w.]+)"', listed)
    folders = {path.parent.relative_to(ROOT) for path in PRODUCT}
    packages = {".".join(folder.parts).replace("plugins", "edgellm_plugins", 1) for folder in folders}
    assert sorted(packages) == sorted(names)
    assert names == sorted(names)


@pytest.mark.parametrize("path", sorted({path.parent for path in PRODUCT}), ids=name_of)
def test_a_folder_with_code_is_a_package(path):
    assert (path / "__init__.py").is_file()


@pytest.mark.parametrize("module", ["edgellm_core", "edgellm_core.cli", "edgellm_core.contract", "edgellm_core.host"])
def test_importing_costs_nothing_heavy(module):
    probe = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_registry_ships_with_the_core():
    assert (ROOT / "edgellm_core" / "model_registry.yaml").read_text() == (ROOT / "model_registry.yaml").read_text()


READERS_OF_THE_ENVIRONMENT = {
    "settings.py": "EDGELLM_CACHE: where caches are, never what is in them",
    "host/discovery.py": "EDGELLM_PLUGIN_PATH: the digest of loaded plugins is in every fingerprint",
    "host/plugin_host.py": "EDGELLM_PLUGINS and EDGELLM_TRACE: likewise, and messages",
    "matrix/spread.py": "sets OMP_NUM_THREADS for workers",
    "testing/conformance/test_l0_static.py": "passes it on",
    "tokenization/patterns.py": "passes it on",
}
"""Files of the core that may look at environment variables, and why no stage's result depends on them."""


def reads_environment(node):
    names = {"environ", "environb", "getenv"}
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and bool(names & {alias.name for alias in node.names})
    return isinstance(node, ast.Attribute) and node.attr in names


def test_no_stage_reads_the_environment():
    """What a stage reads must be in its fingerprint; a new reader has to say why its variable need not be."""
    found = {
        path.relative_to(ROOT / "edgellm_core").as_posix()
        for path in (ROOT / "edgellm_core").rglob("*.py")
        if any(map(reads_environment, ast.walk(ast.parse(path.read_text()))))
    }
    assert found == set(READERS_OF_THE_ENVIRONMENT)
    plugins = [path for path in (ROOT / "plugins").rglob("*.py") if "environ" in path.read_text()]
    assert plugins == []
