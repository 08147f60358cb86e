"""Writes ``docs/reference`` from the code: ``python -m tests.generated_docs``, with ``--check`` to compare only."""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.docstrings import first_line, parse_docstring, to_markdown
from tests.edge_llm_wheel.page import wheel_tables
from tests.generated_conformance import conformance_page
from tests.generated_corpus import corpus_page
from tests.generated_coverage import coverage_page
from tests.generated_errors import errors_page
from tests.generated_limits import limits_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgellm_core.quantization.model import QuantizedModel

ROOT: Final = Path(__file__).parents[1]
REFERENCE: Final = ROOT / "docs" / "reference"
NOTE: Final = "<!-- Written by `make docs`. Change the code, not this file. -->"
WIDTH: Final = 100
"""Columns of the help texts."""


EXIT_CODES: Final = [
    ("0", "what was asked for is done"),
    ("1", "refused: an error in one sentence, or a failure of `matrix run`"),
    ("2", "a wrong option, an argument too many, or one that is missing"),
    ("70", "a defect of edgellm; `-v` shows its traceback"),
    ("130, 143", "stopped by ctrl-C, by SIGTERM; what is finished of a build stays for the next one"),
    ("pytest's own", "`plugins test`: 0; 1 where a check failed or all were skipped; 4 wrong name; 5 no check"),
]
"""Tests of the command line hold them."""


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them; return the exit code."""
    only_the_repositorys_plugins()
    made = {REFERENCE / name: f"{NOTE}\n\n{make().strip()}\n" for name, make in PAGES.items()}
    made |= dict(pages_with_tables())
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run make docs")
        return 1 if stale else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(made[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def pages_with_tables() -> Iterator[tuple[Path, str]]:
    """Yield the hand-written pages that hold a generated table, with the table made anew."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        written = text = path.read_text(encoding="utf-8")
        for name, make in TABLES.items():
            begin, end = f"<!-- table {name}: written by `make docs` -->", f"<!-- end of table {name} -->"
            if begin in text:
                pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
                text = pattern.sub(f"{begin}\n\n{make()}\n\n{end}".replace("\\", r"\\"), text)
        if text != written:
            yield path, text


def only_the_repositorys_plugins() -> None:
    """Deselect packs that happen to be installed, so that they don't reach the pages."""
    folders = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))
    os.environ["EDGELLM_PLUGINS"] = ",".join(folders)
    for name in ("EDGELLM_PLUGIN_PATH", "EDGELLM_TRACE"):
        os.environ.pop(name, None)


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(value: str) -> str:
    """Return inline code; nothing for nothing."""
    return f"`{value}`" if value else ""


def cli_page() -> str:
    """Return the help of every command."""
    import click

    from edgellm_core.cli import edgellm

    parts = [
        "# Command line",
        "The exit code is",
        table(("exit code", "meaning"), EXIT_CODES),
    ]

    def visit(command: click.Command, path: str, parent: click.Context | None) -> None:
        context = click.Context(
            command,
            parent=parent,
            info_name=path.rpartition(" ")[2],
            **{**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH},
        )
        parts.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                visit(child, f"{path} {name}", context)

    visit(edgellm, "edgellm", None)
    return "\n\n".join([*parts, environment_section()])


def environment_section() -> str:
    """Return the environment variables that the code reads."""
    variables = [
        ("EDGELLM_PLUGINS", "Names of the plugins to load, with commas; empty loads none. Unset loads all."),
        (
            "EDGELLM_PLUGIN_PATH",
            "Folders with plugins, separated as in PATH, after `--plugin-path`; `.so` files are passed over.",
        ),
        ("EDGELLM_TRACE", "`1` prints every hook call to standard error."),
        ("EDGELLM_CACHE", "Directory of traces and converted checkpoints; by default the user's cache directory."),
        ("HF_HOME", "Directory of huggingface_hub's downloads and login (read by huggingface_hub)."),
        ("HF_ENDPOINT", "Address of the hub (read by huggingface_hub)."),
    ]
    rows = [(code(name), meaning) for name, meaning in variables]
    return "## Environment variables\n\n" + table(("variable", "meaning"), rows)


