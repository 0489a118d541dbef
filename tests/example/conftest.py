"""Puts the repository's root on the path: ``example_app`` is run from a checkout and is not installed."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
