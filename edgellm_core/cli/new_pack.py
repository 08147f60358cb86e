"""Writes a pip-installable pack with one family."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.cli.errors import PackExistsError, PackNameError, PackNotWrittenError
from edgellm_core.cli.python_text import dict_lines, python_literal, python_tuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from edgellm_core.cli.family_facts import FamilyFacts

TEMPLATES: Final = Path(__file__).parent / "pack_template"

FILES: Final[Mapping[str, str]] = {
    ".github/workflows/test.yml": "workflow.yml.in",
    ".gitignore": "gitignore.in",
    "LICENSE": "LICENSE.in",
    "README.md": "README.md.in",
    "pyproject.toml": "pyproject.toml.in",
    "src/$package/README.md": "family.md.in",
    "src/$package/__init__.py": "init.py.in",
    "src/$package/chat_template.jinja": "chat_template.jinja.in",
    "src/$package/family.py": "family.py.in",
    "src/$package/matrix.yaml": "matrix.yaml.in",
    "tests/test_conformance.py": "test_conformance.py.in",
    "tests/test_pack.py": "test_pack.py.in",
}
"""File of the pack → its template; both may hold ``$variables``."""

FAMILY_FILES: Final[Mapping[str, str]] = {
    "README.md": "family.md.in",
    "__init__.py": "init.py.in",
    "family.py": "family.py.in",
    "matrix.yaml": "matrix.yaml.in",
}
"""File of a family's folder in the repository → its template."""

LLAMA: Final[Mapping[str, Any]] = {
    "vocab_size": 131, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}  # fmt: skip
"""A small config with odd sizes, for a family that nothing is known about."""

NAME: Final = re.compile(r"[a-z]([a-z0-9]|[._-](?=[a-z0-9]))*", re.IGNORECASE)
"""A distribution name (packaging.python.org, "Names and normalization") that begins with a letter."""

PREFIX: Final = "edgellm-"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackNames:
    """The names that one word gives a pack.

    Attributes:
        distribution: for pip, ``edgellm-acme``.
        package: for Python, ``edgellm_acme``.
        family: family, entry point and ``model_type``, ``acme``.
        cls: prefix of classes, ``Acme``.
    """

    distribution: str
    package: str
    family: str
    cls: str


def pack_names(name: str, families: Collection[str], *, described: bool = False) -> PackNames:
    """Return the names of a pack.

    Args:
        name: what the user typed; a prefix ``edgellm-`` is not repeated.
        families: names of the families that exist.
        described: whether a config.json says what its family is, which may then have the name of that model.

    Raises:
        PackNameError: it is no distribution name, or belongs to a family or to a model of transformers.
    """
    if not NAME.fullmatch(name.removeprefix(PREFIX)):
        problem = "must begin with a letter and have only letters, digits, '-', '_' and '.', none of these at its end"
        raise PackNameError(name, problem, "Write it like acme or acme-chat.")
    normal = re.sub(r"[._-]+", "-", name).lower().removeprefix(PREFIX)
    family = normal.replace("-", "_")
    if family in families:
        remedy = f"Name it my-{normal}; its family may claim the same model_type, and a pack wins over the repository."
        raise PackNameError(name, "must not be that of a family that exists", remedy)
    if not described and is_transformers_model(family):
        remedy = f"Name it my-{normal}, and let its family claim the model_type {family!r}."
        raise PackNameError(name, "must not be that of a model of transformers", remedy)
    return PackNames(
        distribution=PREFIX + normal,
        package=(PREFIX + normal).replace("-", "_"),
        family=family,
        cls=class_prefix(family),
    )


def plain_facts(names: PackNames) -> FamilyFacts:
    """Return what a new family is that no config.json describes: Llama's layers under a name of its own."""
    from edgellm_core.cli.family_facts import FamilyFacts

    architecture = f"{names.cls}ForCausalLM"
    tiny = {"model_type": names.family, "architectures": [architecture], **LLAMA}
    return FamilyFacts(model_type=names.family, architectures=(architecture,), modeled_as="llama", tiny_config=tiny)


def write_pack(names: PackNames, directory: Path, facts: FamilyFacts) -> list[Path]:
    """Write a pack, whole or not at all, and return its files.

    Args:
        names: of the pack.
        directory: folder to create.
        facts: what its family is.

    Raises:
        PackExistsError: the directory is there already.
        PackNotWrittenError: the operating system refused.
    """
    if directory.exists() or directory.is_symlink():
        raise PackExistsError(directory)
    rendered = render(FILES, pack_variables(names, facts))
    partial: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
        partial.chmod(0o755)  # mkdtemp makes it private
        for name, text in rendered.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        partial.rename(directory)
    except OSError as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise PackNotWrittenError(directory, error) from error
    return [directory / name for name in rendered]


def pack_variables(names: PackNames, facts: FamilyFacts) -> dict[str, str]:
    """Return the variables of a pack's templates."""
    from datetime import datetime, timezone

    major, minor = importlib.metadata.version("edgellm").split(".")[:2]
    template = "Checkpoints without a chat template get [chat_template.jinja](chat_template.jinja)."
    return {
        **family_variables(names.family, names.cls, facts),
        "chat_template": template,
        "distribution": names.distribution,
        "package": names.package,
        "year": str(datetime.now(timezone.utc).year),
        "edgellm_range": f">={major}.{minor},<{major}.{int(minor) + 1}",
    }


def family_variables(family: str, cls: str, facts: FamilyFacts) -> dict[str, str]:
    """Return the variables of the templates of a family's folder.

    Args:
        family: name of the family.
        cls: prefix of its class.
        facts: what it is.
    """
    from edgellm_core.contract import CONTRACT_VERSION

    summary = "A plain decoder; nothing is special yet."
    special = f"nothing yet. It is computed as transformers' `{facts.modeled_as or facts.model_type}`"
    if facts.modeled_as:
        summary = f"A decoder that transformers computes as {facts.modeled_as}, under a name of its own."
        special += " (`modeled_as`)"
    line = f"    modeled_as: ClassVar[str] = {python_literal(facts.modeled_as)}\n" if facts.modeled_as else ""
    return {
        "family": family,
        "cls": cls,
        "model_type": facts.model_type,
        "architectures": python_tuple(facts.architectures),
        "claimed_architectures": ", ".join(f"`{name}`" for name in facts.architectures) or "none",
        "modeled_as_line": line,
        "summary": summary,
        "special": f"{special}.",
        "chat_template": "Checkpoints bring their chat template.",
        "tiny_config": dict_lines(facts.tiny_config, indent=12),
        "contract": str(CONTRACT_VERSION),
    }


def class_prefix(family: str) -> str:
    """Return the prefix of the classes of a family: ``AcmeChat`` of ``acme_chat``."""
    return "".join(part.capitalize() for part in family.split("_"))


def render(files: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return path → text.

    Args:
        files: path, which may hold variables → template.
        variables: their values.
    """
    return {
        string.Template(name).substitute(variables): string.Template(
            (TEMPLATES / template).read_text(encoding="utf-8")
        ).substitute(variables)
        for name, template in files.items()
    }


def is_transformers_model(name: str) -> bool:
    """Say whether transformers has modeling code of that name, without importing it."""
    found = importlib.util.find_spec("transformers")
    places = found.submodule_search_locations if found else None
    return any((Path(place) / "models" / name).is_dir() for place in places or ())
