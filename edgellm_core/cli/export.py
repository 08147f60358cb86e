"""``edgellm export``: trace, surgery and weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgellm_core.cli.build import make_settings
from edgellm_core.cli.options import model_options, quantization_options
from edgellm_core.cli.progress import listening


@click.command()
@click.argument("source")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory to publish.")
@model_options
@quantization_options
def export(source: str, out: Path, as_json: bool, **options: Any) -> None:
    """Export SOURCE to ONNX, without verification and engine; ``edgellm verify`` and ``engine`` can follow."""
    from edgellm_core.pipeline.build import build

    settings = make_settings(**options, verify="off", quality="off", engine="none")
    with listening(as_json=as_json) as listener:
        bundle = build(source, out, settings, listener=listener)
    if not as_json:
        click.echo(f"{bundle.directory}: exported, not verified. Run: edgellm verify {bundle.directory}")
