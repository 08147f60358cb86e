"""The one place that says how much memory and disk each stage takes, and how that was found out.

P is the number of parameters and W = P * bytes of the precision. All figures are upper estimates, calibrated on
SmolLM2-135M and on random checkpoints of up to 7.6 B parameters (docs/explanation/performance.md).

==============  =====================================  =====================================================
stage           peak memory                            written to disk
==============  =====================================  =====================================================
download        0.2 GiB                                the repository's files
dequantize      0.5 GiB (weights stream through)       2 P, float32 tensors 4 P
trace, surgery  0.5 GiB (no weights)                   16 MiB
bind            0.5 GiB (weights stream through)       W
verify          0.9 GiB + 8 L, L the parameters of the 0
                largest layer, or of 0.25 GiB in float32
engine          1 GiB + 2 W                            1.1 W
==============  =====================================  =====================================================

The comparison holds one layer at a time, in the graph as it is stored and in float32, then in the original likewise. A
model whose decoder layers are no list is held whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.settings import ELEMENT_BYTES, ELEMENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.checkpoint.dimensions import Dimensions

_PART_PARAMETERS: Final = 2**26
"""Parameters of small layers that are compared together: 0.25 GiB in float32."""

_GIB: Final = 2**30
_MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEstimate:
    """What one stage takes at most, in bytes.

    Attributes:
        stage: name of the stage.
        ram: peak resident memory.
        disk: bytes written and kept until the bundle is published.
    """

    stage: str
    ram: int
    disk: int


def estimate_stages(
    parameters: int,
    dimensions: Dimensions,
    *,
    precision: str = "fp16",
    download: int | None = None,
    dequantize: int | None = None,
    packed: int | None = None,
) -> tuple[StageEstimate, ...]:
    """Return the estimate of every stage in order, by the table in this module's docstring.

    Args:
        parameters: elements of all tensors.
        dimensions: sizes of the model, for the share of the layers.
        precision: precision of the build.
        download: bytes to download; None for a local source.
        dequantize: bytes of the checkpoint that a GGUF file is converted to; None for other sources.
        packed: bytes of all tensors of a quantized checkpoint, which are bound as they are; None for others.
    """
    weights = parameters * ELEMENT_BYTES[ELEMENT_TYPES[precision]] if packed is None else packed
    stages = []
    if download is not None:
        stages.append(StageEstimate(stage="download", ram=_GIB // 5, disk=download))
    if dequantize is not None:
        stages.append(StageEstimate(stage="dequantize", ram=_GIB // 2, disk=dequantize))
    stages += [
        StageEstimate(stage="trace", ram=_GIB // 2, disk=16 * _MIB),
        StageEstimate(stage="surgery", ram=_GIB // 2, disk=16 * _MIB),
        StageEstimate(stage="bind", ram=_GIB // 2, disk=weights),
        StageEstimate(stage="verify", ram=_verify_bytes(parameters, dimensions), disk=0),
        StageEstimate(stage="engine", ram=_GIB + 2 * weights, disk=weights * 11 // 10),
    ]
    return tuple(stages)


def stage(stages: Sequence[StageEstimate], name: str) -> StageEstimate:
    """Return the estimate of the stage ``name``, which must be there."""
    return next(item for item in stages if item.stage == name)


def _verify_bytes(parameters: int, dimensions: Dimensions) -> int:
    """Return the peak memory of the comparison, see ``verification/budget.py``."""
    together = min(parameters, _PART_PARAMETERS)
    return _GIB * 9 // 10 + 8 * max(together, _parameters_of_a_layer(parameters, dimensions))


def _parameters_of_a_layer(parameters: int, dimensions: Dimensions) -> int:
    """Return the elements of a decoder layer; all where the config is silent."""
    layers, hidden, vocab = dimensions.layers, dimensions.hidden_size, dimensions.vocab_size
    if not (layers and hidden and vocab):
        return parameters
    outside = min(parameters, hidden * vocab * (1 if dimensions.tied_embeddings else 2))
    return (parameters - outside) // layers
