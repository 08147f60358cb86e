"""Opens a source for a build: checkpoints that other tools quantized come in ModelOpt's form."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from edgellm_core.checkpoint.errors import SourceChangedError
from edgellm_core.checkpoint.location import Location
from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.checkpoint.source import open_checkpoint, open_directory
from edgellm_core.checkpoint.values import ValueDigests
from edgellm_core.errors import EdgellmError
from edgellm_core.pipeline.checks import check_config
from edgellm_core.pipeline.fingerprint import digest_of
from edgellm_core.quantization.importers import find_importer
from edgellm_core.quantization.layout import read_layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.events import Reporter
    from edgellm_core.host import PluginHost
    from edgellm_core.pipeline.workspace import StageRunner
    from edgellm_core.quantization.layout import QuantizationLayout
    from edgellm_core.registry import ModelRegistry


def open_source(
    source: str,
    *,
    registry: ModelRegistry,
    revision: str | None = None,
    report: Reporter,
    trust_remote_code: bool = False,
    host: PluginHost | None = None,
) -> Checkpoint:
    """Open a model like ``open_checkpoint``; convert it first where another tool quantized it.

    Tensors that several files hold are compared, byte by byte.

    Raises:
        UserError: the source can't be opened, or can't be represented; one class per cause.
    """
    checkpoint = open_checkpoint(
        source, registry=registry, revision=revision, report=report, trust_remote_code=trust_remote_code, host=host
    )
    check_config(checkpoint)
    if checkpoint.duplicates:
        from edgellm_core.weights.copies import require_equal_files

        require_equal_files(checkpoint.duplicates)
        report.note(_told_duplicates(checkpoint))
    importer = find_importer(checkpoint.config)
    if importer is None:
        layout = read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors)
        _require_scales(checkpoint.directory, layout, checkpoint.tensors)
        return checkpoint
    from edgellm_core.quantization.importers.conversion import canonical_directory
    from edgellm_core.verification.conversion_check import require_equal_conversion

    def check(made: Path) -> None:
        tensors = index_tensors(read_headers(made))
        _require_scales(checkpoint.directory, read_layout(made, {}, tensors), tensors)
        require_equal_conversion(made, checkpoint.directory, checkpoint.config, checkpoint.tensors, report)

    directory = canonical_directory(
        checkpoint.directory,
        checkpoint.config,
        checkpoint.tensors,
        importer,
        key=digest_of(checkpoint.fingerprint(), str(checkpoint.directory.resolve())),
        report=report,
        check=check,
    )
    location = Location(kind="directory", id=str(directory), path=directory)
    converted = open_directory(directory, location, trust_remote_code=trust_remote_code)
    return replace(converted, source=checkpoint.source, converted_from=checkpoint.source_files)


@contextmanager
def unchanging(checkpoint: Checkpoint, runner: StageRunner) -> Iterator[ValueDigests]:
    """Digest the values of a checkpoint beside the stages of the body, and refuse one that changed meanwhile.

    Args:
        checkpoint: what the stages read.
        runner: its stages depend on the values.

    Raises:
        SourceChangedError: its files were written while the body ran, whatever the body made of that.
    """
    before = checkpoint.fingerprint()
    try:
        with ValueDigests(checkpoint) as values:
            runner.values = values.all
            yield values
    except EdgellmError as error:
        if _fingerprint(checkpoint) != before:
            raise SourceChangedError(checkpoint.directory) from error
        raise
    if _fingerprint(checkpoint) != before:
        raise SourceChangedError(checkpoint.directory)


def _fingerprint(checkpoint: Checkpoint) -> str:
    try:
        return checkpoint.fingerprint()
    except OSError:  # a file is gone
        return ""


def _told_duplicates(checkpoint: Checkpoint) -> str:
    first, second = checkpoint.duplicates[0]
    names = {taken.name for taken, _other in checkpoint.duplicates}
    return (
        f"{len(names)} tensor(s) lie in several files with equal bytes, for example {first.name!r} in "
        f"{second.file.name} and {first.file.name}."
    )


def _require_scales(directory: Path, layout: QuantizationLayout | None, tensors: TensorIndex) -> None:
    if layout is None:
        return
    from edgellm_core.verification.scale_values import require_scales

    require_scales(directory, layout, tensors)
