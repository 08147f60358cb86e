"""Lets the tests of lowering rules share the surgery tests' ``small_graphs``."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest imports tests by path; this lets them share modules that are no tests
sys.path.insert(0, str(Path(__file__).parents[1] / "surgery"))
