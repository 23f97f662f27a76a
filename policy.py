"""Will it fit my card? `python policy.py --preflight` predicts a run's peak memory; model/memory.py says how."""

from __future__ import annotations

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # nothing is computed: what it lacks on a CPU is no news

from common import run_script
from model import memory

if __name__ == "__main__":
    run_script(memory.preflight, memory.Args, memory.__doc__)