def hooks_page() -> str:
    """Return signature and docstring of every hook."""
    from edgellm_core import hookspecs

    parts = ["# Hooks", to_markdown(inspect.getdoc(hookspecs) or "")]
    for name, hook in vars(hookspecs).items():
        if name.startswith("edgellm_"):
            first = hook.edgellm_spec["firstresult"]
            parts += [
                f"## {name}",
                f"```python\n{signature(hook)}\n```",
                parse_docstring(inspect.getdoc(hook) or "").to_markdown(),
                *(["The first result that is not None decides."] if first else []),
            ]
    return "\n\n".join(parts)


def contract_page() -> str:
    """Return the classes that a plugin subclasses, returns or is handed."""
    from edgellm_core import contract, gguf_form
    from edgellm_core.surgery import rule

    parts = ["# Plugin contract", to_markdown(inspect.getdoc(contract) or "")]
    parts.append(f"This edgellm has contract version {contract.CONTRACT_VERSION} (`CONTRACT_VERSION`).")
    names = ("ModelFamily", "AttentionAttributes", "GraphDimensions", "Target", "QuantizationScheme", "CalibrationData")
    parts += [class_section(getattr(contract, name), contract.__name__) for name in names]
    parts.append(class_section(gguf_form.GgufForm, gguf_form.__name__))
    names = ("Rule", "Expected", "NearMiss", "Editor")
    parts += [class_section(getattr(rule, name), rule.__name__) for name in names]
    return "\n\n".join(parts)


def signature(function: Any) -> str:
    """Return the first line of a function as it is written."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}"


def class_section(described: type, module: str) -> str:
    """Return docstring, attributes with their defaults, and public methods of a class."""
    doc = parse_docstring(inspect.getdoc(described) or "")
    parts = [f"## {described.__name__}", f"`from {module} import {described.__name__}`", doc.text()]
    if doc.sections.get("Attributes"):
        hints = annotations_of(described)
        rows = [
            (code(name), code(hints.get(name, "")), code(default_of(described, name)), meaning)
            for name, meaning in doc.sections["Attributes"].items()
        ]
        parts.append(table(("attribute", "type", "default", "meaning"), rows))
    for name, member in vars(described).items():
        function = member.__func__ if isinstance(member, classmethod) else member
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        abstract = " (abstract)" if getattr(function, "__isabstractmethod__", False) else ""
        parts.append(f"### {described.__name__}.{name}{abstract}")
        parts.append(f"```python\n{signature(function)}\n```")
        parts.append(parse_docstring(inspect.getdoc(function) or "").to_markdown())
    return "\n\n".join(part for part in parts if part)


def annotations_of(described: type) -> dict[str, str]:
    """Return the annotations of a class as they are written, without ClassVar."""
    written = {name: str(value) for name, value in vars(described).get("__annotations__", {}).items()}
    return {
        name: value.removeprefix("ClassVar[").removesuffix("]") if value.startswith("ClassVar[") else value
        for name, value in written.items()
    }


def default_of(described: type, name: str) -> str:
    """Return the default of an attribute as code; nothing where there is none."""
    fields = getattr(described, "__dataclass_fields__", {})
    if name in fields:
        import dataclasses

        field = fields[name]
        if field.default_factory is not dataclasses.MISSING:
            return repr(field.default_factory())
        return "" if field.default is dataclasses.MISSING else repr(field.default)
    return repr(getattr(described, name)) if hasattr(described, name) else ""


MODELS_INTRO: Final = """# Models

