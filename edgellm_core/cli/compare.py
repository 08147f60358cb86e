"""``edgellm compare``: a model in several precisions, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm_core.cli.options import held_out_options, quantization_options, scores_option, source_options, wait_option
from edgellm_core.cli.progress import listening
from edgellm_core.cli.tables import print_table

if TYPE_CHECKING:
    from edgellm_core.report.comparison import Comparison


@click.command()
@click.argument("source")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory of report and bundles.")
@click.option("--precision", "precisions", required=True, help="Precisions and schemes, for example fp16,fp8,int4_awq.")
@click.option("--prompt", "prompts", multiple=True, help="Text that all answer.  [default: three of our own]")
@click.option("--max-new-tokens", type=int, default=48, show_default=True, help="Most tokens of an answer.")
@quantization_options
@held_out_options
@click.option("--verify", default="full", show_default=True, help="full or off.")
@scores_option
@source_options
@click.option("--max-memory", help="Budget of main memory, for example 8GiB.  [default: what is free]")
@click.option("--no-cache", is_flag=True, help="Ignore cached traces and finished stages.")
@click.option("--force", is_flag=True, help="Replace existing bundles.")
@wait_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
def compare(
    *,
    source: str,
    out: Path,
    precisions: str,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    as_json: bool,
    max_memory: str | None,
    no_cache: bool,
    **options: Any,
) -> None:
    """Build SOURCE in several precisions and compare size, quality, memory, time and answers.

    The report is OUT/compare.html, its numbers OUT/compare.json; each bundle is in OUT too. A precision that fails is
    shown with its message, and the command then ends with exit code 1.
    """
    from edgellm_core.pipeline.settings import parse_bytes
    from edgellm_core.report.compare import PAGE_FILE
    from edgellm_core.report.compare import compare as run
    from edgellm_core.report.errors import ComparisonIncompleteError
    from edgellm_core.report.settings import DEFAULT_PROMPTS, CompareSettings

    budget = parse_bytes(max_memory) if max_memory else None
    settings = CompareSettings(
        precisions=tuple(name.strip() for name in precisions.split(",") if name.strip()),
        prompts=prompts or DEFAULT_PROMPTS,
        max_new_tokens=max_new_tokens,
        build={
            **options,
            "plugin_paths": tuple(options["plugin_paths"]),
            "use_cache": not no_cache,
            "max_memory": budget,
        },
    )
    with listening(as_json=as_json) as listener:
        comparison = run(source, out, settings, listener=listener)
    if not as_json:
        _print_table(comparison)
        click.echo(f"Report: {out / PAGE_FILE}")
    if comparison.failed:
        raise ComparisonIncompleteError(comparison.failed, out / PAGE_FILE)


def _print_table(comparison: Comparison) -> None:
    from rich.table import Table

    table = Table("precision", "MiB", "perplexity", "KL", "top-1", "build s", "tokens/s", box=None, pad_edge=False)
    for result in comparison.results:
        if result.error is not None or result.bytes is None:
            table.add_row(result.precision, "failed")
            continue
        quality = ["–"] * 3
        if result.perplexity is not None and result.kl is not None and result.top1_agreement is not None:
            quality = [f"{result.perplexity:.4g}", f"{result.kl:.3g}", f"{result.top1_agreement:.2%}"]
        speed = "–" if result.tokens_per_second is None else f"{result.tokens_per_second:.1f}"
        table.add_row(result.precision, f"{result.bytes / 2**20:.1f}", *quality, f"{result.build_seconds:.1f}", speed)
    print_table(table)
