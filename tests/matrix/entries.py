"""Hypothesis strategies for entries of the test matrix."""

from __future__ import annotations

from hypothesis import strategies as st

from edgellm_core.matrix.entry import ASCENDING, EagleDraft, MatrixEntry
from edgellm_core.matrix.tokens import LARGEST, METHODS, PRECISIONS, TOKENS

FIELDS = {token.name: token.field for token in TOKENS}
precisions = st.sampled_from(PRECISIONS)
names = (
    st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._]{0,9}", fullmatch=True), min_size=1, max_size=4)
    .filter(lambda parts: not set(parts[1:]) & set(PRECISIONS))
    .map("-".join)
)
drafts = st.builds(EagleDraft, id=names, precision=precisions, lm_head_precision=st.none() | precisions)


def values(token):
    strategies = {
        "flag": st.booleans(),
        "number": st.none() | st.integers(token.least, 300) | st.integers(token.least, LARGEST),
        "precision": st.none() | precisions,
        "method": st.none() | st.sampled_from(METHODS),
        "draft": st.none() | drafts,
    }
    return strategies[token.kind]


def without_contradiction(fields):
    for _round in ASCENDING:
        for low, high in ((FIELDS[low], FIELDS[high]) for low, high in ASCENDING):
            if fields[low] is not None and fields[high] is not None and fields[low] > fields[high]:
                fields[low] = fields[high]
    if fields["max_seq_len"] is not None:
        room = fields["max_seq_len"] - (fields["input_len"] or 0)
        fields["output_len"] = min(fields["output_len"] or 0, room) or None
    return fields


entries = (
    st.fixed_dictionaries(
        {"model": names, "precision": precisions, "lm_head_precision": st.none() | precisions}
        | {token.field: values(token) for token in TOKENS}
    )
    .map(without_contradiction)
    .map(lambda fields: MatrixEntry(**fields))
)