The names that `edgellm build NAME` knows, from `model_registry.yaml`. Other models are named by their hub id, their
directory or their `.gguf` file. A package, where it is installed, is used instead of the hub. A precision is *verified*
once a pass was recorded, else *untested*; every build is verified anyway."""


def models_page() -> str:
    """Return the registry as a table."""
    from edgellm_core.registry import ModelRegistry

    registry = ModelRegistry.load()
    rows = []
    for name in registry.names():
        entry = registry.get(name)
        precisions = ", ".join(f"{precision} {known.status}" for precision, known in entry.precisions.items())
        rows.append((code(name), entry.family, code(entry.hub), code(entry.package or ""), precisions))
    return f"{MODELS_INTRO}\n\n{table(('name', 'family', 'hub', 'package', 'precisions'), rows)}"


FAMILIES_INTRO: Final = """# Families

The families that ship with edgellm. `edgellm plugins list` shows what is installed on a machine."""


def families_page() -> str:
    """Return what the host says about the plugins of this repository."""
    from edgellm_core.contract import ModelFamily
    from edgellm_core.host import PluginHost

    host = PluginHost.load()
    rows = []
    for record in host.records:
        for name in record.families:
            family = host.select({}, forced=name).family
            tiny = "yes" if type(family).tiny_config is not ModelFamily.tiny_config else "no"
            claims = [", ".join(map(code, values)) for values in (family.model_types, family.architectures)]
            what = first_line(inspect.getdoc(type(family)) or "")
            rows.append(
                (code(name), f"{record.name} ({record.origin})", *claims, code(family.transformers), tiny, what)
            )
    header = ("family", "plugin", "`model_type`", "`architectures`", "transformers", "tiny config", "what it is")
    return f"{FAMILIES_INTRO}\n\n{table(header, rows)}"


RULES_INTRO: Final = """# Surgery rules

