"""``python -m pipeline.chaos …``: what ``framerail chaos …`` is."""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "chaos")
    runpy.run_module("pipeline", run_name="__main__")
