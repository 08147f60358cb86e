"""``edgellm build``: from a model to a published, verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgellm_core.cli.options import engine_options, model_options, quality_options, quantization_options
from edgellm_core.cli.progress import listening


@click.command()
@click.argument("source")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Directory to publish.  [default: build/SOURCE]")
@model_options
@quantization_options
@click.option("--verify", default="full", show_default=True, help="full or off.")
@quality_options
@click.option("--engine", default="auto", show_default=True, help="auto, none, tensorrt or tensorrt-rtx.")
@engine_options
@click.option("--max-memory", help="Budget of main memory, for example 8GiB.  [default: what is free]")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
def build(source: str, out: Path | None, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Build a verified bundle from SOURCE: a registry name, a hub id, a directory or a .gguf file."""
    from edgellm_core.pipeline.build import build as build_bundle
    from edgellm_core.pipeline.plan import make_plan

    settings = make_settings(**options)
    place = out or Path("build") / Path(source).name.removesuffix(".gguf")
    if dry_run:
        plan = make_plan(source, place, settings)
        click.echo(plan.to_json() if as_json else plan.to_text())
        return
    with listening(as_json=as_json) as listener:
        bundle = build_bundle(source, place, settings, listener=listener)
    if not as_json:
        _tell(bundle.directory, bundle.manifest)


def make_settings(*, no_cache: bool, max_memory: str | None = None, **options: Any) -> Any:
    """Turn the values of options into settings."""
    from edgellm_core.pipeline.settings import BuildSettings, parse_bytes

    return BuildSettings(
        use_cache=not no_cache,
        max_memory=parse_bytes(max_memory) if max_memory else None,
        **{**options, "plugin_paths": tuple(options["plugin_paths"])},
    )


def _tell(directory: Path, manifest: Any) -> None:
    proof = manifest.verification
    size = sum(record.bytes for record in manifest.files) / 2**20
    click.echo(f"{directory}: {size:.0f} MiB, target {manifest.target}, {manifest.precision}")
    if proof.status == "passed":
        equal = "equal" if proof.greedy_tokens_equal else "equal up to ties"
        kind = "quantized checkpoint" if manifest.quantization else "checkpoint"
        click.echo(
            f"The graph equals the {kind}: {proof.prompts} prompts against {proof.reference}, max relative error "
            f"{proof.max_rel_err:.2g} (tolerance {proof.tolerance:g}), greedy tokens {equal}."
        )
    else:
        click.echo("The graph was not compared with the checkpoint.")
    if manifest.quality:
        quality = manifest.quality
        click.echo(
            f"How close it is to the unquantized original, on {quality.tokens} tokens of {quality.text}: perplexity "
            f"{quality.perplexity:.4g} (original {quality.original_perplexity:.4g}), KL {quality.kl:.3g} nats, top-1 "
            f"{quality.top1_agreement:.2%}."
        )
    elif manifest.quantization:
        click.echo("How close it is to the unquantized original was not measured.")
    if manifest.sample:
        _tell_sample(manifest.sample)
    if manifest.engine:
        engine = manifest.engine
        where = f"SM {engine.compute_capability}" if engine.compute_capability else "any supported GPU"
        click.echo(f"Engine: {engine.backend} {engine.version} for {where}, {engine.bytes / 2**20:.0f} MiB.")


def _tell_sample(sample: Any) -> None:
    if sample.bundle is None:
        return
    click.echo(f"Asked {sample.question!r}, the bundle answers:\n  {_one_line(sample.bundle)}")
    if sample.original is not None:
        click.echo(f"and the original in float32:\n  {_one_line(sample.original)}")


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"
