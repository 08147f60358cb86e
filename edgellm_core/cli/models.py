"""``edgellm models``: the registry of known checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm_core.cli.tables import print_table

if TYPE_CHECKING:
    from edgellm_core.registry import ModelRegistry, RegistryEntry

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
plugin_path_option = click.option(
    "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder with plugins."
)


@click.group()
def models() -> None:
    """List the models of the registry."""


@models.command("list")
@plugin_path_option
@as_json_option
def list_models(plugin_paths: tuple[Path, ...], *, as_json: bool) -> None:
    """Show every model that ``edgellm build NAME`` knows: edgellm's own, and those of plugins."""
    registry = _registry(plugin_paths)
    for sentence in registry.skipped:
        click.echo(sentence, err=True)
    entries = {name: registry.get(name) for name in registry.names()}
    if as_json:
        click.echo(json.dumps([_entry_json(name, entry) for name, entry in entries.items()], indent=2))
        return
    from rich.table import Column, Table
    from rich.text import Text

    found = Column("name", no_wrap=True)  # so that it can be found and copied
    table = Table(found, "family", "hub", "verified", "untested", box=None, pad_edge=False)
    for name, entry in entries.items():
        cells = (name, entry.family, entry.hub, _precisions(entry, "verified"), _precisions(entry, "untested"))
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    print_table(table)


@models.command("show")
@click.argument("name")
@plugin_path_option
@as_json_option
def show_model(name: str, plugin_paths: tuple[Path, ...], *, as_json: bool) -> None:
    """Show one model: family, where its weights come from, and which precisions are verified."""
    entry = _registry(plugin_paths).get(name)
    fields = _entry_json(name, entry)
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    del fields["precisions"]
    if entry.package is None:
        del fields["package_file"]
    fields |= {status: _precisions(entry, status) or "none" for status in ("verified", "untested")}
    for key, value in fields.items():
        if value is not None:
            click.echo(f"{key + ':':<14}{value}")


def _registry(plugin_paths: tuple[Path, ...]) -> ModelRegistry:
    from edgellm_core.host import PluginHost
    from edgellm_core.registry import ModelRegistry

    return ModelRegistry.of_plugins(PluginHost.load(plugin_paths).records)


def _entry_json(name: str, entry: RegistryEntry) -> dict[str, Any]:
    """Return an entry as JSON types, with the file of its installed package under ``weights``."""
    from edgellm_core.registry import package_weights

    weights = package_weights(entry)
    return {"name": name, **entry.model_dump(), "weights": None if weights is None else str(weights)}


def _precisions(entry: RegistryEntry, status: str) -> str:
    """Return the precisions of that status."""
    return ", ".join(precision for precision, known in entry.precisions.items() if known.status == status)
