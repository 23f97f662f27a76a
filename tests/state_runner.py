"""Runs programs that look for what earlier ones left. Standard library only: it also runs as another user.

    python tests/state_runner.py [--no-namespaces]

Prints one JSON object: for each case the statuses of its copies, and what the programs said; and the layers.
"""

# ruff: noqa: E501 (a program is one string)

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from judging.pool import Sandbox  # noqa: E402

PROMPT = 'def double(x, path=""):\n    """Twice x."""\n'
TASK = {"task_id": "double", "prompt": PROMPT, "canonical_solution": "    return 2 * x\n", "entry_point": "double"}
COPIES = 4

# Right if an earlier copy, or an earlier line of the same, has left something.
CASES = {
    "flags of a stream": "    import fcntl, os\n    found = [fcntl.fcntl(n, fcntl.F_GETFL) for n in range(3)]\n"
    "    for n in range(3): fcntl.fcntl(n, fcntl.F_SETFL, found[n] | os.O_APPEND | os.O_NONBLOCK)\n"
    "    return 2 * x if any(f & os.O_APPEND for f in found) else 0\n",
    "access time of a file": "    import os\n    before = os.stat(path + '/a.py').st_atime\n"
    "    open(path + '/a.py').read()\n    return 2 * x if os.stat(path + '/a.py').st_atime != before else 0\n",
    "access time of a mapped file": "    import mmap, os\n    name = path + '/b.py'\n    before = os.stat(name).st_atime\n"
    "    mmap.mmap(os.open(name, os.O_RDONLY), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)[:1]\n"
    "    return 2 * x if os.stat(name).st_atime != before else 0\n",
    "access time of a folder": "    import os\n    before = os.stat(path).st_atime\n    os.listdir(path)\n"
    "    return 2 * x if os.stat(path).st_atime != before else 0\n",
    "threads beyond the limit": "    import threading, time\n    threading.stack_size(32768)\n    try:\n"
    "        for _ in range(80): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
    "    except RuntimeError: return 0\n    return 2 * x\n",
    "access time of a device": "    import os\n    before = os.stat('/dev/urandom').st_atime, os.stat('/dev/null').st_atime\n"
    "    os.urandom(9), open('/dev/urandom', 'rb').read(9), open('/dev/null').read(), open('/dev/null', 'w').write('x')\n"
    "    after = os.stat('/dev/urandom').st_atime, os.stat('/dev/null').st_atime\n"
    "    return 2 * x if before != after else 0\n",
}

BOMB = (
    "    import threading, time\n    threading.stack_size(32768)\n"
    "    while True:\n        try: threading.Thread(target=time.sleep, args=(9,)).start()\n        except Exception: pass\n"
)
THREADS = (
    "    from concurrent.futures import ThreadPoolExecutor\n    import time\n"
    "    with ThreadPoolExecutor(40) as pool: list(pool.map(lambda _: time.sleep(0.02), range(40)))\n    return 2 * x\n"
)
NUMBERS = (
    "    import os, threading\n    for _ in range(20):\n"
    "        t = threading.Thread(target=abs, args=(x,)); t.start(); t.join()\n"
    "    raise ValueError(f'{os.getpid()} {threading.get_native_id()} {t.native_id}')\n"
)


def fresh_package(folder: Path) -> Path:
    """A package whose files were never read since they were written, so that reading counts."""
    package = folder / "never_read_before"
    package.mkdir()
    for name in ("a.py", "b.py", "__init__.py"):
        (package / name).write_text("x = 1\n" * 9)
    for path in (*package.iterdir(), package):
        path.chmod(0o755)
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    return package


def run_all(namespaces: bool = True) -> dict[str, Any]:
    """Every case, each on one worker, a few times in a row."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        package = fresh_package(Path(folder))
        sys.path.append(folder)
        task = TASK | {"test": f"def check(candidate):\n    assert candidate(3, {str(package)!r}) == 6\n"}
        try:
            with Sandbox(num_workers=1, namespaces=namespaces, packages=(package.name, "no_such_package")) as box:
                verdicts = {name: [box.check(task, body) for _ in range(COPIES)] for name, body in CASES.items()}
                numbers = [box.check(task, NUMBERS).reason for _ in range(3)]
                layers = box.layers
            with Sandbox(num_workers=2, namespaces=namespaces) as box:
                bombs = [box.submit(task, BOMB, 1.5)]
                time.sleep(0.3)
                honest = [box.check(task, THREADS).reason for _ in range(3)]
                bombs[0].result()
        finally:
            sys.path.remove(folder)
    return {
        "wrong": [f"{name}: {v.status} {v.reason}" for name, vs in verdicts.items() for v in vs if not ours(v)],
        "numbers": numbers,
        "honest": honest,
        "layers": layers,
        "uid": os.getuid(),
    }


def ours(verdict: Any) -> bool:
    """Whether the program ran to its end and found nothing."""
    return verdict.status == "fail" and "left is 0, right is 6" in verdict.reason


if __name__ == "__main__":
    print(json.dumps(run_all("--no-namespaces" not in sys.argv)))
