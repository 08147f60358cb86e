"""Graphs of other exporters: what they do is proven by numbers, then written as a traced graph has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.contract import ImportedForm
from edgellm_core.surgery.rule import semantic

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Rule
    from edgellm_core.targets.edge_llm.imported.angles import Angles


@dataclass(frozen=True, kw_only=True)
class ImportedDecoder(ImportedForm):
    """A foreign decoder as the target takes it; names are those of the file.

    Attributes:
        tokens: input with ids or embeddings.
        mask: input that says which tokens are real, or None.
        positions: input with positions, or None.
        past: inputs of the cache.
        present: outputs of the cache, in the same order.
        logits: output with logits.
        angles: of all rotations.
    """

    tokens: str
    mask: str | None
    positions: str | None
    past: Sequence[str]
    present: Sequence[str]
    logits: str
    angles: Angles


def read_imported(graph: gs.Graph) -> ImportedDecoder:
    """Prove what a graph in semantic operators does, and bring it into the form of a traced one.

    Args:
        graph: changed in place.

    Raises:
        UserError: naming what can't be expressed or proven.
    """
    from edgellm_core.targets.edge_llm.imported.angles import prove_angles
    from edgellm_core.targets.edge_llm.imported.canonical import make_canonical
    from edgellm_core.targets.edge_llm.imported.errors import NotADecoderError
    from edgellm_core.targets.edge_llm.imported.interface import read_interface
    from edgellm_core.targets.edge_llm.imported.masks import prove_mask
    from edgellm_core.targets.edge_llm.imported.standard_operators import make_semantic

    make_semantic(graph)
    interface = read_interface(graph)
    rotations = [node for node in graph.nodes if semantic(node, "Rotary")]
    if not rotations:
        raise NotADecoderError("no rotary position embedding was found in the graph")
    windows = [prove_mask(layer.node, interface) for layer in interface.layers]
    angles = prove_angles(rotations, interface)
    names = {
        "tokens": interface.tokens.name,
        "mask": None if interface.mask is None else interface.mask.name,
        "positions": None if interface.positions is None else interface.positions.name,
        "logits": interface.logits.name,
    }
    make_canonical(graph, interface, windows, rotations)
    return ImportedDecoder(
        rules=_rules(),
        keeps_interface=False,
        past=[name for layer in interface.layers for name in layer.past],
        present=[name for layer in interface.layers for name in layer.present],
        angles=angles,
        **names,
    )


def _rules() -> Sequence[Rule]:
    from edgellm_core.targets.edge_llm import fuse_attention
    from edgellm_core.targets.edge_llm.imported.rules import ProductToChosenTokens, SwishToSigmoid
    from edgellm_core.targets.onnx import lower_norms

    return (
        ProductToChosenTokens(),
        fuse_attention.AttentionToPlugin(),
        lower_norms.RMSNormToRMSNormalization(),
        lower_norms.LayerNormToLayerNormalization(),
        SwishToSigmoid(),
    )
