"""The ``edgellm`` command. Each subcommand lives in a file of its own and is imported only when it runs."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING, Final

import click

from edgellm_core.cli.signals import SHELL_CODE, sentence_of_stop, stop_on_signals
from edgellm_core.cli.verbose import Session, with_verbose
from edgellm_core.errors import EdgellmError, Stopped, UnknownNameError, sentence_of

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "build": ("edgellm_core.cli.build:build", "Build a verified bundle from a model."),
    "detect": ("edgellm_core.cli.detect:detect", "Say what a model is and what a build would take; read no weights."),
    "quantize": ("edgellm_core.cli.quantize:quantize", "Write a model with its linear layers quantized."),
    "export": ("edgellm_core.cli.export:export", "Export a model to ONNX without verification and engine."),
    "verify": ("edgellm_core.cli.verify:verify", "Compare an exported bundle with its original model."),
    "engine": ("edgellm_core.cli.engine:engine", "Build a TensorRT engine from a bundle's graph."),
    "surgery": ("edgellm_core.cli.surgery:surgery", "Rewrite an ONNX file of any exporter in standard operators."),
    "compare": ("edgellm_core.cli.compare:compare", "Build a model in several precisions and compare them."),
    "run": ("edgellm_core.cli.run:run", "Generate text from a bundle."),
    "bundle": ("edgellm_core.cli.bundle:bundle", "Compare the files of a bundle with their digests."),
    "plugins": ("edgellm_core.cli.plugins:plugins", "List the plugins, write a new pack, or prove a family."),
    "models": ("edgellm_core.cli.models:models", "List the models of the registry."),
    "matrix": ("edgellm_core.cli.matrix:matrix", "List and run the test matrix of the families."),
    "doctor": (
        "edgellm_core.cli.doctor:doctor",
        "Show versions, GPU and TensorRT, and what each missing piece enables.",
    ),
}
"""Command → where its click object lives, and its one-line help (so that ``--help`` imports none of them)."""


EXIT_DEFECT: Final = 70
"""Exit code of what nothing foresaw (``EX_SOFTWARE`` of BSD's sysexits.h)."""


class LazyGroup(click.Group):
    """A click group that imports a subcommand only when it is invoked; plugins are asked for names it lacks."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table, then those of plugins."""
        del ctx
        return [*COMMANDS, *(name for name in _plugin_commands() if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command; a plugin can't replace one of the core's."""
        del ctx
        if cmd_name not in COMMANDS:
            brought = _plugin_commands().get(cmd_name)
            return with_verbose(brought) if brought else None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return with_verbose(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command for an unknown one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UnknownNameError("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing the core's."""
        brought = _plugin_commands()
        rows = [
            (name, COMMANDS[name][1] if name in COMMANDS else brought[name].get_short_help_str())
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@functools.cache
def _plugin_commands() -> Mapping[str, click.Command]:
    from edgellm_core.host import PluginHost

    return PluginHost.load().commands()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgellm")
def edgellm() -> None:
    """Turn a Hugging Face language model into a verified bundle that an edge device can run."""


def main() -> None:
    """Run the command line; an ``EdgellmError`` becomes its message and exit code 1.

    Any other exception is a defect: one sentence with the stage, and exit code 70. ``-v`` shows tracebacks. Ctrl-C and
    SIGTERM end it with the codes 130 and 143.

    The cyclic garbage collector costs a third of the start-up of torch and transformers and frees next to nothing in
    a process this short, so it stays off.
    """
    gc.disable()
    session = Session()
    stop_on_signals()
    try:
        edgellm(standalone_mode=True, obj=session)
    except Stopped as stop:
        click.echo(f"\n{sentence_of_stop(stop, session.command)}", err=True)
        sys.exit(SHELL_CODE + stop.signal)
    except Exception as error:  # noqa: BLE001 - the last resort: what nothing foresaw
        if session.verbose:
            traceback.print_exception(error)
        click.echo(f"Error: {sentence_of(error, session.command)}", err=True)
        sys.exit(1 if isinstance(error, EdgellmError) else EXIT_DEFECT)
    finally:
        gc.freeze()


def console_script() -> None:
    """Run ``main`` as the whole process, and end it without taking the interpreter apart.

    Freeing a million objects of torch and transformers one by one takes 0.3 s and serves nothing; mypy ends the same
    way. Everything that was written is flushed first.
    """
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
