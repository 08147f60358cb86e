"""``edgellm bundle``: what can be asked of a bundle alone, without torch and without its source."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def bundle() -> None:
    """Look at a bundle on disk."""


@bundle.command("verify")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify_digests(directory: Path, *, as_json: bool) -> None:
    """Compare every file of the bundle DIRECTORY with its SHA-256 in bundle.json, after copying it to a device.

    Files that are missing, changed, links, or listed nowhere are refused by name. Whether the graph is right is the
    question of ``edgellm verify``.
    """
    from edgellm_core.bundle import load_bundle

    manifest = load_bundle(directory).manifest
    nbytes = sum(record.bytes for record in manifest.files)
    if as_json:
        files = [record.model_dump() for record in manifest.files]
        click.echo(json.dumps({"bundle": str(directory), "files": files, "bytes": nbytes}, indent=2))
        return
    click.echo(f"{directory}: {len(manifest.files)} files, {nbytes / 2**20:,.1f} MiB, each as bundle.json says.")
    proof = manifest.verification
    click.echo(f"Its proof: {proof.status}, made on another occasion; edgellm verify repeats it with the original.")
