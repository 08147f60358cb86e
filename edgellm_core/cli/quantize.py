"""``edgellm quantize``: from a model in floats to a quantized checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgellm_core.cli.options import quantization_options, source_options, wait_option
from edgellm_core.cli.progress import listening


@click.command()
@click.argument("source")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory to publish.")
@click.option("--precision", required=True, help="fp8, int8_sq, int4_awq, nvfp4, mxfp8, or a scheme of a plugin.")
@quantization_options
@source_options
@click.option("--no-cache", is_flag=True, help="Start anew instead of going on after the last finished layer.")
@click.option("--force", is_flag=True, help="Replace an existing quantized checkpoint.")
@wait_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event.")
def quantize(source: str, out: Path, as_json: bool, no_cache: bool, **options: Any) -> None:
    """Write SOURCE with its linear layers quantized, as a Hugging Face checkpoint in ModelOpt's form."""
    from edgellm_core.pipeline.quantization_settings import QuantizationSettings
    from edgellm_core.pipeline.quantize import quantize as run

    settings = QuantizationSettings(use_cache=not no_cache, **options)
    with listening(as_json=as_json) as listener:
        checkpoint = run(source, out, settings, listener=listener)
    if not as_json:
        size = sum(header.file_bytes for header in checkpoint.headers) / 2**20
        click.echo(f"{checkpoint.directory}: {size:.0f} MiB, {settings.precision}")
        click.echo(f"Build from it: edgellm build {checkpoint.directory}")
        measured = f"edgellm compare {source} --precision {settings.precision} -o DIR"
        click.echo(f"How close it is to the original: {measured}")
