"""Writes the tiny random checkpoint of a family: ``python -m edgellm_core.testing.tiny FAMILY DIRECTORY``."""

from __future__ import annotations

from pathlib import Path

import click

from edgellm_core.errors import EdgellmError


@click.command()
@click.argument("family")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder of plugins."
)
def write_tiny(family: str, directory: Path, plugin_paths: tuple[Path, ...]) -> None:
    """Write a random checkpoint of FAMILY's tiny config into DIRECTORY."""
    from edgellm_core.host import PluginHost
    from edgellm_core.testing.checkpoints import write_family_checkpoint

    try:
        chosen = PluginHost.load(plugin_paths).select({}, forced=family).family
        write_family_checkpoint(directory, chosen)
    except EdgellmError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    write_tiny()
