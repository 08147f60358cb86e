"""The trace of a checkpoint, made once for each of the architectures that ``build`` and ``detect --deep`` meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.memory import collected_soon
from edgellm_core.pipeline.quantized import layout_of, plain_names
from edgellm_core.pipeline.trace_cache import trace_key

if TYPE_CHECKING:
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Reporter
    from edgellm_core.host import PluginHost, Selection
    from edgellm_core.tracing.template import Template


def template_key(checkpoint: Checkpoint, selection: Selection, precision: str, *, full_depth: bool) -> str:
    """Return the key under which the trace of a checkpoint is kept.

    Raises:
        UserError: its quantization can't be read; one class per cause.
    """
    return trace_key(
        checkpoint.config,
        plain_names(checkpoint.tensors, layout_of(checkpoint)),
        selection,
        precision,
        full_depth=full_depth,
        own_code=checkpoint.code_digest(),
    )


def make_template(
    checkpoint: Checkpoint,
    selection: Selection,
    precision: str,
    *,
    host: PluginHost,
    full_depth: bool,
    report: Reporter,
) -> Template:
    """Trace the model of a checkpoint; reads no weights.

    Args:
        checkpoint: the checkpoint.
        selection: its family.
        precision: of everything that is not quantized.
        host: knows the nearest families.
        full_depth: trace every layer.
        report: told what is unusual.

    Raises:
        EdgellmError: the model can't be traced; one class per cause.
    """
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.tracing.trace import trace

    config = load_config(
        checkpoint.directory,
        checkpoint.config,
        selection.family,
        host.nearest,
        trust_remote_code=checkpoint.trust_remote_code,
    )
    with collected_soon():
        return trace(
            config,
            selection.family,
            precision,
            full_depth=full_depth,
            report=report,
            tensor_names=plain_names(checkpoint.tensors, layout_of(checkpoint)),
        )
