"""How pytest-xdist shares the tests out: a file at a time, and the longest files in shards."""

from __future__ import annotations

import re
from typing import Final

from xdist.scheduler import LoadFileScheduling

SHARDED: Final = {
    "tests/corpus/test_corpus.py": r"\[(.+)\]$",
    "tests/conformance/test_in_tree.py": r"\[(\w+)-",
    "tests/matrix/test_tier_l0.py": r"\[(\w+)-",
}
"""File → what of a test's id says with which others it shares a worker: case of the corpus, family."""


class ShardScheduling(LoadFileScheduling):
    """A worker gets whole files, so that module fixtures are made once; of a file in ``SHARDED`` it gets one shard."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the file of a test, with its shard where the file has any."""
        file = nodeid.partition("::")[0]
        shard = re.search(SHARDED[file], nodeid) if file in SHARDED else None
        return f"{file}[{shard[1]}]" if shard else file
