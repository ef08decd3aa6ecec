"""Tests of `benchmarks/`, whose files are scripts: their folder is put where Python finds modules."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
