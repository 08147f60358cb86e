"""``-v``: every command takes it, and shows the traceback of the error that ended it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import click

FLAGS: Final = ("-v", "--verbose")


@dataclass
class Session:
    """What one call of the command line remembers until it ends.

    Attributes:
        verbose: tracebacks are wanted.
        command: the command, as it was typed.
    """

    verbose: bool = False
    command: str = "edgellm"


def with_verbose(command: click.Command) -> click.Command:
    """Add ``-v`` to a command, or to all commands of a group, where it has no such option of its own."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            with_verbose(child)
    elif not any(set(FLAGS) & set(parameter.opts) for parameter in command.params):
        command.params.append(
            click.Option(
                FLAGS, is_flag=True, expose_value=False, is_eager=True, callback=_remember,
                help="Show the traceback of an error.",
            )
        )  # fmt: skip
    return command


def _remember(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    session = context.find_object(Session)
    if session is not None:
        session.command = context.command_path
        session.verbose |= bool(value)
