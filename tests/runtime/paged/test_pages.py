from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.runtime.paged.pages import PAGE_TOKENS, Pages


@given(st.lists(st.lists(st.integers(0, 300), min_size=3, max_size=3), min_size=1, max_size=4))
def test_every_page_has_one_owner(steps):
    pages, lengths = Pages(3), [1, 1, 1]
    for step in steps:
        lengths = [old + new for old, new in zip(lengths, step, strict=True)]
        before = [([*keys], [*values]) for keys, values in pages.owned]
        pages.reserve(lengths)
        table = pages.table()
        for plane, start in ((0, 0), (1, pages.count)):
            used = [
                int(page)
                for row, length in zip(table[:, plane], lengths, strict=True)
                for page in row[: -(-length // PAGE_TOKENS)]
            ]
            assert len(set(used)) == len(used)
            assert all(start <= page < start + pages.count for page in used)
        for (old_keys, old_values), (keys, values) in zip(before, pages.owned, strict=True):
            assert keys[: len(old_keys)] == old_keys
            assert values[: len(old_values)] == old_values
