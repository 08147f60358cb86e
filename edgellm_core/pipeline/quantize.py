"""The stage ``quantize``: calibrates on text and writes a quantized checkpoint, which every later stage reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgellm_core.bundle.publishing import check_output, move_into_place
from edgellm_core.calibration.errors import OutputExistsError
from edgellm_core.checkpoint.location import Location
from edgellm_core.checkpoint.source import open_directory
from edgellm_core.errors import InvalidSettingError
from edgellm_core.events import Listener, Reporter, ignore_events
from edgellm_core.host import PluginHost, Selection
from edgellm_core.pipeline.errors import QuantizedCheckpointError
from edgellm_core.pipeline.fingerprint import code_digest, digest_of
from edgellm_core.pipeline.quantized import layout_of
from edgellm_core.pipeline.sources import open_source, unchanging
from edgellm_core.pipeline.workspace import StageRunner, open_workspace
from edgellm_core.quantization.layout import QUANT_CONFIG
from edgellm_core.registry import ModelRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.pipeline.quantization_settings import QuantizationSettings
    from edgellm_core.pipeline.workspace import Workspace


def quantize(
    source: str, out: Path, settings: QuantizationSettings, *, listener: Listener = ignore_events
) -> Checkpoint:
    """Write a quantized checkpoint.

    Args:
        source: name in the registry, hub id, directory, or ``.gguf`` file.
        out: directory to publish; must not exist, or be a quantized checkpoint and ``settings.force``.
        settings: what to do.
        listener: receives the events of all stages.

    Returns:
        The published checkpoint.

    Raises:
        EdgellmError: the model can't be quantized so; nothing is published.
    """
    if not settings.quantizes:
        remedy = "Choose fp8, int8_sq, int4_awq, nvfp4 or mxfp8."
        raise InvalidSettingError("--precision", "must be a quantization scheme", settings.precision, remedy)
    _refuse_output(out, force=settings.force)
    host = PluginHost.load(settings.plugin_paths)
    told = {"source": source, "out": str(out), "precision": settings.precision}
    runner = StageRunner(host=host, listener=listener, settings=told, outcomes=[])

    def opened(report: Reporter) -> tuple[Checkpoint, Selection]:
        checkpoint = open_source(
            source,
            registry=ModelRegistry.of_plugins(host.records),
            revision=settings.revision,
            report=report,
            trust_remote_code=settings.trust_remote_code,
            host=host,
        )
        return checkpoint, host.select(checkpoint.config, forced=settings.family, directory=checkpoint.directory)

    with open_workspace(
        out,
        lambda: _refuse_output(out, force=settings.force),
        use_cache=settings.use_cache,
        wait=settings.wait,
        listener=listener,
    ) as workspace:
        checkpoint, selection = runner.run("checkpoint", opened)
        with unchanging(checkpoint, runner):
            quantized = quantize_stage(checkpoint, selection, settings, host=host, workspace=workspace, runner=runner)
        runner.run("publish", lambda _report: move_into_place(quantized.directory, out, replace=out.exists()))
        return open_directory(out, Location(kind="directory", id=str(out), path=out))


def quantize_stage(
    checkpoint: Checkpoint,
    selection: Selection,
    settings: QuantizationSettings,
    *,
    host: PluginHost,
    workspace: Workspace,
    runner: StageRunner,
) -> Checkpoint:
    """Return the quantized twin of a checkpoint, in the workspace; a finished one is used again.

    Raises:
        QuantizedCheckpointError: its weights are quantized already.
        EdgellmError: the model can't be quantized so.
    """
    layout = layout_of(checkpoint)
    if layout is not None:
        raise QuantizedCheckpointError(checkpoint.source.id, layout.describe())
    fingerprint = digest_of(
        checkpoint.fingerprint(),
        runner.values(),  # layers that an earlier run rounded are taken by this, too
        settings.decisive(),
        selection.family.name,
        selection.plugin.name,
        code_digest(),
    )

    def body(report: Reporter) -> dict[str, Any]:
        return _calibrate(checkpoint, selection, settings, host, workspace.directory, fingerprint, report)

    result = runner.resume("quantize", workspace, fingerprint, body)
    location = Location(kind="directory", id=checkpoint.source.id)
    quantized = open_directory(
        workspace.directory / result["folder"], location, trust_remote_code=checkpoint.trust_remote_code
    )
    return replace(quantized, source=checkpoint.source)


def _calibrate(
    checkpoint: Checkpoint,
    selection: Selection,
    settings: QuantizationSettings,
    host: PluginHost,
    directory: Path,
    fingerprint: str,
    report: Reporter,
) -> dict[str, Any]:
    import torch

    from edgellm_core.calibration.run import quantize_checkpoint
    from edgellm_core.memory import collected_soon
    from edgellm_core.pipeline.calibration_text import calibration_text
    from edgellm_core.tracing.configuration import load_config

    config = load_config(
        checkpoint.directory,
        checkpoint.config,
        selection.family,
        host.nearest,
        trust_remote_code=checkpoint.trust_remote_code,
    )
    data = calibration_text(checkpoint, selection, settings, host=host, report=report)
    with collected_soon():
        folder = quantize_checkpoint(
            checkpoint,
            config,
            settings.request(host.schemes()),
            torch.from_numpy(data.ids),
            directory / "quantized",
            fingerprint=digest_of(fingerprint, data.digest),
            report=report,
        )
    described = {"source": data.source, "digest": data.digest, "samples": data.samples, "length": data.length}
    return {"folder": str(folder.relative_to(directory)), "data": described}


def _refuse_output(out: Path, *, force: bool) -> None:
    """Refuse an output that can't be written, or that ``publish`` would refuse."""
    ours = (out / QUANT_CONFIG).is_file() and (out / "config.json").is_file()
    if ours and not force:
        raise OutputExistsError(out, ours=True)
    if not ours and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputExistsError(out, ours=False)
    check_output(out.parent / f".{out.name}.new" if ours else out, force=False)
