"""Runs model types one by one, each in a process of its own: ``python -m tests.coverage.walk [TYPE…] [--write]``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import click

from tests.coverage.model_types import decoder_only_types
from tests.coverage.results import STATUSES, Record, merge_results, write_results

ROOT: Final = Path(__file__).parents[2]

TIME_LIMIT: Final = 900
"""Seconds for one type, which usually takes ten; hybrids with delta nets take minutes."""


def walk_type(model_type: str) -> Record:
    """Run one type in a process of its own; return its record with the seconds that it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "record.json")
        command = [sys.executable, "-m", "tests.coverage.one_type", model_type, str(path)]
        environment = {**os.environ, "EDGELLM_CACHE": folder, "TMPDIR": folder, "EDGELLM_PLUGIN_PATH": ""}
        try:
            run = subprocess.run(
                command, cwd=ROOT, env=environment, timeout=TIME_LIMIT, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            return {"status": "crashed", "reason": f"no end after {TIME_LIMIT} s", "seconds": TIME_LIMIT}
        seconds = round(time.monotonic() - began)
        if run.returncode or not path.is_file():
            lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            return {"status": "crashed", "reason": lines[-1].replace(folder, "")[:240], "seconds": seconds}
        return {**json.loads(path.read_text(encoding="utf-8")), "seconds": seconds}


@click.command()
@click.argument("types", nargs=-1)
@click.option("--jobs", default=1, show_default=True, help="Types at a time; each takes about 1 GB.")
@click.option("--write", is_flag=True, help="Merge into results.json; without TYPE the file is written anew.")
@click.option("--missing", is_flag=True, help="Only the types that results.json lacks for the installed versions.")
def walk(types: tuple[str, ...], jobs: int, *, write: bool, missing: bool) -> None:
    """Walk TYPE…, or every decoder-only causal language model that the installed transformers registers."""
    known = decoder_only_types()
    unknown = ", ".join(sorted(set(types) - set(known)))
    if unknown:
        message = f"{unknown}: not among the decoder-only types of this transformers"
        raise click.BadParameter(message)
    fresh: dict[str, Record] = {}
    chosen = types or (sorted(set(known) - set(merge_results({}))) if missing else known)
    with ThreadPoolExecutor(jobs) as pool:
        for model_type, record in zip(chosen, pool.map(walk_type, chosen), strict=True):
            fresh[model_type] = record
            said = record.get("reason") or f"{record['max_rel_err']:.0e} {record['family']}"
            click.echo(f"{model_type:24} {record['status']:8} {record['seconds']:4} s  {said}")
            if write:  # each time, so that a walk that is ended keeps what it found
                write_results(merge_results(fresh))
    if write and not types and not missing:
        write_results(fresh)
    counts = Counter(record["status"] for record in fresh.values())
    click.echo(", ".join(f"{counts[status]} {status}" for status in STATUSES))
    sys.exit(1 if counts["wrong"] or counts["crashed"] else 0)


if __name__ == "__main__":
    walk()
