"""``detect --deep``: the detection of a model, and what a trace of it would capture."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.detection import Detection, judge
from edgellm_core.checkpoint.preflight import read_metadata
from edgellm_core.errors import UserError
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedConfig

    from edgellm_core.checkpoint.preflight import Metadata
    from edgellm_core.contract import ModelFamily
    from edgellm_core.tracing.survey import Survey


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepDetection(Detection):
    """What ``detect --deep`` found out.

    Attributes:
        survey: what a trace would capture, layer by layer.
    """

    survey: Survey

    def to_json(self) -> dict[str, Any]:
        """Return everything in types of JSON."""
        return {**Detection.to_json(self), "deep": asdict(self.survey)}


def detect_deep(
    source: str,
    *,
    family: str | None = None,
    plugin_paths: Sequence[Path] = (),
    revision: str | None = None,
    precision: str = "fp16",
    trust_remote_code: bool = False,
) -> DeepDetection:
    """Say what a model is, what a build would take, and what a trace captures; reads no weights.

    Args:
        source: name in the registry, ``owner/name`` on the hub, a directory, or a ``.gguf`` file.
        family: family to force.
        plugin_paths: folders with plugins.
        revision: branch, tag or commit of a hub repository.
        precision: precision that estimates and forward are for.
        trust_remote_code: run the modeling code that the checkpoint brings itself; from the hub it is downloaded.

    Raises:
        UserError: the source can't be found or read, or the family is unknown. A model that can't be traced is no
            error here; the summary says what will not work.
    """
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.tracing.survey import survey

    host = PluginHost.load(plugin_paths=plugin_paths)
    metadata = read_metadata(source, registry=ModelRegistry.load(), revision=revision, host=host)
    detection = judge(metadata, host, family=family, precision=precision)
    selected = detection.selection.family

    def load() -> PreTrainedConfig:
        directory = metadata.directory or Path(source)
        if trust_remote_code and metadata.location.path is None and metadata.directory is None:
            from edgellm_core.checkpoint.hub import download_code

            directory = download_code(metadata.location)
        return load_config(directory, metadata.config, selected, host.nearest, trust_remote_code=trust_remote_code)

    found = survey(load, selected, precision)
    known = {field.name: getattr(detection, field.name) for field in fields(detection)}
    refusals = [found.refusal, _tokenizer_refusal(metadata, selected, trust_remote_code=trust_remote_code)]
    problems = dict.fromkeys([*detection.summary.will_not_work, *(text for text in refusals if text is not None)])
    known["summary"] = replace(detection.summary, will_not_work=tuple(problems))
    return DeepDetection(**known, survey=found)


def _tokenizer_refusal(metadata: Metadata, family: ModelFamily, *, trust_remote_code: bool) -> str | None:
    """Return why a build would refuse the tokenizer of a directory; None where it would not."""
    from edgellm_core.checkpoint.source import open_directory
    from edgellm_core.tokenization.writing import write_tokenizer

    if metadata.directory is None or metadata.tensors is None:
        return None
    checkpoint = open_directory(metadata.directory, metadata.location, trust_remote_code=trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="edgellm-tokenizer-") as folder:
        try:
            write_tokenizer(checkpoint, family, Path(folder), Reporter("detect"))
        except UserError as error:
            return str(error)
    return None
