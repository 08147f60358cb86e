"""``edgellm plugins new``: a pack to start from, or a family's folder in this repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgellm_core.cli.family_facts import FamilyFacts
    from edgellm_core.cli.new_pack import PackNames


@click.command("new")
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), help="Folder to create.  [default: edgellm-NAME]")
@click.option("--in-tree", is_flag=True, help="Write plugins/NAME into this clone of edgellm instead of a pack.")
@click.option(
    "--from-config", type=click.Path(path_type=Path), metavar="FILE",
    help="Fill claims and a small config from the config.json of a real checkpoint. Loads torch.",
)  # fmt: skip
@click.option(
    "--modeled-as", default="", metavar="TYPE",
    help="With --from-config: the model_type of transformers that computes it, where that is not its own.",
)  # fmt: skip
def new_pack(name: str, *, directory: Path | None, in_tree: bool, from_config: Path | None, modeled_as: str) -> None:
    """Write a pip-installable pack with the family NAME: code, chat template, matrix, tests, CI workflow, licence.

    With --in-tree, write the family's folder into this repository instead.
    """
    from edgellm_core.cli.family_facts import open_questions, read_family_facts
    from edgellm_core.cli.new_in_tree import find_repository, in_tree_names
    from edgellm_core.cli.new_pack import pack_names, plain_facts
    from edgellm_core.host import PluginHost

    if in_tree and directory is not None:
        raise click.UsageError("--directory is for packs; --in-tree writes plugins/NAME. Leave one of them out.")
    if modeled_as and from_config is None:
        raise click.UsageError("--modeled-as says how --from-config is computed; give --from-config FILE with it.")
    host = PluginHost.load()
    names = (in_tree_names if in_tree else pack_names)(name, host.family_names(), described=from_config is not None)
    repository = find_repository(Path.cwd()) if in_tree else None
    facts = read_family_facts(from_config, modeled_as, host) if from_config is not None else plain_facts(names)
    for line in _into(repository, names, facts) if repository else _pack(directory, names, facts):
        click.echo(line)
    if from_config is not None:
        click.echo("Not told by config.json:")
        for question in open_questions(facts):
            click.echo(f"  {question}")


def _pack(directory: Path | None, names: PackNames, facts: FamilyFacts) -> list[str]:
    """Write a pack and return what comes next."""
    from edgellm_core.cli.new_pack import write_pack

    place = directory or Path(names.distribution)
    files = write_pack(names, place, facts)
    return [f"Wrote {len(files)} files into {place}. Next:", f"  cd {place}", '  pip install ".[test]"', "  pytest"]


def _into(repository: Path, names: PackNames, facts: FamilyFacts) -> list[str]:
    """Write a family's folder into a clone and return what comes next."""
    from edgellm_core.cli.new_in_tree import write_in_tree
    from edgellm_core.cli.new_pack import family_variables

    write_in_tree(names.family, family_variables(names.family, names.cls, facts), repository)
    return [
        f"Wrote plugins/{names.family} and listed it in pyproject.toml. Next:",
        "  make docs lint",
        f"  edgellm plugins test {names.family}",
    ]
