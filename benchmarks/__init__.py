"""The benchmark: `python -m benchmarks`, or `make bench`. What it measures is written down in docs/performance.md.

It starts its servers with the harness of the tests, which is found here because the tests' folder is no package.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TESTS = str(ROOT / "tests")
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
