"""The documentation says what the code does: generated pages, commands, options, links, errors, and code that runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from edgellm_core import hookspecs
from edgellm_core.cli import COMMANDS, edgellm

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
WRITTEN = [
    ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent != REFERENCE),
]  # fmt: skip
PAGES = [*WRITTEN, *sorted(REFERENCE.glob("*.md"))]
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("edgellm_"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .+\n(?:\n(?=    ))?)+", re.MULTILINE)
OTHER_OPTIONS = {"--no-deps"}
"""Options that the pages mention and that belong to other tools."""


def name_of(path):
    return str(path.relative_to(ROOT))


def shell_blocks(text):
    """Return the blocks without a language, or for a shell, in order: fenced or indented."""
    fences = {match.start(): match[2] for match in FENCE.finditer(text) if match[1] in {"", "sh"}}
    prose = FENCE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), text)
    indented = {match.start(): inspect.cleandoc(match[0]) for match in INDENTED.finditer(prose)}
    return [block.strip() for _start, block in sorted({**fences, **indented}.items())]


def python_blocks(text):
    return [match[2] for match in FENCE.finditer(text) if match[1] == "python"]


def inline_code(text):
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def every_command():
    """Yield all commands, those of groups too."""
    waiting = [edgellm.get_command(click.Context(edgellm), name) for name in COMMANDS]
    while waiting:
        command = waiting.pop()
        yield command
        waiting += list(getattr(command, "commands", {}).values())


COMMAND_LINES = [
    (name_of(page), line)
    for page in WRITTEN
    for block in shell_blocks(page.read_text())
    for line in block.splitlines()
    if line.startswith("edgellm ")
]
PYTHON_BLOCKS = [
    pytest.param(block, id=f"{name_of(page)}:{number}")
    for page in WRITTEN
    for number, block in enumerate(python_blocks(page.read_text()))
]


def test_the_generated_pages_are_fresh():
    command = [sys.executable, "-m", "tests.generated_docs", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_first_screen_of_the_readme_has_exactly_two_commands():
    first_screen, _, rest = (ROOT / "README.md").read_text().partition("\n## ")
    assert shell_blocks(first_screen) == ["make demo", "make test"]
    assert len(first_screen.splitlines()) < 25
    assert re.fullmatch(r"edgellm build [\w-]+/[\w.-]+ -o \S+", shell_blocks(rest)[0])


def test_the_readme_lists_every_page():
    linked = set(re.findall(r"\]\((docs/[\w/-]+\.md)\)", (ROOT / "README.md").read_text()))
    assert linked == {name_of(path) for path in (ROOT / "docs").rglob("*.md")}


def test_every_make_target_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in WRITTEN:
        spans = [*inline_code(page.read_text()), *shell_blocks(page.read_text())]
        named = {span.split()[1] for span in spans if re.match(r"make \w", span)}
        assert named <= targets, name_of(page)


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=[f"{page}: {line}" for page, line in COMMAND_LINES])
def test_a_command_parses(page, line):
    command, arguments = edgellm, shlex.split(line, comments=True)[1:]
    context = click.Context(edgellm)
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"{page} names the unknown command {name!r}"
    command.make_context(command.name, arguments)


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_commands_and_options_in_prose_exist(page):
    parameters = [parameter for command in every_command() for parameter in command.params]
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    spans = inline_code(page.read_text())
    named = {span.split()[0] for span in spans if span.startswith("--")}
    assert named <= {*options, *OTHER_OPTIONS}
    assert {span.split()[1] for span in spans if re.match(r"edgellm [a-z]", span)} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        place, _, anchor = target.partition("#")
        linked = (page.parent / place).resolve() if place else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_documented_with_its_arguments(hook):
    section = (REFERENCE / "hooks.md").read_text().partition(f"## {hook}\n")[2].partition("\n## ")[0]
    assert section
    node = ast.parse(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1].strip() + ": ...").body[0]
    assert node.name == hook
    assert [argument.arg for argument in node.args.args] == list(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert inspect.getdoc(getattr(hookspecs, hook)).partition("\n")[0] in section.replace("`", "``")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_has_a_test(hook):
    others = {path.name for path in map(Path, (__file__, "generated_docs.py"))}
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path.name not in others]
    assert any(re.search(rf"\b{hook}\b", path.read_text()) for path in tests)


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_python_in_the_pages_imports_what_exists(block):
    from edgellm_core.pipeline.settings import BuildSettings

    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("edgellm_core"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "build":
            assert {keyword.arg for keyword in node.keywords} <= {field.name for field in fields(BuildSettings)}


def test_every_error_has_its_remedy_and_no_other_is_named():
    listed = set(re.findall(r"^\| `(\w+)`", (REFERENCE / "errors.md").read_text(), re.MULTILINE))
    explained = set(re.findall(r"`(\w+Error)`", (ROOT / "docs/how-to/debug-a-refusal.md").read_text()))
    bases = {"UserError", "PluginError", "YamlFileError"}
    assert explained == listed - bases


def test_the_environment_variables_are_documented():
    sources = [path.read_text() for path in (ROOT / "edgellm_core").rglob("*.py")]
    read = {name for source in sources for name in re.findall(r'"(EDGELLM_[A-Z_]+)"', source)}
    listed = set(re.findall(r"^\| `(EDGELLM_\w+)`", (REFERENCE / "cli.md").read_text(), re.MULTILINE))
    assert read == listed


def test_the_architecture_page_has_the_layers_in_order():
    layers = re.search(r"layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    section = (ROOT / "docs/explanation/architecture.md").read_text().partition("## Packages")[2]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert named == re.findall(r"edgellm_core\.(\w+)", layers)


@pytest.fixture(scope="module")
def how_to(tmp_path_factory):
    """The page about families, and a folder with the plugin that it shows."""
    page = (ROOT / "docs/how-to/add-a-family.md").read_text()
    folder = tmp_path_factory.mktemp("how-to")
    shown = re.findall(r"^`(olmo/[\w.]+)`[^\n]*:\n\n```\w+\n(.*?)```$", page, re.MULTILINE | re.DOTALL)
    for name, source in shown:
        path = folder / "my-plugins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert [name for name, _ in shown] == ["olmo/__init__.py", "olmo/family.py", "olmo/README.md", "olmo/matrix.yaml"]
    return page, folder


def run_in(folder, *arguments):
    others = {name: value for name, value in os.environ.items() if not name.startswith("EDGELLM_")}
    environment = {**others, "EDGELLM_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_family_of_the_how_to_works_as_written(how_to):
    page, folder = how_to
    script = next(block for block in python_blocks(page) if "write_tiny_checkpoint" in block)
    plugin, error = run_in(folder, "-c", script).split()
    assert plugin == "olmo"
    assert float(error) <= 1e-4


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_family_of_the_how_to_passes_lint(how_to, command):
    run_in(how_to[1], "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), "my-plugins/olmo")


def test_the_family_of_the_how_to_passes_its_kit(how_to):
    page, folder = how_to
    command = re.search(r"edgellm (plugins test olmo --plugin-path \S+)\n", page)[1]
    run_in(folder, "-c", "from edgellm_core.cli import console_script; console_script()", *command.split())
