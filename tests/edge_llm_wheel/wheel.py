"""Runs the wheel's exporter and packer in the wheel's own Python."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.engine.profiles import ProfileLimits

SCRIPT: Final = Path(__file__).with_name("export_with_wheel.py")

TIME_LIMIT: Final = 600
"""Seconds for all exports of one run; two dozen tiny ones take a minute."""


def run_script(python: Path, *arguments: str) -> str:
    """Run the script; return what it prints.

    Raises:
        RuntimeError: it fails.
    """
    command = [str(python), str(SCRIPT), *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False, cwd=SCRIPT.parent, env=environment
    )
    if run.returncode:
        message = f"{' '.join(command[:3])} ended with {run.returncode}:\n{run.stderr[-2000:]}"
        raise RuntimeError(message)
    return run.stdout


def export_all(python: Path, pairs: Sequence[tuple[Path, Path]]) -> list[dict[str, Any]]:
    """Export checkpoints in one process; return seconds and error of each.

    Args:
        python: interpreter that has the wheel.
        pairs: checkpoint and folder to create.
    """
    lines = run_script(python, *(str(path) for pair in pairs for path in pair)).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def builder_ranges(python: Path, limits: ProfileLimits) -> dict[str, Any]:
    """Return what the wheel's engine builder makes of limits; see ``ranges`` in the script."""
    stated = (limits.max_batch_size, limits.max_input_len, limits.max_seq_len)
    found: dict[str, Any] = json.loads(run_script(python, "--ranges", *map(str, stated)))
    return found


def pack_all(python: Path, numbers: Mapping[str, Any], folder: Path, packer: str = "pack") -> dict[str, Any]:
    """Pack arrays of numbers from 0 to 15 ``[outputs, inputs]`` with the wheel's packer.

    Args:
        python: interpreter that has the wheel.
        numbers: arrays by name.
        folder: where files may be written.
        packer: ``pack``, or ``pack-experts`` for ``[experts, outputs, inputs]`` and ``NAME.scales``.
    """
    import numpy as np

    np.savez(folder / "numbers.npz", **numbers)
    run_script(python, f"--{packer}", str(folder / "numbers.npz"), str(folder / "packed.npz"))
    with np.load(folder / "packed.npz") as packed:
        return {name: packed[name] for name in packed.files}
