"""``edgellm surgery``: rewrite an ONNX file of any exporter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm_core.cli.options import wait_option
from edgellm_core.cli.progress import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgellm_core.pipeline.foreign.surgery import Check, SurgeryResult


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The new .onnx file.")
@click.option("--target", default="onnx", show_default=True, help="Whose operators attention and norms become.")
@click.option(
    "--check", type=click.Choice(["on", "off"]), default="on", show_default=True,
    help="Compare both files on random inputs in ONNX Runtime, or trust the rules.",
)  # fmt: skip
@click.option("--dim", "dims", multiple=True, metavar="NAME=N", help="Size of a symbolic dimension in the comparison.")
@click.option(
    "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder with plugins."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@wait_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event, the last with the result.")
def surgery(
    *,
    model: Path,
    out: Path,
    target: str,
    check: Check,
    dims: tuple[str, ...],
    plugin_paths: tuple[Path, ...],
    force: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Rewrite MODEL, an ONNX file of any exporter, in standard operators.

    Norms, rotary embeddings, attention and GELU in plain operators become one operator each, and what changes nothing
    is removed. No weight is rewritten: they stay in their data files, which are copied where OUT has another folder.

    With --target edge-llm a float16 decoder becomes the graph that TensorRT-Edge-LLM reads, with its embedding table in
    embedding.safetensors beside it.
    """
    from edgellm_core.pipeline.foreign.surgery import SurgerySettings, simplify_onnx

    sizes = dict(_parse_dim(text) for text in dims)
    settings = SurgerySettings(
        target=target, check=check, dims=sizes, force=force, wait=wait, plugin_paths=plugin_paths
    )
    with listening(as_json=as_json) as listener:
        result = simplify_onnx(model, out, settings, listener=listener)
    if as_json:
        click.echo(json.dumps({"surgery": result.as_json()}))
    else:
        click.echo("\n".join(_report(result)))


def _parse_dim(text: str) -> tuple[str, int]:
    from edgellm_core.errors import InvalidSettingError

    name, equals, size = text.rpartition("=")
    if not equals or not name or not size.isdigit():
        raise InvalidSettingError("--dim", "must be NAME=N", repr(text), "Write for example --dim batch=2.")
    return name, int(size)


def _report(result: SurgeryResult) -> Iterator[str]:
    """Yield the lines that people read: rules, operators, comparison."""
    yield f"{'rule':<28}applied  near misses"
    for row in result.rules:
        if row.applied or row.near_misses:
            yield f"{row.rule:<28}{row.applied:>7}  {len(row.near_misses):>11}".rstrip()
    for row in result.rules:
        reasons = dict.fromkeys(miss.reason for miss in row.near_misses)
        for reason in reasons:
            first = next(miss.node for miss in row.near_misses if miss.reason == reason)
            count = sum(miss.reason == reason for miss in row.near_misses)
            yield f"  {row.rule}: {count} left, first {first!r}: {reason}"
    yield ""
    yield f"{'operator':<28} before    after"
    before, after = result.operators_before, result.operators_after
    for operator in dict.fromkeys([*before, *after]):
        counts = before.get(operator, 0), after.get(operator, 0)
        if counts[0] != counts[1]:
            yield f"{operator:<28}{counts[0]:>7}  {counts[1]:>7}"
    yield f"{'all':<28}{sum(before.values()):>7}  {sum(after.values()):>7}"
    yield ""
    yield f"{result.out}: opset {result.opset_after} (was {result.opset_before}), {_compared(result)}"


def _compared(result: SurgeryResult) -> str:
    check = result.check
    if check is None:
        return "not compared (--check off)."
    return (
        f"equal to the input on {check.cases} sets of random inputs: max_rel_err {check.max_rel_err:.1e}, "
        f"limit {check.tolerance:g}."
    )
