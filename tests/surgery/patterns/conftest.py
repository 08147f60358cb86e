"""Lets the tests of pattern rules share ``pattern_graphs`` and ``small_graphs``."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest imports tests by path; this lets them share the modules of these folders that are no tests
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
