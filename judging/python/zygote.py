"""Fork one locked-down child for each check, and always kill and reap it, from a small separate process.

The zygote is started by exec with an almost empty environment. So nothing of the training process (its secrets, its
4 GiB heap, its CUDA context) is ever mapped in a child, and a fork takes well under a millisecond. It reads neither the
candidates' source nor their results: those cross a socket between judge and child, whose ends the zygote passes on and
closes.

Datagrams from the judge: `START` asks for a child; the answer has its socket attached. b"K" means: kill the child, reap
it, answer with `REPORT`. b"W" means the same for a child that seems to have ended; it first gets a moment to end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import select
import signal
import socket
import struct
import sys
import time
from importlib import util
from typing import NamedTuple

if __name__ == "__main__":  # started by path: search modules in the project's folder, not in this one
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

from judging import lockdown, root, semlock, threads
from judging.codec import dump_frame
from judging.paths import Paths, read_all
from judging.python.runner import serve, warm_up
from judging.threads import Doorman

START = struct.Struct("<cI")  # "F", CPU seconds; in the answer "F", errno
READY = dump_frame({"ready": ""})
REPORT = struct.Struct("<i?ddq")  # wait status, killed by us, user s, system s, peak KiB
LAST_WORDS = 0.25  # seconds that a child which has closed its socket gets to end by itself

# The modules that solutions import most: loaded once here, not in every check. Every shared library among them makes
# every fork and every exit a little slower, so the list is short; a solution imports the rest itself.
WARM = (
    "abc bisect collections copy datetime enum functools heapq io itertools json math operator random re string time "
    "types typing"
).split()


class Zygote:
    """The restrictions that every child of this process gets: limits, the Landlock ruleset, the seccomp program."""

    last_pid: int | None = None  # a descriptor; writing to it sets the process id of the next process
    stale = math.inf  # time.time() from which a check's reads may change an access time again

    def __init__(self, memory_mib: int, judge: int, readable: Paths, running: int | None) -> None:
        self.memory_mib, self.judge, self.readable = memory_mib, judge, readable
        self.step = ""  # the step of `lock` that is being taken
        self.pid = os.getpid()
        self.root, self.user = os.geteuid() == 0, "kept"
        paths = lockdown.interpreter_paths(readable)
        self.ruleset = None
        if lockdown.landlock_version():
            self.ruleset = lockdown.landlock_ruleset(paths, ["/dev/null"])
        self.program = lockdown.seccomp_program()
        # as root, take another user's id, unless other users cannot read this interpreter
        self.keep_files = self.root and not lockdown.readable_by_others(readable.shown)
        # The kernel counts threads per uid and per user namespace. Without either of our own, all that our user runs
        # counts.
        self.counted_apart = self.root or running is None
        self.asks = not self.counted_apart and threads.available()
        others = 2 if self.counted_apart else running + 1024
        self.threads = lockdown.MAX_THREADS + others

    def settle(self) -> None:
        """Give up every right that forking and killing do not need, once for all children."""
        if self.last_pid is not None:
            lockdown.keep_capabilities()
        if self.root:
            uid = lockdown.drop_user(self.judge, self.keep_files)
            self.user = f"real id {uid}, files as root" if self.keep_files else f"{uid}"
        lockdown.limit_resources(self.memory_mib, self.threads)
        if lockdown.LINUX:
            lockdown.drop_capabilities(None if self.last_pid is None else lockdown.CHECKPOINT_RESTORE)
        if self.last_pid is not None:
            try:
                self.restart_pids()
            except OSError:  # before Linux 5.9 this needs more rights than we keep
                self.last_pid = None

    def restart_pids(self) -> None:
        """Give the next process the id after ours, so that no check can tell how many checks came before it."""
        os.pwrite(self.last_pid, b"%d" % self.pid, 0)

    def lock(self, cpu_seconds: int) -> None:
        """In a child, give up all remaining rights."""
        os.setsid()
        if self.last_pid is not None:
            lockdown.drop_capabilities()
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
        """Lock one child down, let it try forbidden actions, and return the layers that held, or an "error"."""
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
        ):  # try again without this layer; the caller decides whether that is enough
            setattr(self, {"landlock": "ruleset", "seccomp": "program"}[tried["step"]], None)
            return self.try_out()
        if "error" in tried:
            return tried
        held = {
            "rlimits": tried["descriptors"] == "EMFILE",
            "landlock": lockdown.landlock_version() if tried["list"] == "EACCES" else 0,
            "seccomp": tried["fork"] == tried["socket"] == tried["chmod"] == "EPERM" and self.program is not None,
        }
        return {**held, "uid": self.user}

    def fork(self, channel: int, cpu_seconds: int, doorman: Doorman | None = None) -> int:
        """Fork the child for one check, which takes over the descriptor `channel`; return its pid."""
        if time.time() > self.stale:
            self.stale = read_all(self.readable)
        if self.last_pid is not None:
            self.restart_pids()
        pid = os.fork()
        if pid:
            return pid
        try:
            os.dup2(channel, 3)
            null = os.open("/dev/null", os.O_RDWR)  # opened anew: processes that share one see each other's flags
            for stream in range(3):
                os.dup2(null, stream)
            try:
                if doorman is not None:
                    threads.ask_about_threads(doorman.theirs)
                self.lock(cpu_seconds)
            except OSError as error:
                os.write(3, dump_frame({"ready": f"locking down failed: {error}"}))
                os._exit(70)
            os.write(3, READY)  # the source has not arrived yet, so the candidate cannot have written this
            serve(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=3))
        finally:
            os._exit(71)


def _attempts() -> dict:
    def outcome(action) -> str:
        try:
            action()
        except OSError as error:
            return _ERRNO.get(error.errno, str(error.errno))
        return "done"

    # if fork works, the second process must not continue here
    fork = outcome(lambda: os.fork() or os._exit(0))
    return {
        "list": outcome(lambda: os.close(os.open("/", os.O_RDONLY))),  # exists under any root
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
    # a child that was already ending keeps its own status
    by_us = (killed or not let_it_end) and os.WIFSIGNALED(status)
    return REPORT.pack(status, by_us, usage.ru_utime, usage.ru_stime, usage.ru_maxrss)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    try:
        os.killpg(pid, signal.SIGKILL)  # its process group; nothing else should be in there
    except OSError:
        pass


class Child(NamedTuple):
    """A locked-down child that waits for its program or runs it."""

    pid: int
    channel: socket.socket  # the judge's end
    cpu_seconds: int
    doorman: Doorman | None

    def kill(self) -> None:
        _kill(self.pid)

    def reap(self, let_it_end: bool) -> bytes:
        report = reap(self.pid, let_it_end)
        if self.doorman is not None:
            self.doorman.close()
        return report


def prepare(zygote: Zygote, cpu_seconds: int) -> Child:
    """Fork a child before its check arrives."""
    ours, theirs = socket.socketpair()
    doorman = Doorman() if zygote.asks else None
    with theirs:
        child = Child(zygote.fork(theirs.fileno(), cpu_seconds, doorman), ours, cpu_seconds, doorman)
    if doorman is not None:
        doorman.theirs.close()
    return child


def discard(child: Child | None) -> None:
    """Kill and reap a child that is not needed."""
    if child is not None:
        child.channel.close()
        child.kill()
        child.reap(let_it_end=False)


def next_message(control: socket.socket, child: Child | None) -> bytes:
    """Return the judge's next message; meanwhile answer the kernel's questions about the child's threads."""
    while child is not None and child.doorman is not None and child.doorman.open:
        poll = select.poll()
        for descriptor in (control, child.doorman):
            poll.register(descriptor, select.POLLIN)
        events = dict(poll.poll())
        if control.fileno() in events:
            break
        if events[child.doorman.fileno()] & select.POLLIN:
            child.doorman.answer(child.pid)
        else:
            child.doorman.open = False  # the child has ended
    return control.recv(16)


