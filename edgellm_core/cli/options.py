"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def _with_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """Add options to a command, so that its help lists them in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: Command) -> Command:
    """Add the options that say which graph is made of a model."""
    options = [
        click.option("--target", default="onnx", show_default=True, help="Form of the graph."),
        click.option(
            "--precision",
            default="fp16",
            show_default=True,
            help="fp16, fp32, bf16, or a quantization scheme: fp8, int8_sq, int4_awq, nvfp4, mxfp8.",
        ),
        scores_option,
        source_options,
        click.option("--full-depth", is_flag=True, help="Trace every layer instead of stamping one of each kind."),
        click.option("--no-cache", is_flag=True, help="Ignore cached traces and finished stages."),
        click.option("--force", is_flag=True, help="Replace an existing bundle."),
        wait_option,
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event."),
    ]
    return _with_options(command, options)


def source_options(command: Command) -> Command:
    """Add the options that say what a model is and where it comes from."""
    options = [
        click.option("--family", help="Treat the model as this family; the gate still decides."),
        click.option("--revision", help="Branch, tag or commit of a hub repository."),
        click.option(
            "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder with plugins."
        ),
        trust_option,
    ]
    return _with_options(command, options)


def quantization_options(command: Command) -> Command:
    """Add the options that say what is quantized, and on which text it is calibrated."""
    options = [
        click.option("--lm-head", help="Scheme of the head.  [default: floats]"),
        click.option("--kv-cache", help="fp8 stores keys and values in 8 bits.  [default: floats]"),
        click.option(
            "--group-size", type=int, help="Inputs that share one scale.  [default: the most that divide all]"
        ),
        click.option(
            "--rounding", help="nearest, or compensated: later weights take up errors.  [default: the scheme's]"
        ),
        click.option("--skip", multiple=True, help="Leave modules in floats, for example 'model.layers.0.*'."),
        click.option("--calib-data", help="builtin, cnn_dailymail, wikitext, a hub data set, or a file."),
        click.option("--calib-samples", type=int, help="Samples to calibrate on.  [default: 512]"),
        click.option("--calib-length", type=int, default=512, show_default=True, help="Tokens of each sample."),
        click.option("--calib-seed", type=int, default=0, show_default=True, help="Decides the order of the texts."),
        click.option("--calib-column", help="Column of a data set or table.  [default: text]"),
        click.option("--calib-chat", is_flag=True, help="Write each text as a conversation in the model's format."),
        click.option("--device", default="auto", show_default=True, help="Where to calibrate: auto, cpu or cuda."),
    ]
    return _with_options(command, options)


def scores_option(command: Command) -> Command:
    """Add the option that says how attention scores are computed."""
    return click.option(
        "--attention-scores",
        default="auto",
        show_default=True,
        help="auto, or fp32: compute attention in float32 in a graph of fp16 or bf16.",
    )(command)


def wait_option(command: Command) -> Command:
    """Add the option that says what to do where another process writes the same output."""
    return click.option(
        "--wait/--no-wait",
        default=True,
        show_default=True,
        help="Wait while another process writes the same output, or refuse.",
    )(command)


def trust_option(command: Command) -> Command:
    """Add the option that lets a checkpoint's own modeling code run."""
    return click.option(
        "--trust-remote-code", is_flag=True, help="Run the modeling code that the checkpoint brings itself (auto_map)."
    )(command)


def quality_options(command: Command) -> Command:
    """Add the options that say whether the cost of a precision is measured, and its limit."""
    options = [
        click.option(
            "--quality", default="auto", show_default=True, help="on, off, or auto: where the build is quantized."
        ),
        click.option("--max-kl", type=float, help="Largest mean KL divergence from the original, in nats."),
        held_out_options,
    ]
    return _with_options(command, options)


def held_out_options(command: Command) -> Command:
    """Add the options that say how much held-out text the quality is measured on."""
    options = [
        click.option("--quality-samples", type=int, default=16, show_default=True, help="Samples of held-out text."),
        click.option("--quality-length", type=int, default=512, show_default=True, help="Tokens of each sample."),
    ]
    return _with_options(command, options)


def engine_options(command: Command) -> Command:
    """Add the options that say which engine is built."""
    options = [
        click.option("--sm", "compute_capability", type=int, help="Compute capability of the GPU, for example 120."),
        click.option("--max-batch-size", type=int, help="Largest batch of the engine."),
        click.option("--max-input-len", type=int, help="Longest prompt of the engine, in tokens."),
        click.option("--max-seq-len", type=int, help="Longest sequence of the engine (KV cache capacity), in tokens."),
    ]
    return _with_options(command, options)
