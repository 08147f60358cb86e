"""``edgellm plugins new``: a pack to start from."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("new")
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), help="Folder to create.  [default: edgellm-NAME]")
def new_pack(name: str, directory: Path | None) -> None:
    """Write a pip-installable pack with the family NAME: code, chat template, matrix, tests, CI workflow, licence."""
    from edgellm_core.cli.new_pack import pack_names, write_pack
    from edgellm_core.host import PluginHost

    names = pack_names(name, PluginHost.load().family_names())
    place = directory or Path(names.distribution)
    files = write_pack(names, place)
    click.echo(f"Wrote {len(files)} files into {place}. Next:")
    click.echo(f"  cd {place}")
    click.echo('  pip install ".[test]"')
    click.echo("  pytest")