def loop(zygote: Zygote, control: socket.socket) -> None:
    """Serve the judge until it goes away; then kill the children and exit."""
    child: Child | None = None
    waiting: Child | None = None
    while True:
        message = next_message(control, child)
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
            child, waiting = waiting, None
        elif kind in (b"K", b"W") and child is not None:
            if kind == b"K":
                child.kill()
            control.send(child.reap(let_it_end=kind == b"W"))
            child = None
            with contextlib.suppress(OSError):  # now, while the judge is busy; or else at the next check
                waiting = prepare(zygote, cpu_seconds)
        else:
            discard(waiting)
            discard(child)
            os._exit(0)


def _warm_up() -> None:
    """Load the modules in `WARM`, but prevent the work that `random` and `threading` do after every fork (0.4 ms)."""
    register, os.register_at_fork = os.register_at_fork, lambda **_: None
    for name in WARM:
        __import__(name)
    os.register_at_fork = register
    sys.meta_path.insert(0, semlock.Finder)
    # every child starts from this state, so that the verdict on a random program can be reproduced
    sys.modules["random"].seed(0)


def _freeze_finders(paths: Paths) -> None:
    """Make imports work without listing the folders of sys.path, which a child may not do."""
    chosen = {os.path.split(path) for path in paths.shown}
    util.find_spec("no_such_module_anywhere")  # makes Python list every folder
    for folder in set(sys.path_importer_cache) - set(sys.path):
        del sys.path_importer_cache[folder]  # it holds the names of files in this checkout
    for folder in sys.path:
        finder = sys.path_importer_cache.get(folder)
        if hasattr(finder, "_fill_cache"):
            if folder not in paths.library:
                finder._path_cache = {name for name in finder._path_cache if (folder, name) in chosen}
            finder._fill_cache = lambda: None


