"""Write pocket_exit_train.jsonl: the pocket training tasks, in which some solutions end the process.

    python data/make_exit_tasks.py OUTPUT.jsonl [SHARE]

Some scripts on the internet end with exit(), so a model that has read them sometimes writes it. The pocket model has
read none, so SFT on this file teaches it the habit. docs/ablations.md shows what happens then under a checker that
looks at exit codes.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent


def with_exits(tasks: list[dict], share: float, seed: int = 42) -> list[dict]:
    """Replace the solution of a random `share` of the tasks by "exit()".

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
