"""``detect``: what a model is, what a build would take, and what headers, config and names show to be wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.detection import Detection, judge
from edgellm_core.checkpoint.preflight import Metadata, read_metadata
from edgellm_core.checkpoint.source import Checkpoint, open_directory
from edgellm_core.errors import UserError
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.checks import FILE_CHECKS
from edgellm_core.registry import ModelRegistry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from edgellm_core.pipeline.checks import FileCheck

HEADERS: Final = "names, headers and index of the files of weights"
SIZES: Final = "architecture and sizes in config.json, memory and disk"

VALUES: Final = (
    "values of weights: finite, in the range of the precision, and equal where a tensor is held twice or tied"
)
NUMBERS: Final = "numbers: what the graph computes, on the prompts of verification"
DEEP_ONLY: Final = (
    "keys of config.json, what a trace captures, names and shapes of tensors against the model's, long lengths (--deep)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionSettings:
    """What a detection is asked.

    Attributes:
        family: family to force.
        plugin_paths: folders with plugins.
        revision: branch, tag or commit of a hub repository.
        precision: precision that estimates and graph are for.
        target: form of the graph; for ``--deep``.
        trust_remote_code: run the modeling code that the checkpoint brings itself; from the hub it is downloaded. For
            ``--deep``.
    """

    family: str | None = None
    plugin_paths: Sequence[Path] = ()
    revision: str | None = None
    precision: str = "fp16"
    target: str = "onnx"
    trust_remote_code: bool = False


def detect(source: str, settings: DetectionSettings) -> Detection:
    """Say what a model is and what a build of it would take; reads no weights.

    Args:
        source: name in the registry, ``owner/name`` on the hub, a directory, or a ``.gguf`` file.
        settings: what is asked.

    Raises:
        UserError: the source can't be found or read, or the family is unknown.
    """
    _, metadata, detection = read_and_judge(source, settings)
    light = tuple(check for check in FILE_CHECKS if check.light)
    heavy = [f"{check.what} (--deep)" for check in FILE_CHECKS if not check.light]
    checked = with_file_checks(detection, local_checkpoint(metadata), light)
    return told(checked, not_checked=[*heavy, DEEP_ONLY, VALUES, NUMBERS])


def read_and_judge(source: str, settings: DetectionSettings) -> tuple[PluginHost, Metadata, Detection]:
    """Load the plugins, read what describes a source, and say what it is.

    Raises:
        UserError: the source can't be found or read, or the family is unknown.
    """
    host = PluginHost.load(plugin_paths=settings.plugin_paths)
    metadata = read_metadata(
        source, registry=ModelRegistry.of_plugins(host.records), revision=settings.revision, host=host
    )
    return host, metadata, judge(metadata, host, family=settings.family, precision=settings.precision)


def local_checkpoint(metadata: Metadata, *, trust_remote_code: bool = False) -> Checkpoint | None:
    """Return a checkpoint whose directory is on this machine; None for a GGUF file, the hub and pickle files."""
    if metadata.directory is None or metadata.tensors is None:
        return None
    return open_directory(metadata.directory, metadata.location, trust_remote_code=trust_remote_code)


def with_file_checks(detection: Detection, checkpoint: Checkpoint | None, checks: Sequence[FileCheck]) -> Detection:
    """Return a detection with what checks of files found; without files they count as not run."""
    names = tuple(check.what for check in checks)
    known = told(detection, checked=[HEADERS, SIZES])
    if checkpoint is None:
        return told(known, not_checked=[f"{name} (the files are not here)" for name in names])
    found = told(add_problems(known, _refusals(checkpoint, checks)), checked=names)
    return replace(found, remarks=tuple(checkpoint.remarks))


def told(detection: Detection, *, checked: Iterable[str] = (), not_checked: Iterable[str] = ()) -> Detection:
    """Return a detection that says of further things whether they were checked."""
    return replace(
        detection,
        checked=(*detection.checked, *checked),
        not_checked=(*detection.not_checked, *not_checked),
    )


def add_problems(detection: Detection, problems: Iterable[str]) -> Detection:
    """Return a detection with further sentences about what will not work, each once."""
    stated = dict.fromkeys((*detection.summary.will_not_work, *problems))
    return replace(detection, summary=replace(detection.summary, will_not_work=tuple(stated)))


def _refusals(checkpoint: Checkpoint, checks: Iterable[FileCheck]) -> Iterable[str]:
    for check in checks:
        try:
            check.run(checkpoint)
        except UserError as error:
            yield str(error)
