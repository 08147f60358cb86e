"""``edgellm matrix``: which combinations of model, precision and limits are tested, and running them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm_core.cli.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from edgellm_core.engine import EngineChoice
    from edgellm_core.matrix.run import CaseResult
    from edgellm_core.matrix.selection import MatrixCase

DEFAULT_TIER = "l0"
"""What runs if neither a tier nor an entry is named: it needs no network and no GPU."""


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select entries."""
    options = [
        click.option("--tier", help="l0 (CPU, tiny checkpoints) or l1 (real checkpoints, GPU)."),
        click.option("--family", "families", multiple=True, help="Only the entries of these families."),
        click.option(
            "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder with plugins."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def matrix() -> None:
    """List and run the test matrix of the families."""


@matrix.command("list")
@selection_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def list_entries(plugin_paths: tuple[Path, ...], *, tier: str | None, families: tuple[str, ...], as_json: bool) -> None:
    """Show the entries, and what the product does not have yet for some."""
    cases = _select(plugin_paths, families, tier=tier)
    if as_json:
        click.echo(json.dumps([_case_json(case) for case in cases], indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("family", "tier", box=None, pad_edge=False)
    table.add_column("entry", no_wrap=True)  # so that it can be found and copied
    table.add_column("state")
    for case in cases:
        cells = (case.family, case.tier or "", str(case.entry), _state(case))
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    print_table(table)


@matrix.command("run")
@selection_options
@click.option("--entry", help="Only this entry; it need not be in a matrix.yaml.")
@click.option("--engine", default="none", show_default=True, help="none, auto, tensorrt or tensorrt-rtx.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes that share the entries.")
@click.option("--scheduler", help="Address of a Dask scheduler whose workers share the entries: tcp://HOST:PORT.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="File for the results as JUnit XML.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per entry.")
def run_entries(
    plugin_paths: tuple[Path, ...],
    *,
    tier: str | None,
    families: tuple[str, ...],
    entry: str | None,
    engine: EngineChoice,
    jobs: int,
    scheduler: str | None,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Build the entries and verify each against its original; tier l0 unless another or an entry is named."""
    from edgellm_core.matrix.junit import write_junit
    from edgellm_core.matrix.run import RunSettings
    from edgellm_core.matrix.spread import run_cases

    cases = _select(plugin_paths, families, tier=tier or (None if entry else DEFAULT_TIER), entry=entry)
    settings = RunSettings(engine=engine, plugin_paths=tuple(path.resolve() for path in plugin_paths))
    results = run_cases(cases, settings, jobs=jobs, scheduler=scheduler)
    told = list(_tell_each(results, len(cases), as_json=as_json))
    # Processes finish in any order; the file is in that of the selection, so that two runs can be compared.
    told.sort(key=lambda result: cases.index(result.case))
    if junit is not None:
        write_junit(junit, told)
    _conclude(told, as_json=as_json)


def _select(plugin_paths: Sequence[Path], families: Sequence[str], **selection: str | None) -> list[MatrixCase]:
    """Return the cases of each family, or of all."""
    from edgellm_core.host import PluginHost
    from edgellm_core.matrix.selection import select_cases
    from edgellm_core.registry import ModelRegistry

    host = PluginHost.load(plugin_paths, skip_named=True)
    registry = ModelRegistry.of_plugins(host.records)

    def skipped(sentence: str) -> None:
        click.echo(sentence, err=True)

    return [
        case
        for family in families or (None,)
        for case in select_cases(host, registry, family=family, skipped=skipped, **selection)
    ]


def _case_json(case: MatrixCase) -> dict[str, Any]:
    return {
        "family": case.family,
        "tier": case.tier,
        "entry": str(case.entry),
        "xfail": case.xfail,
        "not_yet": case.entry.unavailable(),
    }


def _state(case: MatrixCase) -> str:
    missing = case.entry.unavailable()
    if missing:
        return f"not yet: {'; '.join(missing)}"
    return "ready" if case.xfail is None else f"expected to fail: {case.xfail}"


def _tell_each(results: Iterator[CaseResult], total: int, *, as_json: bool) -> Iterator[CaseResult]:
    """Pass results on, and print each as it comes; people also see how long the run has taken."""
    if as_json:
        for result in results:
            click.echo(json.dumps(result.to_json()))
            yield result
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("entries", total=total)
        for result in results:
            progress.update(task, advance=1)
            click.echo(_line(result))
            yield result


def _line(result: CaseResult) -> str:
    error = "" if result.max_rel_err is None else f"  max relative error {result.max_rel_err:.2g}"
    parts = [f"{result.outcome:<8} {result.case}  {result.seconds:.1f} s{error}", result.message, result.details]
    return "\n  ".join(part for part in parts if part)


def _conclude(results: Sequence[CaseResult], *, as_json: bool) -> None:
    """Print the counts, and end with exit code 1 if an entry failed or nothing was tested."""
    from collections import Counter

    from edgellm_core.matrix.errors import EntriesFailedError, NothingRanError

    if not as_json:
        counts = Counter(result.outcome for result in results)
        click.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) + ".")
    failed = [str(result.case) for result in results if result.bad]
    if failed:
        raise EntriesFailedError(failed, len(results))
    if all(result.outcome == "skipped" for result in results):
        raise NothingRanError([str(result.case) for result in results])
