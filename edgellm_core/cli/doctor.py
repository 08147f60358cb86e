"""``edgellm doctor``: what this machine has, and what each missing piece would enable."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgellm_core.doctor import Diagnosis


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(*, as_json: bool) -> None:
    """Show versions, GPU, TensorRT, memory and disk, and what each missing piece would enable."""
    from edgellm_core.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(diagnosis), indent=2, ensure_ascii=False))
        return
    for line in _lines(diagnosis):
        click.echo(line)


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    yield f"edgellm   {diagnosis.edgellm}"
    yield f"Python    {diagnosis.python} on {diagnosis.system}"
    yield f"CPU       {diagnosis.cores} cores"
    yield f"RAM       {_gigabytes(diagnosis.ram_free_bytes)} free of {_gigabytes(diagnosis.ram_bytes)}"
    state = "free" if diagnosis.cache_writable else "free, not writable"
    yield f"Cache     {diagnosis.cache} ({_gigabytes(diagnosis.cache_free_bytes)} {state})"
    for gpu in diagnosis.gpus:
        memory = _gigabytes(gpu.memory_bytes)
        yield f"GPU       {gpu.name}, SM {gpu.compute_capability}, {memory}, CUDA {diagnosis.cuda}"
    if not diagnosis.gpus:
        yield "GPU       none"
    yield "Packages"
    width = max(len(package.name) for package in diagnosis.packages)
    for package in diagnosis.packages:
        mark = "!" if not package.fits or (package.installed is None and not package.optional) else " "
        wanted = f"  (edgellm needs {package.required})" if mark == "!" and package.required else ""
        yield f" {mark} {package.name:<{width}}  {package.installed or 'missing'}{wanted}"
    if diagnosis.hints:
        yield "Hints"
        yield from (f"  - {hint}" for hint in diagnosis.hints)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
