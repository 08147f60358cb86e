"""``edgellm verify``: compare a bundle with its original model again."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm_core.cli.options import trust_option
from edgellm_core.cli.progress import listening
from edgellm_core.cli.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgellm_core.bundle import Bundle
    from edgellm_core.bundle.manifest import Record
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Listener, Reporter
    from edgellm_core.verification.gate import VerificationResult


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--source", help="The original model; by default the one that the bundle names.")
@click.option("--max-memory", metavar="SIZE", help="Budget of main memory, for example 8GiB.")
@click.option(
    "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder with plugins."
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event, the last with the result.")
def verify(
    bundle: Path,
    source: str | None,
    max_memory: str | None,
    plugin_paths: tuple[Path, ...],
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Compare the graph of BUNDLE with the checkpoint that it was built from: with the quantized one, where it is.

    A bundle that was exported without verification is marked as verified when it passes; nothing else is changed.
    """
    from edgellm_core.bundle import load_bundle
    from edgellm_core.events import stage_events
    from edgellm_core.pipeline.settings import parse_bytes

    budget = None if max_memory is None else parse_bytes(max_memory)
    loaded = load_bundle(bundle)
    opened = functools.partial(_open_source, loaded, source, plugin_paths, trust_remote_code=trust_remote_code)
    with listening(as_json=as_json) as listener:
        with stage_events("verify", listener) as report, loaded.reading():
            result, records = _compare(loaded, opened, budget, plugin_paths, report)
        _mark_verified(loaded, records, listener)
    if as_json:
        checks = [asdict(row) for row in result.rows]
        click.echo(json.dumps({"verification": records["verification"].model_dump(), "checks": checks}))
    else:
        _print_table(result)
        click.echo(f"The graph equals the {'quantized ' if loaded.manifest.quantization else ''}checkpoint.")
        if loaded.manifest.quantization:
            click.echo("How close that is to the unquantized original is another question: quality in bundle.json.")


def _mark_verified(bundle: Bundle, records: dict[str, Record], listener: Listener) -> None:
    """Write the proof into the manifest of a bundle that had none, if it still is the one that was compared."""
    from edgellm_core.bundle import read_manifest, write_manifest
    from edgellm_core.bundle.locking import locked

    if bundle.manifest.verification.status != "skipped":
        return
    with locked(bundle.directory, listener=listener):
        bundle.require_current()
        write_manifest(bundle.directory, read_manifest(bundle.directory).model_copy(update=records))


def _compare(
    bundle: Bundle,
    open_source: Callable[[Reporter], Checkpoint],
    max_memory: int | None,
    plugin_paths: tuple[Path, ...],
    report: Reporter,
) -> tuple[VerificationResult, dict[str, Record]]:
    """Return the rows of the comparison, and the manifest's records by key."""
    import onnx

    from edgellm_core.bundle.plugins import require_family, target_of
    from edgellm_core.host import PluginHost
    from edgellm_core.pipeline.answers import prove_settings
    from edgellm_core.pipeline.checks import require_types
    from edgellm_core.pipeline.twin import proof, stored_proof
    from edgellm_core.targets import load_class
    from edgellm_core.tokenization.writing import check_tokenizer
    from edgellm_core.verification.gate import verify_graph

    manifest = bundle.manifest
    host = PluginHost.load(plugin_paths)
    require_family(bundle, host)
    target = target_of(bundle, host)
    checkpoint = open_source(report)
    selection = host.select(checkpoint.config, forced=manifest.family.name, directory=checkpoint.directory)
    if target.files_check:
        for note in load_class(target.files_check)(bundle.llm, checkpoint, selection.family):
            report.note(note)
    tokenizer = check_tokenizer(checkpoint, selection.family, bundle.llm, manifest.tokenizer)
    if manifest.runtime is not None:
        prove_settings(checkpoint, manifest.runtime, bundle.model_path)
    graph = onnx.load(str(bundle.model_path), load_external_data=False)
    require_types(graph, checkpoint, selection, manifest.compute_precision, report)
    result = verify_graph(
        bundle.model_path,
        checkpoint,
        selection.family,
        precision=manifest.compute_precision,
        target=target,
        max_memory=max_memory,
        report=report,
    )
    twin = stored_proof(checkpoint, selection) or proof(checkpoint, selection, host, report, one_token=False)
    return result, {"verification": result.record().model_copy(update={"twin": twin}), "tokenizer": tokenizer}


def _open_source(
    bundle: Bundle, source: str | None, plugin_paths: tuple[Path, ...], report: Reporter, *, trust_remote_code: bool
) -> Checkpoint:
    """Open the original, and refuse another checkpoint than the one that the bundle was built from."""
    from edgellm_core.checkpoint.values import source_with_values
    from edgellm_core.host import PluginHost
    from edgellm_core.pipeline.sources import open_source
    from edgellm_core.quantization.layout import read_layout
    from edgellm_core.registry import ModelRegistry
    from edgellm_core.verification.errors import QuantizedSourceMissingError, SourceDiffersError

    registry = ModelRegistry.of_plugins(PluginHost.load(plugin_paths).records)
    recorded = bundle.manifest.source
    revision = None
    if source is None:
        source = recorded.id
        if recorded.kind == "package":
            named = (name for name in registry.names() if registry.get(name).package == recorded.id)
            source = next(named, recorded.id)
        elif recorded.kind == "hub":
            revision = recorded.revision
    checkpoint = open_source(
        source, registry=registry, revision=revision, report=report, trust_remote_code=trust_remote_code
    )
    quantized_by_build = any(stage.name == "quantize" for stage in bundle.manifest.stages)
    if quantized_by_build and read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors) is not None:
        return checkpoint  # what a build quantizes has no digest in the manifest; the gate compares every number of it
    found = source_with_values(checkpoint).digest
    if found != recorded.digest:
        raise SourceDiffersError(bundle.directory, source, recorded.digest, found)
    if quantized_by_build:
        raise QuantizedSourceMissingError(bundle.directory, source, bundle.manifest.precision)
    return checkpoint


def _print_table(result: VerificationResult) -> None:
    """Print one row for each check and prompt, then the whole."""
    from rich.table import Table

    table = Table("check", "prompt", "steps", "max_rel_err", "tokens equal", box=None, pad_edge=False)
    groups: dict[tuple[str, int], list[int]] = {}
    for index, row in enumerate(result.rows):
        groups.setdefault((row.case, row.prompt), []).append(index)
    for (case, prompt), indices in groups.items():
        rows = [result.rows[index] for index in indices]
        error = max(row.max_rel_err for row in rows)
        equal = "yes" if all(row.token_equal for row in rows) else "no (tie)"
        table.add_row(case, str(prompt + 1), str(len(rows)), f"{error:.2g}", equal)
    print_table(table)
    tokens = "equal greedy tokens" if result.greedy_tokens_equal else "greedy tokens that differ in ties only"
    click.echo(
        f"Passed: max_rel_err {result.max_rel_err:.2g} of {result.tolerance:g} allowed, top-1 "
        f"{result.top1_agreement:.2%}, KL {result.kl:.2g} nats, {tokens}.\nCompared with {result.reference}."
    )
