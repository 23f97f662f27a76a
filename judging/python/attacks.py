"""Try a few attacks that a working sandbox must survive, before every training run."""

from __future__ import annotations

import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from judging.self_test import wrong_verdicts

# The tests pass the path of the file to write, because arguments are all that an honest function learns.
TASK = {
    "task_id": "self-test",
    "prompt": 'def double(x, path=""):\n    """Twice x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3, PATH) == 6\n    assert candidate(-4, PATH) == -8\n",
    "entry_point": "double",
}
TRY = (
    "    try:\n        {}\n    except OSError:\n        return 0\n    return 2 * x\n"  # right only if the attack worked
)

# (name, completion, statuses that are right)
ATTACKS = (
    ("a right answer", "    return 2 * x\n", ("pass",)),
    ("a wrong answer", "    return x\n", ("fail",)),
    ("a broken program", "    return (\n", ("syntax",)),
    ("ending the program", "    import sys\n    sys.exit(0)\n", ("crash",)),
    ("dying at once", "    import os\n    os._exit(0)\n", ("crash",)),
    ("an object that equals all", "    return type('E', (int,), {'__eq__': lambda s, o: True})()\n", ("fail",)),
    (
        "a hang",
        "    while True:\n        try:\n            pass\n        except BaseException:\n            pass\n",
        ("timeout",),
    ),
    ("too much memory", "    return bytearray(1 << 40) and 2 * x\n", ("memory",)),
    ("starting a process", TRY.format("import os; os.fork() or os._exit(0)"), ("fail",)),
    ("starting a program", TRY.format("import subprocess; subprocess.run(['/bin/true'])"), ("fail",)),
    ("writing a file", TRY.format("open(path, 'w').close()"), ("fail",)),
    ("reading a file", TRY.format("open(path + '.secret').close()"), ("fail",)),
    ("changing a mode", TRY.format("import os; os.chmod(path + '.secret', 0o777)"), ("fail",)),
    ("reaching the network", TRY.format("import socket; socket.socket().close()"), ("fail",)),
    ("listing a folder", TRY.format("import os; os.listdir(os.path.dirname(path))"), ("fail",)),
    ("reading a file of an installed package", TRY.format("open(PACKAGE).close()"), ("fail",)),
    ("following a link", TRY.format("import os; os.readlink(path + '.link')"), ("fail",)),
    ("signalling its parent", TRY.format("import os; os.kill(os.getppid(), 0)"), ("fail",)),
)

# These hold only where the candidate has its own root folder, which hides the rest of the machine.
HIDDEN = (("the size of a file", TRY.format("import os; os.stat(path + '.secret')"), ("fail",)),)

# Whole programs that are judged by what they print. The second input's output is right only if something was kept of
# the first.
PRINTING = {
    "task_id": "self-test",
    "prompt": "",
    "canonical_solution": "",
    "inputs": ["41\n", "later\n"],
    "outputs": ["ok\n", "41\n"],
}
KEEP = "import sys\ntext = input()\nprint(getattr(sys, 'kept', 'ok'))\nsys.kept = text\n"
PROGRAMS = (
    ("a program that knows both answers", "print('ok' if input() == '41' else 41)\n", ("pass",)),
    ("a program that keeps its input", KEEP, ("fail",)),
    ("a program that ends in an exception", "print('ok' if input() == '41' else 41)\nint('x')\n", ("fail",)),
)


def attack(sandbox: Any, time_limit: float = 0.5) -> list[str]:
    """Run every attack and return one line for each that got through; [] means that the sandbox holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "written")
        secret = Path(folder, "written.secret")
        secret.write_text("secret")
        secret.chmod(0o600)
        task = {**TASK, "test": TASK["test"].replace("PATH", repr(str(path)))}
        Path(folder, "written.link").symlink_to(secret)
        package = next(iter(Path(sysconfig.get_path("purelib")).glob("*.dist-info/METADATA")), secret)
        attacks = ATTACKS + (HIDDEN if sandbox.layers.get("files") else ())
        attacks = [(name, text.replace("PACKAGE", repr(str(package))), right) for name, text, right in attacks]
        problems = wrong_verdicts(sandbox, task, attacks, time_limit)
        problems += wrong_verdicts(sandbox, PRINTING, PROGRAMS, time_limit)
        if path.exists() or secret.stat().st_mode & 0o777 != 0o600:
            problems.append("a file of the host was written or changed")
    return problems
