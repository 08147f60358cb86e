"""``edgellm detect``: what a model is, and what a build of it would take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm_core.cli.options import trust_option
from edgellm_core.settings import ELEMENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from edgellm_core.checkpoint.detection import Detection
    from edgellm_core.checkpoint.dimensions import Dimensions


@click.command()
@click.argument("source")
@click.option("--family", metavar="NAME", help="Force this family.")
@click.option(
    "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Also load the plugins in this folder.",
)  # fmt: skip
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
@click.option("--precision", type=click.Choice(list(ELEMENT_TYPES)), default="fp16", show_default=True)
@click.option(
    "--deep", is_flag=True,
    help="Also do what a build does without weights: compare the tokenizer, trace, account for every tensor, prove "
    "long lengths on a small twin; and say, layer by layer, what a trace captures. Loads torch.",
)  # fmt: skip
@click.option("--target", default="onnx", show_default=True, help="With --deep: form of the graph.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def detect(source: str, *, deep: bool, as_json: bool, **options: Any) -> None:
    """Say which family and plugin SOURCE belongs to, its sizes, what a build takes, and what will not work.

    SOURCE is a name of the registry, owner/name on the hub, a directory, or a .gguf file. No weights are read.
    """
    from edgellm_core.api import detect as run

    detection = run(source, deep=deep, **options)
    if as_json:
        click.echo(json.dumps(detection.to_json(), indent=2, ensure_ascii=False))
        return
    for line in _lines(detection):
        click.echo(line)
    if deep:
        from edgellm_core.cli.survey import survey_lines

        for line in survey_lines(detection):
            click.echo(line)


def _lines(detection: Detection) -> Iterator[str]:
    """Write a detection for people."""
    summary, selection = detection.summary, detection.selection
    revision = f" at {summary.revision}" if summary.revision else ""
    origin = " ".join(part for part in (selection.plugin.origin, selection.plugin.version) if part)
    rows = [
        ("source", f"{summary.kind} {summary.id}{revision}"),
        ("family", selection.family.name),
        ("plugin", f"{selection.plugin.name} ({origin})"),
        ("why", selection.reason),
    ]
    if detection.nearest:
        rows.append(("nearest", ", ".join(detection.nearest) + "; force one with --family"))
    rows += _dimension_rows(summary.dimensions)
    if summary.parameters is not None and summary.bytes is not None:
        types = ", ".join(f"{name} {count / summary.parameters:.0%}" for name, count in summary.element_types.items())
        rows += [("parameters", f"{summary.parameters:,}"), ("bytes", f"{summary.bytes:,} ({types})")]
    yield from _aligned(rows)
    if summary.stages:
        yield ""
        yield f"Estimates for {summary.precision}, at most:"
        yield f"  {'stage':<16}{'memory':>10}{'disk':>12}"
        for stage in summary.stages:
            short = "   more than this machine has" if stage.ram > summary.ram_available else ""
            yield f"  {stage.stage:<16}{_size(stage.ram):>10}{_size(stage.disk):>12}{short}"
        yield f"  {'available':<16}{_size(summary.ram_available):>10}{_size(summary.disk_available):>12}"
    yield ""
    yield from detection.remarks
    if summary.will_not_work:
        yield "Will not work:"
        yield from (f"  - {problem}" for problem in summary.will_not_work)
    else:
        yield "Nothing that was checked speaks against a build."
    for title, items in (("Checked:", detection.checked), ("Not checked:", detection.not_checked)):
        yield title
        yield from (f"  - {item}" for item in items)


def _dimension_rows(dimensions: Dimensions) -> list[tuple[str, str]]:
    """Write the sizes of a model; what the config does not say is ``?``."""

    def show(value: int | None) -> str:
        return "?" if value is None else str(value)

    tied = {True: "tied", False: "separate", None: "?"}[dimensions.tied_embeddings]
    return [
        ("layers", show(dimensions.layers)),
        ("hidden size", show(dimensions.hidden_size)),
        (
            "attention",
            f"{show(dimensions.heads)} heads, {show(dimensions.kv_heads)} KV heads of {show(dimensions.head_dim)}",
        ),
        ("MLP", show(dimensions.intermediate_size)),
        ("vocabulary", f"{show(dimensions.vocab_size)}, output head {tied}"),
        ("context", f"{show(dimensions.context_length)} tokens"),
    ]


def _aligned(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Write rows of label and value in two columns."""
    for label, value in rows:
        yield f"{label:<12} {value}"


def _size(count: int) -> str:
    """Write a number of bytes in the unit that keeps it short."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
