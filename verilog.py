"""Run untrusted Verilog and return a verdict in parts, from which rewards are computed.

    with VerilogSandbox(time_limit=10.0) as sandbox:
        verdict = sandbox.check(task, completion)  # verdict.parts, verdict.passed
        reward = score(verdict.parts)

A task has the text fields `prompt` (with the module's header), `test` (a testbench) and `top_module`. It may have
`"latches": true` and a `canonical_solution`. If that solution fails as well, a failing completion is `refused`.
`docs/verilog.md` says what each part is, and what is promised. The code is in judging/verilog/.

`python verilog.py --probe` prints the tools with their versions, and the layers that hold on this machine.
"""

from __future__ import annotations

import sys

from judging.self_test import run_probe
from judging.verilog import attacks
from judging.verilog.pool import PARTS, WEIGHTS, VerilogSandbox, score

__all__ = ["PARTS", "WEIGHTS", "VerilogSandbox", "score"]

if __name__ == "__main__":
    sys.exit(run_probe("Runs untrusted Verilog; see docs/verilog.md.", VerilogSandbox, attacks.attack))
