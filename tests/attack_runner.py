"""Runs the corpus and looks for what it left behind. Standard library only: it also runs as another user.

    python tests/attack_runner.py [--pattern REGEX] [--no-namespaces] [--workers N]

Prints one JSON object: how many rows ran, those that went wrong, and traces.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from attacks import TASKS, Attack, corpus  # noqa: E402

from judging.pool import Sandbox  # noqa: E402

WATCHED = ("/", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")


def processes(judges: set[int]) -> list[str]:
    """Processes of these judges that still run: the judges, their zygotes, and forks of those."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().decode().split("\0")
            state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        script = next((i for i, word in enumerate(words[1:], start=1) if not word.startswith("-")), 0)
        program = Path(words[script]).name  # an argument may have this name too: ruff is given every file
        mine = int(name) in judges and program == "judge.py"
        if program == "zygote.py":
            mine = int(words[script + 2]) in judges
        if mine and state != "Z":
            found.append(f"{name} {state} {' '.join(words)[:200]}")
    return found


def judges_of(sandbox: Sandbox) -> set[int]:
    """The process ids of a sandbox's judges."""
    return {worker.process.pid for worker in sandbox._workers if worker}


class Traces:
    """A folder, sockets and an environment secret for the corpus to reach for; and what became of them."""

    def __init__(self) -> None:
        self.host = Path(tempfile.mkdtemp(prefix="sandbox-host-"))
        self.host.chmod(0o755)
        (self.host / "victim").write_text("precious")
        (self.host / "victim").chmod(0o644)
        (self.host / "empty").mkdir()
        os.environ["SANDBOX_TEST_SECRET"] = "secret"
        self.listeners = [socket.socket(), socket.socket(type=socket.SOCK_DGRAM)]
        self.listeners[0].bind(("127.0.0.1", 0))
        self.port = self.listeners[0].getsockname()[1]
        self.listeners[1].bind(("127.0.0.1", self.port))
        for kind, name in ((socket.SOCK_STREAM, "socket"), (socket.SOCK_DGRAM, "datagrams")):
            self.listeners.append(socket.socket(socket.AF_UNIX, kind))
            self.listeners[-1].bind(str(self.host / name))
            (self.host / name).chmod(0o777)
        for listener in (self.listeners[0], self.listeners[2]):
            listener.listen()
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        """All that must be the same afterwards."""
        gc.collect()  # what earlier tests left in cycles closes now, not in between
        files = {}
        for path in (self.host, *sorted(self.host.rglob("*"))):
            info = path.lstat()
            attributes = os.listxattr(path) if path.is_file() else []
            files[str(path)] = (info.st_mode, info.st_uid, info.st_size, info.st_mtime_ns, info.st_nlink, attributes)
        files["victim"] = (self.host / "victim").read_text() if (self.host / "victim").exists() else None
        return {
            "files": files,
            "elsewhere": [str(path) for folder in WATCHED for path in Path(folder).glob("*sandbox-attack*")],
            "ipc": {kind: Path("/proc/sysvipc", kind).read_text().count("\n") for kind in ("shm", "sem", "msg")},
            "descriptors": descriptors(),
            "priority": os.getpriority(os.PRIO_PROCESS, 0),
            "cores": sorted(os.sched_getaffinity(0)),
        }

    def calls(self) -> list[str]:
        """Which of the listeners somebody reached."""
        reached = []
        for listener, name in zip(self.listeners, ("tcp", "udp", "unix", "unix datagram"), strict=True):
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                (listener.accept if name in ("tcp", "unix") else lambda listener=listener: listener.recv(1))()
                reached.append(name)
        return reached

    def differences(self) -> list[str]:
        """What changed since the start, [] if nothing."""
        after = self.state()
        found = [f"{key}: {self.before[key]} became {after[key]}" for key in after if after[key] != self.before[key]]
        return found + [f"{name} was reached" for name in self.calls()]

    def close(self) -> None:
        """Remove it all."""
        for listener in self.listeners:
            listener.close()
        shutil.rmtree(self.host)


def descriptors() -> dict[str, str]:
    """What this process has open."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def available(row: Attack) -> bool:
    """Whether a row can run on this machine."""
    return not row.needs or (platform.machine() == row.needs if row.needs == "x86_64" else bool(find_spec(row.needs)))


def pair(row: Attack, traces: Traces) -> tuple[dict[str, Any], str]:
    """The task and completion of a row."""

    def fill(text: str) -> str:
        return text.replace("@HOST@", str(traces.host)).replace("@PORT@", str(traces.port))

    task = TASKS[row.task]
    return task | ({"test": fill(task["test"])} if "test" in task else {}), fill(row.completion)


def run_all(pattern: str = "", workers: int = 2, namespaces: bool = True) -> dict[str, Any]:
    """The corpus once, on a sandbox of its own.

    Returns:
        "rows": how many ran; "wrong": lines for verdicts that are not the expected ones; "traces": lines for what was
        left behind; "late": lines for checks that outlived their limit by more than a second; "layers"; "verdicts":
        each row's, as a dict.
    """
    rows = [row for row in corpus() if re.search(pattern, row.name) and available(row)]
    traces = Traces()
    wrong, late, verdicts = [], [], {}
    try:
        with Sandbox(num_workers=workers, namespaces=namespaces) as sandbox:
            judges = judges_of(sandbox)
            futures = [sandbox.submit(*pair(row, traces), time_limit=row.limit) for row in rows]
            for row, future in zip(rows, futures, strict=True):
                verdict = future.result()
                if verdict.status not in row.expected:
                    # the machine may be busy: once more, alone
                    verdict = sandbox.check(*pair(row, traces), time_limit=row.limit)
                if verdict.status not in row.expected:
                    wrong.append(f"{row.name}: {verdict.status} ({verdict.reason}), not {' or '.join(row.expected)}")
                if verdict.wall_seconds > row.limit + 1:
                    late.append(f"{row.name}: {verdict.wall_seconds:.1f} s, limit {row.limit} s")
                verdicts[row.name] = asdict(verdict)
                judges |= judges_of(sandbox)
            layers = sandbox.layers
        time.sleep(0.05)
        left = processes(judges)
        found = traces.differences() + [f"still running: {process}" for process in left]
        found += [f"thread {thread.name}" for thread in threading.enumerate() if thread.name.startswith("sandbox")]
    finally:
        traces.close()
    return {"rows": len(rows), "wrong": wrong, "late": late, "traces": found, "layers": layers, "uid": os.getuid(),
            "verdicts": verdicts}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pattern", default="")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-namespaces", dest="namespaces", action="store_false")
    print(json.dumps(run_all(**vars(parser.parse_args())), indent=1))
