"""How many examples the fuzzing takes: hypothesis' default in a test run, more with ``make fuzz``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import settings

# pytest imports tests by path; this lets them share the modules of this folder that are no tests
sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("fuzz", max_examples=int(os.environ.get("EXAMPLES", "2000")), derandomize=False)
