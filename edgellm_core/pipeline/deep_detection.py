"""``detect --deep``: the detection of a model, what a trace captures, and where each tensor would go."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.detection import Detection, judge
from edgellm_core.checkpoint.preflight import read_metadata
from edgellm_core.errors import EdgellmError
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.checks import FILE_CHECKS
from edgellm_core.pipeline.detection import NUMBERS, VALUES, add_problems, local_checkpoint, told, with_file_checks
from edgellm_core.pipeline.examination import Examined, checkpoint_to_examine, examine
from edgellm_core.registry import ModelRegistry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

    from edgellm_core.checkpoint.preflight import Metadata
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.tracing.survey import Survey
    from edgellm_core.weights.left_out import LeftOut

TRACED: Final = "keys of config.json, and what a trace captures"
ACCOUNTED: Final = "names, shapes and types of tensors against the model's, and the form of the target"
TOKENIZER: Final = "tokenizer and chat templates against transformers' own"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepDetection(Detection):
    """What ``detect --deep`` found out.

    Attributes:
        survey: what a trace would capture, layer by layer.
        left_out: what of the checkpoint would not be in the graph.
    """

    survey: Survey
    left_out: Sequence[LeftOut] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything in types of JSON."""
        left_out = [asdict(group) for group in self.left_out]
        return {**Detection.to_json(self), "left_out": left_out, "deep": asdict(self.survey)}


def detect_deep(
    source: str,
    *,
    family: str | None = None,
    plugin_paths: Sequence[Path] = (),
    revision: str | None = None,
    precision: str = "fp16",
    target: str = "onnx",
    trust_remote_code: bool = False,
) -> DeepDetection:
    """Say what a model is, what a build would take, and what it would do up to the binding of weights; reads none.

    Args:
        source: name in the registry, ``owner/name`` on the hub, a directory, or a ``.gguf`` file.
        family: family to force.
        plugin_paths: folders with plugins.
        revision: branch, tag or commit of a hub repository.
        precision: precision that estimates and graph are for.
        target: form of the graph.
        trust_remote_code: run the modeling code that the checkpoint brings itself; from the hub it is downloaded.

    Raises:
        UserError: the source can't be found or read, or the family is unknown. A model that can't be traced is no
            error here; the summary says what will not work.
    """
    host = PluginHost.load(plugin_paths=plugin_paths)
    metadata = read_metadata(source, registry=ModelRegistry.load(), revision=revision, host=host)
    plain = judge(metadata, host, family=family, precision=precision)
    local = local_checkpoint(metadata)
    detection = with_file_checks(plain, local, FILE_CHECKS)
    with tempfile.TemporaryDirectory(prefix="edgellm-detect-") as folder:
        try:
            checkpoint = checkpoint_to_examine(metadata, Path(folder), host, trust_remote_code=trust_remote_code)
        except EdgellmError as error:
            detection, checkpoint = add_problems(detection, [str(error)]), None
        found = _survey(detection, metadata, checkpoint, host, precision)
        detection = told(detection, checked=[TRACED])
        left_out: Sequence[LeftOut] = ()
        if found.refusal is not None:
            detection = add_problems(detection, [found.refusal])
        if checkpoint is None or found.refusal is not None:
            detection = told(detection, not_checked=[TOKENIZER, ACCOUNTED])
        else:
            examined = Examined(
                checkpoint=checkpoint,
                original=local,
                selection=detection.selection,
                target=target,
                precision=precision,
                host=host,
                folder=Path(folder) / "llm",
                report=Reporter("detect"),
            )
            examined.folder.mkdir()
            detection, left_out = add_problems(detection, examine(examined)), examined.left_out
            here = local is not None
            detection = told(
                detection,
                checked=[*([TOKENIZER] if here else []), ACCOUNTED],
                not_checked=[] if here else [TOKENIZER],
            )
    detection = told(detection, not_checked=[VALUES, NUMBERS])
    known = {field.name: getattr(detection, field.name) for field in fields(detection)}
    return DeepDetection(**known, survey=found, left_out=left_out)


def _survey(
    detection: Detection, metadata: Metadata, checkpoint: Checkpoint | None, host: PluginHost, precision: str
) -> Survey:
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.tracing.survey import survey

    family = detection.selection.family

    def load() -> PreTrainedConfig:
        if checkpoint is None:
            directory = metadata.directory or Path(metadata.location.id)
            return load_config(directory, metadata.config, family, host.nearest)
        trusted = checkpoint.trust_remote_code
        return load_config(checkpoint.directory, checkpoint.config, family, host.nearest, trust_remote_code=trusted)

    return survey(load, family, precision)
