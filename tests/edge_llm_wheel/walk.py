"""Exports every case with both exporters and compares: ``python -m tests.edge_llm_wheel.walk [--write]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.edge_llm_wheel.checkpoints import CASES, write_checkpoint
from tests.edge_llm_wheel.compare import ROUNDING, compare_exports
from tests.edge_llm_wheel.contract import contract_differences
from tests.edge_llm_wheel.environment import find_python, make_environment
from tests.edge_llm_wheel.graph import Graph
from tests.edge_llm_wheel.ours import export_ours
from tests.edge_llm_wheel.results import Record, write_results
from tests.edge_llm_wheel.wheel import export_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.edge_llm_wheel.compare import Difference


def our_record(checkpoint: Path, out: Path, theirs: Path) -> Record:
    """Export a checkpoint with edgellm; return its status and what differs from the wheel's export, or why it can't."""
    from edgellm_core.errors import EdgellmError

    try:
        ours = export_ours(checkpoint, out)
    except EdgellmError as error:
        return {"status": "refused", "reason": " ".join(str(error).replace(f"{checkpoint.parent.parent}/", "").split())}
    found = compare_exports(ours, theirs)
    status = "different" if any(one.category != ROUNDING for one in found) else "rounded" if found else "identical"
    return {"status": status, "nodes": len(Graph(ours / "model.onnx").nodes), "differences": lines_of(found)}


def lines_of(differences: Sequence[Difference]) -> list[str]:
    """Return each difference in a line, those of all layers once."""
    texts = [str(one) for one in differences]
    return list(dict.fromkeys(text for text in texts if "layers.1." not in text))


def walk_all(folder: Path, python: Path) -> dict[str, Record]:
    """Return the record of each case.

    Args:
        folder: where checkpoints and exports go.
        python: interpreter that has the wheel.
    """
    checkpoints = {case: write_checkpoint(folder / "checkpoints", *case) for case in CASES}
    theirs = {case: folder.joinpath("theirs", *case) for case in CASES}
    runs = export_all(python, [(checkpoints[case], theirs[case]) for case in CASES])
    records = {}
    for case, run in zip(CASES, runs, strict=True):
        if run["error"]:
            message = f"the wheel can't export {'-'.join(case)}: {run['error']}"
            raise click.ClickException(message)
        contract = contract_differences(theirs[case], checkpoints[case], case[0])
        wheel = {"nodes": len(Graph(theirs[case] / "model.onnx").nodes), "differences": lines_of(contract)}
        ours = our_record(checkpoints[case], folder.joinpath("ours", *case), theirs[case])
        records["-".join(case)] = {"wheel": wheel, "ours": ours}
        click.echo(f"{'-'.join(case):28} wheel {len(contract)} from the contract, ours {ours['status']}")
    return records


@click.command()
@click.option("--write", is_flag=True, help="Write results.json anew.")
def walk(*, write: bool) -> None:
    """Compare all cases; the exit code is 1 if one of ours differs, or one of the wheel is not by the contract."""
    python = find_python() or make_environment()
    with tempfile.TemporaryDirectory() as folder:
        records = walk_all(Path(folder), python)
    if write:
        write_results(records)
    bad = [record["ours"]["status"] == "different" or record["wheel"]["differences"] for record in records.values()]
    sys.exit(1 if any(bad) else 0)


if __name__ == "__main__":
    walk()
