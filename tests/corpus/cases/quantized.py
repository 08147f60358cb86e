"""Checkpoints that other tools quantized, where what they say and what they hold may differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.corpus.case import Made, case
from tests.corpus.packed import GPTQ, gptq, gptq_v2, packed

if TYPE_CHECKING:
    from pathlib import Path


@case(outcome="right", note="calls itself gptq, but stores the zero points of its symmetric layers as gptq_v2 does")
def gptq_zeros_of_the_second_format(folder: Path) -> Made:
    """sym: true, zero points of 0x88888888, and the label of the first format."""
    return packed(folder, GPTQ | {"checkpoint_format": "gptq"}, gptq_v2)


@case(outcome="right", note="calls itself gptq_v2")
def gptq_zeros_of_the_first_format(folder: Path) -> Made:
    """sym: true, zero points of 0x77777777, and the label of the second format."""
    return packed(folder, GPTQ | {"checkpoint_format": "gptq_v2"}, gptq)


@case(outcome="right")
def gptq_label_under_format(folder: Path) -> Made:
    """The second format, named by ``format`` as GPTQModel and transformers 5 do, with zero points that differ."""
    return packed(folder, GPTQ | {"format": "gptq_v2", "sym": False}, gptq_v2, symmetric=False)


@case(outcome="right")
def gptq_asymmetric(folder: Path) -> Made:
    """The first format with zero points that differ, labels under both keys, and groups that act-order shuffled."""
    settings = GPTQ | {"format": "gptq", "checkpoint_format": "gptq", "sym": False, "desc_act": True}
    return packed(folder, settings, gptq, symmetric=False, shuffled=True)


@case(outcome="right")
def gptq_act_order_without_desc_act(folder: Path) -> Made:
    """desc_act is false, and g_idx shuffles the groups: g_idx counts."""
    return packed(folder, GPTQ, gptq, shuffled=True)


@case(outcome="refused", message="checkpoint_format is 'gptq' and format is 'gptq_v2'")
def gptq_two_labels(folder: Path) -> Made:
    """Two labels that differ."""
    return packed(folder, GPTQ | {"checkpoint_format": "gptq", "format": "gptq_v2"}, gptq)


@case(outcome="refused", message="which makes every zero point 8")
def gptq_symmetric_in_name_only(folder: Path) -> Made:
    """sym: true with zero points that differ."""
    return packed(folder, GPTQ, gptq, symmetric=False)


@case(outcome="refused", message="would be 9; they are 8 under the other label")
def gptq_asymmetric_in_name_only(folder: Path) -> Made:
    """sym: false with zero points of 0x88888888 under the label of the first format."""
    return packed(folder, GPTQ | {"sym": False}, gptq_v2)


@case(outcome="refused", message="group_size 64 means 1 groups of the 64 inputs")
def gptq_other_group_size(folder: Path) -> Made:
    """A group size that is not that of the scales."""
    return packed(folder, GPTQ | {"group_size": 64}, gptq)


@case(outcome="refused", message="which says the group of each input, is missing")
def gptq_desc_act_without_g_idx(folder: Path) -> Made:
    """desc_act is true, and nothing says which group an input belongs to."""

    def without(_module, parts):
        return {suffix: part for suffix, part in parts.items() if suffix != "g_idx"}

    return packed(folder, GPTQ | {"desc_act": True}, gptq, change=without)


@case(outcome="refused", message="stored as 7 in some layers and 8 in others")
def gptq_layers_of_both_formats(folder: Path) -> Made:
    """Zero points of 7 and of 8 in one symmetric checkpoint."""

    def second(module, parts):
        return parts | ({"qzeros": np.full_like(parts["qzeros"], -2004318072)} if "layers.1" in module else {})

    return packed(folder, GPTQ, gptq, change=second)
