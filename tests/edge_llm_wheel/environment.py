"""The Python that has NVIDIA's wheel: one that exists, or a virtual environment that is made for it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

VARIABLE: Final = "EDGELLM_WHEEL_PYTHON"
"""Names the interpreter of an environment that has the wheel already."""

WHEEL: Final = "tensorrt-edgellm==0.11.0"

PINS: Final = (
    "torch==2.13.0", "transformers==5.14.1", "huggingface-hub<2", "onnx==1.19.0", "onnxscript==0.7.1",
    "safetensors==0.8.0", "numpy==2.2.6", "onnx-graphsurgeon==0.6.1",
)  # fmt: skip
"""What the wheel asks for; the rest of its requirements its exporter does not import."""

ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = ROOT / "build" / "edge-llm-wheel"

TIME_LIMIT: Final = 900
"""Seconds for one installation."""


def find_python() -> Path | None:
    """Return the interpreter that has the wheel; None if there is none."""
    stated = os.environ.get(VARIABLE)
    if stated:
        return Path(stated)
    made = DIRECTORY / "bin" / "python"
    return made if (DIRECTORY / "complete").is_file() else None


def make_environment() -> Path:
    """Make the virtual environment; return its interpreter.

    A torch of the right version is borrowed from the environment that runs this: it is most of what is to be installed.

    Raises:
        subprocess.CalledProcessError: a package can't be installed; its standard error says why.
    """
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(DIRECTORY))
    python = DIRECTORY / "bin" / "python"
    torch = importlib.metadata.distribution("torch")
    if f"torch=={torch.version.partition('+')[0]}" in PINS:
        packages = next((DIRECTORY / "lib").glob("python*")) / "site-packages"
        (packages / "borrowed.pth").write_text(f"{torch.locate_file('')}\n", encoding="utf-8")
    _run(str(python), "-m", "pip", "install", "--quiet", *PINS)
    _run(str(python), "-m", "pip", "install", "--quiet", "--no-deps", WHEEL)
    (DIRECTORY / "complete").touch()
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT)


@click.command()
def main() -> None:
    """Make the environment unless there is one; print its interpreter."""
    try:
        click.echo(find_python() or make_environment())
    except subprocess.CalledProcessError as error:
        message = f"{WHEEL} can't be installed: {error.stderr.strip()[-500:]}"
        raise click.ClickException(message) from error


if __name__ == "__main__":
    main()
