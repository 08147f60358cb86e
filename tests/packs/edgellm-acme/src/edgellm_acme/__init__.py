"""The acme pack: a family for a decoder that edgellm does not ship, and a command that greets."""

from __future__ import annotations

import click
from edgellm_core.hookspecs import hookimpl

from .family import AcmeFamily


@click.command("acme-hello")
def acme_hello() -> None:
    """Greet."""
    click.echo("hello from acme")


@hookimpl
def edgellm_register_families() -> list[type[AcmeFamily]]:
    """Register the family."""
    return [AcmeFamily]


@hookimpl
def edgellm_register_commands() -> list[click.Command]:
    """Register the command."""
    return [acme_hello]
