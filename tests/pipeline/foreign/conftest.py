"""Lets the tests of rules share ``small_graphs``."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest imports tests by path; this lets them share the modules of this folder that are no tests
sys.path.insert(0, str(Path(__file__).parent))