Rules run stage by stage: clean, lower, polish; within a stage the core's first, then those of plugins, of the family
and of the target, where those of what is quantized come before the others. A rule that applies another number of times
than expected ends the build. Rules of `edgellm surgery` run on files of other exporters only."""


def some_quantized_model() -> QuantizedModel:
    """Return a model with a quantized layer and a quantized cache."""
    from edgellm_core.quantization.formats import FP8
    from edgellm_core.quantization.model import QuantizedLinear, QuantizedModel

    layer = QuantizedLinear(module="up", weight="up.weight", form=FP8, outputs=2, inputs=2)
    return QuantizedModel(
        element_type="F16", linears={"up.weight": layer}, caches={"past_key_values.0.key": "k_proj.k_scale"}
    )


def rules_page() -> str:
    """Return the rules of the core and of each target."""
    from edgellm_core.errors import NoFormError
    from edgellm_core.surgery.patterns import pattern_rules, tidying_rules
    from edgellm_core.surgery.rule import Rule
    from edgellm_core.surgery.rules import core_rules
    from edgellm_core.targets import BUILT_IN, find_target

    groups = {"core": list(core_rules())}
    for name in BUILT_IN:
        target = find_target(name, {})
        with contextlib.suppress(NoFormError):
            groups[f"target `{name}`, of what is quantized"] = list(target.quantized(some_quantized_model()).rules)
        groups[f"target `{name}`"] = list(target.rules())
    known = {rule.name for rule in groups["core"]}
    foreign = [*tidying_rules(), *pattern_rules(target.opset)]
    groups["`edgellm surgery`"] = [rule for rule in foreign if rule.name not in known]
    rows = []
    for origin, rules in groups.items():
        for rule in rules:
            counted = type(rule).expected is not Rule.expected
            expected = first_line(inspect.getdoc(type(rule).expected) or "") if counted else "Any number."
            rows.append((code(rule.name), origin, rule.stage, first_line(inspect.getdoc(type(rule)) or ""), expected))
    return f"{RULES_INTRO}\n\n{table(('rule', 'of', 'stage', 'rewrite', 'expected'), rows)}"


def bundle_page() -> str:
    """Return the keys of bundle.json, one table a record."""
    from edgellm_core.bundle import manifest

    schema = manifest.Manifest.model_json_schema()
    parts = ["# bundle.json", to_markdown(inspect.getdoc(manifest) or "")]
    parts.append(f"This edgellm writes and reads `schema_version` {manifest.SCHEMA_VERSION}. It writes every key.")
    for name, part in {"Manifest": schema, **schema["$defs"]}.items():
        doc = parse_docstring(inspect.getdoc(getattr(manifest, name)) or "")
        meanings = doc.sections["Attributes"]
        rows = [(code(key), json_type(value), meanings[key]) for key, value in part["properties"].items()]
        parts += [f"## {name}", doc.text(), table(("key", "type", "meaning"), rows)]
    return "\n\n".join(parts)


def json_type(schema: Mapping[str, Any]) -> str:
    """Return a JSON schema in words."""
    words: dict[str, Callable[[Any], str]] = {
        "$ref": lambda path: f"[{path.rpartition('/')[2]}](#{path.rpartition('/')[2].lower()})",
        "anyOf": lambda options: " or ".join(map(json_type, options)),
        "const": lambda value: code(json.dumps(value)),
        "enum": lambda values: " or ".join(code(json.dumps(value)) for value in values),
        "prefixItems": lambda items: f"[{', '.join(map(json_type, items))}]",
        "items": lambda item: f"array of {json_type(item)}",
        "additionalProperties": lambda value: "object" if value is True else f"object of {json_type(value)}",
        "type": str,
    }
    return next(say(schema[key]) for key, say in words.items() if key in schema)


def tolerances_table() -> str:
    """Return the tolerances of verification."""
    from edgellm_core.verification.tolerances import LOCAL_NOISE, TOLERANCES

    rows = [(precision, f"{tolerance:g}", f"{LOCAL_NOISE[precision]:g}") for precision, tolerance in TOLERANCES.items()]
    return table(("precision", "largest `max_rel_err` that passes", "error that one layer may add"), rows)


def matrix_precisions_table() -> str:
    """Return the precisions of the matrix grammar."""
    from edgellm_core.matrix.entry import parse
    from edgellm_core.matrix.tokens import PRECISIONS

    missing = {precision: parse(f"tiny-{precision}").unavailable() for precision in PRECISIONS}
    return table(("precision", "built today"), [(code(p), "not yet" if missing[p] else "yes") for p in PRECISIONS])


def matrix_tokens_table() -> str:
    """Return the tokens of the matrix grammar."""
    from edgellm_core.matrix.tokens import TOKENS

    rows = [
        (
            code(token.form),
            token.meaning,
            str(token.least) if token.kind == "number" else "",
            f"not yet: {token.feature}" if token.feature else "yes",
        )
        for token in TOKENS
    ]
    return table(("token", "meaning", "least N", "built today"), rows)


def matrix_limits_table() -> str:
    """Return the pairs of tokens of which one bounds the other."""
    from edgellm_core.matrix.entry import ASCENDING

    return table(("token", "may not exceed"), [(code(low), code(high)) for low, high in ASCENDING])


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "cli.md": cli_page,
    "hooks.md": hooks_page,
    "contract.md": contract_page,
    "models.md": models_page,
    "families.md": families_page,
    "rules.md": rules_page,
    "bundle.md": bundle_page,
    "errors.md": lambda: errors_page(table),
    "conformance.md": lambda: conformance_page(table),
    "coverage.md": lambda: coverage_page(table),
    "corpus.md": lambda: corpus_page(table),
    "limits.md": lambda: limits_page(table),
}
"""File in ``docs/reference`` → what makes its text."""

TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "tolerances": tolerances_table,
    "matrix-precisions": matrix_precisions_table,
    "matrix-tokens": matrix_tokens_table,
    "matrix-limits": matrix_limits_table,
    "edge-llm-wheel": lambda: wheel_tables(table),
}
"""Name of a table in a hand-written page → what makes it."""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