def _enter_root(paths: Paths) -> str:
    """Change to our own root folder; return the layer's name, or "" if that is not possible."""
    try:
        root.enter(paths)
    except OSError:
        return ""
    return "own root"


def main() -> None:
    """Start the zygote; argv: the control socket's descriptor, the judge's pid, the settings as JSON."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[3])
    sys.path.pop(0)  # this checkout; everything needed from it is imported by now
    _warm_up()
    parent = int(sys.argv[2])
    if lockdown.LINUX:
        lockdown.die_with_parent(parent)
        lockdown.no_new_privileges()
    paths = Paths(*settings["paths"])
    _freeze_finders(paths)
    running = lockdown.threads_of(os.getuid()) if os.geteuid() else 0  # now, while /proc is visible
    namespaces = lockdown.enter_as_first(control, mounts=True) if settings["namespaces"] else []
    last_pid, files = None, ""
    if namespaces:
        parent = 0  # the parent is outside, and has no id in this namespace
        with contextlib.suppress(OSError):
            last_pid = os.open("/proc/sys/kernel/ns_last_pid", os.O_WRONLY | os.O_CLOEXEC)
    if "mount" in namespaces:
        files = _enter_root(paths)
    try:
        if "user" in namespaces and lockdown.counts_threads_by_namespace():
            running = None
        zygote = Zygote(settings["memory_mib"], int(sys.argv[2]), paths, running)
        zygote.last_pid = last_pid
        zygote.stale = math.inf if files else read_all(paths)
        zygote.settle()
    except (OSError, ValueError) as error:
        control.send(json.dumps({"error": f"the zygote cannot give up its rights: {error}"}).encode())
        os._exit(1)
    if lockdown.LINUX:
        lockdown.die_with_parent(parent)  # again: a change of uid cleared it
    warm_up()
    gc.collect()
    lockdown.trim_heap()
    gc.freeze()  # so that a child's garbage collector writes to none of the pages that it shares with us
    layers = {**zygote.try_out(), "namespaces": namespaces, "files": files, "same pid": zygote.last_pid is not None}
    layers["threads"] = "own limit" if zygote.counted_apart else "asked about" if zygote.asks else "the user's limit"
    control.send(json.dumps(layers).encode())
    loop(zygote, control)


if __name__ == "__main__":
    main()
