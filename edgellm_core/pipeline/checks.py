"""Checks of a checkpoint and its graph that need no weights: ``build`` and ``detect`` call the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.config_numbers import require_numbers
from edgellm_core.checkpoint.config_sizes import require_sizes
from edgellm_core.checkpoint.tokenizer_files import require_vocabulary
from edgellm_core.pipeline.quantized import layout_of
from edgellm_core.quantization.importers import find_importer

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Reporter
    from edgellm_core.host import Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCheck:
    """One check.

    Attributes:
        what: what it looks at.
        run: raises a ``UserError`` where a build would be refused.
        light: whether it imports nothing heavy, so that a plain ``detect`` runs it.
    """

    what: str
    run: Callable[[Checkpoint], object]
    light: bool = True


def _check_quantization(checkpoint: Checkpoint) -> None:
    importer = find_importer(checkpoint.config)
    if importer is None:
        layout_of(checkpoint)
        return
    from edgellm_core.quantization.importers.conversion import read_foreign

    read_foreign(checkpoint.directory, checkpoint.config, checkpoint.tensors, importer)


def _check_generation(checkpoint: Checkpoint) -> None:
    from edgellm_core.runtime.generation_settings import runtime_record

    runtime_record(checkpoint.directory)


def _check_tokenizer_files(checkpoint: Checkpoint) -> None:
    require_vocabulary(checkpoint.directory)


def check_config(checkpoint: Checkpoint) -> None:
    """Refuse sizes and numbers of config.json that no model has; called before a model is made of it.

    Raises:
        ConfigSizeError: a size is none that the tensors have.
        ConfigValueError: a number is none that anything can be computed with.
    """
    path = checkpoint.directory / "config.json"
    require_numbers(path, checkpoint.config)
    require_sizes(path, checkpoint.config, checkpoint.tensors)


FILE_CHECKS: Final = (
    FileCheck(what="sizes and numbers in config.json", run=check_config),
    FileCheck(what="quantization and its tensors", run=_check_quantization),
    FileCheck(what="files of the tokenizer", run=_check_tokenizer_files),
    FileCheck(what="settings of generation", run=_check_generation, light=False),
)


def check_files(checkpoint: Checkpoint) -> None:
    """Run all checks.

    Raises:
        UserError: a build would be refused; one class per cause.
    """
    for check in FILE_CHECKS:
        check.run(checkpoint)


def require_types(
    model: onnx.ModelProto, checkpoint: Checkpoint, selection: Selection, precision: str, report: Reporter
) -> None:
    """Refuse a graph that computes in a narrower type than the original.

    Raises:
        NarrowComputationError: naming layer, node and operator.
    """
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.verification.narrow_computation import require_types_of_original

    config = load_config(
        checkpoint.directory, checkpoint.config, selection.family, trust_remote_code=checkpoint.trust_remote_code
    )
    require_types_of_original(model, config, precision, report)
