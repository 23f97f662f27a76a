"""Predict whether a run fits a GPU: `python policy.py --preflight` prints its peak memory; model/memory.py says how."""

from __future__ import annotations

import logging

# nothing is computed here, so hide bitsandbytes's warnings about what it lacks on a CPU
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from common import run_script
from model import memory

if __name__ == "__main__":
    run_script(memory.preflight, memory.Args, memory.__doc__)
