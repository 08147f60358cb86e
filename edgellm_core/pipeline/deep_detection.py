"""``detect --deep``: the detection of a model, what a trace captures, and where each tensor would go."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.detection import Detection
from edgellm_core.errors import EdgellmError
from edgellm_core.events import Reporter
from edgellm_core.pipeline.checks import FILE_CHECKS, check_config
from edgellm_core.pipeline.detection import (
    NUMBERS,
    VALUES,
    DetectionSettings,
    add_problems,
    local_checkpoint,
    read_and_judge,
    told,
    with_file_checks,
)
from edgellm_core.pipeline.examination import Examined, checkpoint_to_examine, examine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

    from edgellm_core.bundle.manifest import TwinRecord
    from edgellm_core.checkpoint.preflight import Metadata
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.host import PluginHost
    from edgellm_core.tracing.survey import Survey
    from edgellm_core.weights.left_out import LeftOut

TRACED: Final = "keys of config.json, and what a trace captures"
ACCOUNTED: Final = "names, shapes and types of tensors against the model's, and the form of the target"
LENGTHS: Final = "long lengths, on a small twin of the model with random weights"
TOKENIZER: Final = "tokenizer and chat templates against transformers' own"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepDetection(Detection):
    """What ``detect --deep`` found out.

    Attributes:
        survey: what a trace would capture, layer by layer.
        left_out: what of the checkpoint would not be in the graph.
        twin: how long lengths were proved; None where the twin differs, or was not reached.
    """

    survey: Survey
    left_out: Sequence[LeftOut] = ()
    twin: TwinRecord | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything in types of JSON."""
        left_out = [asdict(group) for group in self.left_out]
        twin = self.twin and self.twin.model_dump(mode="json")
        return {**Detection.to_json(self), "left_out": left_out, "twin": twin, "deep": asdict(self.survey)}


def detect_deep(source: str, settings: DetectionSettings) -> DeepDetection:
    """Say what a model is, what a build would take, and what it would do without its weights; reads none.

    Args:
        source: name in the registry, ``owner/name`` on the hub, a directory, or a ``.gguf`` file.
        settings: what is asked.

    Raises:
        UserError: the source can't be found or read, or the family is unknown. A model that can't be traced is no
            error here; the summary says what will not work.
    """
    host, metadata, plain = read_and_judge(source, settings)
    local = local_checkpoint(metadata)
    detection = with_file_checks(plain, local, FILE_CHECKS)
    left_out: Sequence[LeftOut] = ()
    twin = None
    with tempfile.TemporaryDirectory(prefix="edgellm-detect-") as folder:
        try:
            checkpoint = checkpoint_to_examine(
                metadata, Path(folder), host, trust_remote_code=settings.trust_remote_code
            )
        except EdgellmError as error:
            detection, checkpoint = add_problems(detection, [str(error)]), None
        found = _survey(detection, metadata, checkpoint, host, settings.precision)
        detection = told(detection, checked=[TRACED])
        if found.refusal is not None:
            detection = add_problems(detection, [found.refusal])
        if checkpoint is None or found.refusal is not None:
            detection = told(detection, not_checked=[TOKENIZER, ACCOUNTED, LENGTHS])
        else:
            examined = Examined(
                checkpoint=checkpoint,
                original=local,
                selection=detection.selection,
                target=settings.target,
                precision=settings.precision,
                host=host,
                folder=Path(folder) / "llm",
                report=Reporter("detect"),
            )
            examined.folder.mkdir()
            detection = _with_examination(detection, examined)
            left_out, twin = examined.left_out, examined.twin
    detection = told(detection, not_checked=[VALUES, NUMBERS])
    known = {field.name: getattr(detection, field.name) for field in fields(detection)}
    return DeepDetection(**known, survey=found, left_out=left_out, twin=twin)


def _with_examination(detection: Detection, examined: Examined) -> Detection:
    """Examine a checkpoint; return the detection with what that found, and what it could not look at."""
    detection = add_problems(detection, examine(examined))
    proved, twin = examined.traced is not None, examined.twin
    unproved = f"{LENGTHS} ({twin.reason})" if twin and twin.reason else LENGTHS
    checks = {
        TOKENIZER: examined.original is not None,
        ACCOUNTED: True,
        unproved: proved and unproved == LENGTHS,
    }
    return told(
        detection,
        checked=[name for name, done in checks.items() if done],
        not_checked=[name for name, done in checks.items() if not done],
    )


def _survey(
    detection: Detection, metadata: Metadata, checkpoint: Checkpoint | None, host: PluginHost, precision: str
) -> Survey:
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.tracing.survey import survey

    family = detection.selection.family

    def load() -> PreTrainedConfig:
        if checkpoint is not None:
            check_config(checkpoint)
        if checkpoint is None:
            directory = metadata.directory or Path(metadata.location.id)
            return load_config(directory, metadata.config, family, host.nearest)
        trusted = checkpoint.trust_remote_code
        return load_config(checkpoint.directory, checkpoint.config, family, host.nearest, trust_remote_code=trusted)

    return survey(load, family, precision)
