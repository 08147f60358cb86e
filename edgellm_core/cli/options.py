"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def model_options(command: Command) -> Command:
    """Add the options that say which graph is made of a model."""
    options = [
        click.option("--target", default="onnx", show_default=True, help="Form of the graph."),
        click.option("--precision", default="fp16", show_default=True, help="fp16, fp32 or bf16."),
        click.option("--family", help="Treat the model as this family; the gate still decides."),
        click.option("--revision", help="Branch, tag or commit of a hub repository."),
        click.option(
            "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder with plugins."
        ),
        click.option("--full-depth", is_flag=True, help="Trace every layer instead of stamping one of each kind."),
        click.option("--no-cache", is_flag=True, help="Ignore cached traces and finished stages."),
        click.option("--force", is_flag=True, help="Replace an existing bundle."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event."),
    ]
    for option in reversed([*options, trust_option]):
        command = option(command)
    return command


def trust_option(command: Command) -> Command:
    """Add the option that lets a checkpoint's own modeling code run."""
    return click.option(
        "--trust-remote-code", is_flag=True, help="Run the modeling code that the checkpoint brings itself (auto_map)."
    )(command)


def quality_options(command: Command) -> Command:
    """Add the options that say how the cost of a precision is measured, and its limit."""
    options = [
        click.option(
            "--quality", default="auto", show_default=True, help="on, off, or auto: where the build is quantized."
        ),
        click.option("--max-kl", type=float, help="Largest mean KL divergence from the original, in nats."),
        click.option("--quality-samples", type=int, default=16, show_default=True, help="Samples of held-out text."),
        click.option("--quality-length", type=int, default=512, show_default=True, help="Tokens of each sample."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def engine_options(command: Command) -> Command:
    """Add the options that say which engine is built."""
    options = [
        click.option("--sm", "compute_capability", type=int, help="Compute capability of the GPU, for example 120."),
        click.option("--max-batch-size", type=int, help="Largest batch of the engine."),
        click.option("--max-input-len", type=int, help="Longest prompt of the engine, in tokens."),
        click.option("--max-seq-len", type=int, help="Longest sequence of the engine (KV cache capacity), in tokens."),
    ]
    for option in reversed(options):
        command = option(command)
    return command
