"""The small process that forks one locked-down child for each check, and always kills and reaps it.

Started by exec with an empty environment, so that nothing of the training process (its secrets, its 4 GiB heap, its
CUDA context) is ever mapped in a child, and a fork takes well under a millisecond. It reads no candidate's source and
no result: those cross a socket between judge and child, whose ends the zygote passes on and closes.

Datagrams from the judge: `START` asks for a child, and is answered with its socket attached. b"K": kill the child, reap
it, answer with `REPORT`. b"W": the same for a child that seems to have ended; it gets a moment to do so by itself.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import struct
import sys
import time
from typing import NamedTuple

import sandbox_lockdown as lockdown
from sandbox_codec import dump_frame
from sandbox_runner import serve

START = struct.Struct("<cI")  # "F", CPU seconds; as the answer "F", errno
READY = dump_frame({"ready": ""})
REPORT = struct.Struct("<i?ddq")  # wait status, killed by us, user s, system s, peak KiB
LAST_WORDS = 0.25  # seconds: from closing its socket to being gone, for a process that is ending by itself

# What solutions import most: loaded once here, not once for every check. Not more: every shared library among them
# makes every fork and every exit a little slower, and what is missing is imported by those who need it.
WARM = (
    "abc bisect collections copy datetime enum functools heapq io itertools json math operator random re string time "
    "types typing"
).split()


class Zygote:
    """What every child of this process gets: limits, the Landlock ruleset, the seccomp program."""

    def __init__(self, memory_mib: int, judge: int) -> None:
        self.memory_mib, self.judge = memory_mib, judge
        self.step = ""  # of locking down
        self.pid = os.getpid()
        self.root, self.user = os.geteuid() == 0, "kept"
        paths = lockdown.interpreter_paths()
        self.ruleset = None
        if lockdown.landlock_version():
            self.ruleset = lockdown.landlock_ruleset(paths, ["/dev/null"])
        self.program = lockdown.seccomp_program()
        # as root, become a stranger, unless strangers cannot read this interpreter
        python = [path for path in paths if "python" in path]
        self.keep_files = self.root and not lockdown.readable_by_others(python)
        # another uid's threads are counted apart; our own user's are counted with everything else that it runs
        self.threads = lockdown.MAX_THREADS + (0 if self.root else lockdown.threads_of(os.getuid()) + 1024)

    def settle(self) -> None:
        """Give up, once and for every child, what forking and killing do not need."""
        if self.root:
            uid = lockdown.drop_user(self.judge, self.keep_files)
            self.user = f"real id {uid}, files as root" if self.keep_files else f"{uid}"
        lockdown.limit_resources(self.memory_mib, self.threads)
        if lockdown.LINUX:
            lockdown.drop_capabilities()

    def lock(self, cpu_seconds: int) -> None:
        """Take from this process, a child, all that is left to take."""
        os.setsid()
        if self.ruleset is not None:
            self.step = "landlock"
            lockdown.landlock_enforce(self.ruleset)
        self.step = "rlimits"
        os.closerange(4, lockdown.MAX_DESCRIPTORS)
        if lockdown.LINUX:
            lockdown.die_with_parent(self.pid)
        lockdown.limit_cpu(cpu_seconds)
        if self.program is not None:
            self.step = "seccomp"
            self.program.enforce()

    def try_out(self) -> dict:
        """Lock one child down, let it try what must not work, and report the layers that held."""
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(write_end, 3)
            try:
                self.lock(1)
                report = _attempts()
            except OSError as error:
                report = {"error": f"locking down failed: {error}", "step": self.step}
            os.write(3, json.dumps(report).encode())
            os._exit(0)
        os.close(write_end)
        with open(read_end, "rb") as report:
            text = report.read()
        os.waitpid(pid, 0)
        tried = json.loads(text) if text else {"error": "the first locked-down child died"}
        if tried.get("step") in (
            "landlock",
            "seccomp",
        ):  # without it, then; whether that will do is the caller's to say
            setattr(self, {"landlock": "ruleset", "seccomp": "program"}[tried["step"]], None)
            return self.try_out()
        if "error" in tried:
            return tried
        held = {
            "rlimits": tried["descriptors"] == "EMFILE",
            "landlock": lockdown.landlock_version() if tried["read"] == "EACCES" else 0,
            "seccomp": tried["fork"] == tried["socket"] == tried["chmod"] == "EPERM" and self.program is not None,
        }
        return {**held, "uid": self.user}

    def fork(self, channel: int, cpu_seconds: int) -> int:
        """Fork the child of one check, which takes over the descriptor `channel`. Returns its pid."""
        pid = os.fork()
        if pid:
            return pid
        try:
            os.dup2(channel, 3)
            try:
                self.lock(cpu_seconds)
            except OSError as error:
                os.write(3, dump_frame({"ready": f"locking down failed: {error}"}))
                os._exit(70)
            os.write(3, READY)  # before the source is here, so the candidate cannot have written it
            serve(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=3))
        finally:
            os._exit(71)


def _attempts() -> dict:
    def outcome(action) -> str:
        try:
            action()
        except OSError as error:
            return _ERRNO.get(error.errno, str(error.errno))
        return "done"

    # a fork that works must not go on here as a second process
    fork = outcome(lambda: os.fork() or os._exit(0))
    return {
        "read": outcome(lambda: os.close(os.open("/etc/passwd", os.O_RDONLY))),
        "fork": fork,
        "socket": outcome(lambda: socket.socket().close()),
        "chmod": outcome(lambda: os.chmod("/nonexistent-path-of-the-sandbox", 0o600)),
        "descriptors": outcome(lambda: [os.dup(3) for _ in range(lockdown.MAX_DESCRIPTORS)]),
    }


_ERRNO = {1: "EPERM", 2: "ENOENT", 13: "EACCES", 24: "EMFILE", 27: "EFBIG"}


def reap(pid: int, let_it_end: bool) -> bytes:
    """Kill one child with all its threads, wait for it, and report how it ended and what it used."""
    killed, give_up = False, time.monotonic() + LAST_WORDS
    while True:
        ended, status, usage = os.wait4(pid, 0 if killed or not let_it_end else os.WNOHANG)
        if ended:
            break
        if time.monotonic() > give_up:
            killed = True
            _kill(pid)
        else:
            time.sleep(0.001)
    # one that was already ending keeps its own status
    by_us = (killed or not let_it_end) and os.WIFSIGNALED(status)
    return REPORT.pack(status, by_us, usage.ru_utime, usage.ru_stime, usage.ru_maxrss)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    try:
        os.killpg(pid, signal.SIGKILL)  # it leads a group of its own; nothing else should be in there
    except OSError:
        pass


class Waiting(NamedTuple):
    """A child that is locked down and waits for its program."""

    pid: int
    channel: socket.socket  # the judge's end
    cpu_seconds: int


def prepare(zygote: Zygote, cpu_seconds: int) -> Waiting:
    """Fork a child ahead of its check."""
    ours, theirs = socket.socketpair()
    with theirs:
        return Waiting(zygote.fork(theirs.fileno(), cpu_seconds), ours, cpu_seconds)


def discard(waiting: Waiting | None) -> None:
    """Kill and reap a child that is not needed."""
    if waiting is not None:
        waiting.channel.close()
        _kill(waiting.pid)
        reap(waiting.pid, let_it_end=False)


def loop(zygote: Zygote, control: socket.socket) -> None:
    """Serve the judge until it goes away; then kill what runs and end."""
    child, waiting = 0, None
    while True:
        message = control.recv(16)
        kind = message[:1]
        if kind == b"F":
            cpu_seconds = START.unpack(message)[1]
            if waiting is not None and waiting.cpu_seconds != cpu_seconds:
                discard(waiting)
                waiting = None
            try:
                waiting = waiting or prepare(zygote, cpu_seconds)
            except OSError as error:
                control.send(START.pack(b"F", error.errno))
                continue
            socket.send_fds(control, [START.pack(b"F", 0)], [waiting.channel.fileno()])
            waiting.channel.close()
            child, waiting = waiting.pid, None
        elif kind in (b"K", b"W") and child:
            if kind == b"K":
                _kill(child)
            control.send(reap(child, let_it_end=kind == b"W"))
            child = 0
            with contextlib.suppress(OSError):  # while the judge is busy with its caller; else at the next check
                waiting = prepare(zygote, cpu_seconds)
        else:
            discard(waiting)
            if child:
                _kill(child)
                reap(child, let_it_end=False)
            os._exit(0)


def _warm_up() -> None:
    """Load what solutions import, without the work that `random` and `threading` do after every fork (0.4 ms)."""
    register, os.register_at_fork = os.register_at_fork, lambda **_: None
    for name in WARM:
        __import__(name)
    os.register_at_fork = register
    # every child starts from this state, so that a verdict on a random program can be had again
    sys.modules["random"].seed(0)


def main() -> None:
    """Arguments: the control socket's descriptor, the judge's pid, and the settings as JSON."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[3])
    sys.path.pop(0)  # this checkout; what is needed of it is imported by now
    _warm_up()
    parent = int(sys.argv[2])
    if lockdown.LINUX:
        lockdown.die_with_parent(parent)
        lockdown.no_new_privileges()
    namespaces = lockdown.enter_as_first(control) if settings["namespaces"] else []
    if namespaces:
        parent = 0  # it is outside, and has no number in here
    try:
        zygote = Zygote(settings["memory_mib"], int(sys.argv[2]))
        zygote.settle()
    except (OSError, ValueError) as error:
        control.send(json.dumps({"error": f"the zygote cannot give up its rights: {error}"}).encode())
        os._exit(1)
    if lockdown.LINUX:
        lockdown.die_with_parent(parent)  # again: a change of uid cleared it
    exec(compile("def warm():\n    return [1]\nwarm()", "<warm>", "exec"), {})
    gc.collect()
    gc.freeze()  # the collector of a child then writes to none of the pages it shares with us
    layers = {**zygote.try_out(), "namespaces": namespaces}
    control.send(json.dumps(layers).encode())
    loop(zygote, control)


if __name__ == "__main__":
    main()
