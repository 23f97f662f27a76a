"""Measure Verilog checks per second, all parts except the judge model.

    python benchmarks/bench_verilog.py [TASKS.jsonl ...]

Without a task file it judges the right answer to the small module of tests/verilog_attacks.py. The environment variable
CHECKS (300 by default) gives the least number of checks.
"""

import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from verilog_attacks import RIGHT, TASK

from judging.verilog.pool import VerilogSandbox

tasks = [json.loads(line) for path in sys.argv[1:] for line in open(path)]
pairs = [(task, task["canonical_solution"]) for task in tasks] or [(TASK, RIGHT)]
pairs *= -(-int(os.environ.get("CHECKS", 300)) // len(pairs))
with VerilogSandbox() as sandbox:
    sandbox.check_many(pairs[:4])
    started = time.monotonic()
    verdicts = sandbox.check_many(pairs)
    seconds = time.monotonic() - started
    cpu = sum(verdict.cpu_seconds for verdict in verdicts) / len(verdicts)
    print(f"{len(pairs)} checks, {sum(v.passed for v in verdicts)} passed, {sandbox.num_workers} workers")
    print(f"{len(pairs) / seconds:.1f} checks/s, {1000 * cpu:.0f} ms of CPU time in the tools for each")
