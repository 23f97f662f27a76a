"""Write pocket_exit_train.jsonl: the pocket train tasks, some of whose solutions end the process.

    python data/make_exit_tasks.py OUTPUT.jsonl [SHARE]

Scripts on the net end with exit() now and then, so a model that has read them writes it now and then. The pocket model
has read none; SFT on this file gives it the habit, for the ablation in docs/ablations.md that shows what a checker
which looks at exit codes makes of it.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent


def with_exits(tasks: list[dict], share: float, seed: int = 42) -> list[dict]:
    """The tasks, of which `share` have "exit()" as their solution.

    >>> [task["canonical_solution"] for task in with_exits([{"canonical_solution": "    return 1\\n"}] * 2, 0.5)]
    ['    exit()\\n', '    return 1\\n']
    """
    chosen = set(random.Random(seed).sample(range(len(tasks)), round(share * len(tasks))))
    return [
        task | {"canonical_solution": "    exit()\n"} if number in chosen else task for number, task in enumerate(tasks)
    ]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("error: want OUTPUT.jsonl [SHARE]")
    output, share = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.05
    tasks = [json.loads(line) for line in (HERE / "pocket_train.jsonl").read_text().splitlines()]
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    temporary.write_text("".join(json.dumps(task) + "\n" for task in with_exits(tasks, share)))
    temporary.replace(output)
    print(f"wrote {output}: {share:.0%} of {len(tasks)} solutions end the process")
