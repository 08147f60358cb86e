"""``edgellm plugins``: what discovery found and decided; a new pack; the conformance kit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm_core.cli.plugins_new import new_pack
from edgellm_core.cli.plugins_test import run_kit
from edgellm_core.cli.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.host import PluginRecord


@click.group()
def plugins() -> None:
    """List the plugins, write a new pack, or prove a family."""


plugins.add_command(new_pack)
plugins.add_command(run_kit)


@plugins.command("list")
@click.option(
    "--plugin-path",
    "plugin_paths",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of a plugin, or of plugins; may be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def list_plugins(plugin_paths: tuple[Path, ...], *, as_json: bool) -> None:
    """Show every plugin that was found: where, what it claims, and why it is skipped if it is."""
    from edgellm_core.host import PluginHost

    records = PluginHost.load(plugin_paths, skip_named=True).records
    if as_json:
        click.echo(json.dumps([record.to_json() for record in records], indent=2))
    else:
        _print_table(records)


def _print_table(records: Sequence[PluginRecord]) -> None:
    """Print one row a plugin; errors and notes go below, where a sentence has room."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "origin", "version", "families", "claims", "status", box=None, pad_edge=False)
    for record in records:
        claims = "\n".join(f"{claim.key} {claim.value}" for claim in record.claims)
        cells = (record.name, record.origin, record.version, ", ".join(record.families), claims, record.status)
        table.add_row(*(Text(cell) for cell in cells))
    print_table(table)
    console = Console()
    for record in records:
        for sentence in filter(None, (record.error, *record.notes)):
            console.print(Text(f"\n{record.name} ({record.origin}): {sentence}"), soft_wrap=True)
