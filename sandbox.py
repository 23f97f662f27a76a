"""Run untrusted Python and return a verdict, from which rewards are computed.

    with Sandbox(time_limit=5.0) as sandbox:
        verdict = sandbox.check(task, completion)
        verdicts = sandbox.check_many((task, completion) for completion in completions)

`docs/sandbox.md` says who is not trusted and what is promised. The code is in judging/.

`python sandbox.py --probe` prints the layers that hold on this machine.
"""

from __future__ import annotations

import sys

from judging.pool import STATUSES, UNJUDGED, Sandbox, Verdict
from judging.python import attacks
from judging.self_test import run_probe
from judging.self_test import self_test as try_attacks

__all__ = ["STATUSES", "UNJUDGED", "Sandbox", "Verdict", "self_test"]


def self_test(sandbox: Sandbox) -> None:
    """Try a few attacks, in about a second. Raise InputError if one gets through."""
    try_attacks(sandbox, attacks.attack)


if __name__ == "__main__":
    sys.exit(run_probe("Runs untrusted Python; see docs/sandbox.md.", Sandbox, attacks.attack))
