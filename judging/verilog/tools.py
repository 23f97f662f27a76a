"""Run one of the Verilog tools under the sandbox's locks and return its result.

A tool gets one text as its standard input and one as its descriptor 3, both in memory and read-only. It answers on its
standard output and error, whose length is limited. It writes no files, so checks share none and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import math
import mmap
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

from common import InputError
from judging import lockdown
from judging.python.zygote import Zygote

# the paths of a tool's first text, its answer, and its second text
STDIN, STDOUT, SECOND = (f"/proc/self/fd/{number}" for number in (0, 1, 3))
MAX_OUTPUT = 8 * lockdown.MIB  # bytes on standard output; a netlist of that size would not simulate in time
MAX_ERRORS = 256 * 1024  # bytes on standard error
INSTALL = "apt-get install iverilog yosys verilator (docs/verilog.md)"
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class NotStarted(Exception):
    """A tool could not be started under the locks; this is our fault or the machine's."""


class Result(NamedTuple):
    """The result of running one tool.

    Attributes:
        code: exit code, or -N for signal N.
        output, errors: the texts on standard output and error.
        late: wall or CPU time was used up.
        flood: it wrote more than it may.
    """

    code: int
    output: str
    errors: str
    late: bool
    flood: bool
    cpu_seconds: float
    peak_mib: float

    @property
    def good(self) -> bool:
        return self.code == 0 and not self.late and not self.flood


def find_tools() -> dict[str, str]:
    """Find the programs and their folders: ivlpp and ivl, vvp, yosys, verilator_bin.

    The drivers `iverilog` and `verilator` are left out, because they only start these, through a shell and Perl.

    Raises:
        InputError: one of them is not installed.
    """
    found = {name: shutil.which(name) for name in ("iverilog", "vvp", "yosys", "verilator_bin")}
    missing = [name.partition("_")[0] for name, path in found.items() if not path and name != "vvp"]
    if missing or not found["vvp"]:
        raise InputError(f"Verilog tasks need {', '.join(missing or ['vvp'])}: {INSTALL}")
    tools = {name: os.path.realpath(path) for name, path in found.items() if path}
    prefix = Path(tools.pop("iverilog")).parents[1]
    folders = [str(prefix / "lib" / "ivl"), *glob.glob(str(prefix / "lib" / "*" / "ivl"))]
    ivl = [folder for folder in folders if os.access(f"{folder}/ivl", os.X_OK)]
    roots = [os.environ.get("VERILATOR_ROOT", ""), str(Path(tools["verilator_bin"]).parents[1] / "share" / "verilator")]
    verilator = [root for root in roots if root and os.path.isdir(f"{root}/include")]
    if not ivl or not verilator:
        raise InputError(f"the files of {'verilator' if ivl else 'iverilog'} are not found: {INSTALL}")
    tools |= {"ivl_folder": ivl[0], "ivl": f"{ivl[0]}/ivl", "ivlpp": f"{ivl[0]}/ivlpp", "verilator_root": verilator[0]}
    return tools | {"yosys_folder": str(Path(tools["yosys"]).parents[1] / "share" / "yosys")}


class Toolbox(Zygote):
    """A starter of tools: each child locks itself down as a candidate's process does, and then executes the tool.

    There are two differences to Python's zygote. Exec is allowed, but only of the tools. And each child gives up its
    rights itself; this process keeps its own.
    """

    def __init__(self, memory_mib: int, judge: int, tools: dict[str, str]) -> None:
        self.memory_mib, self.judge, self.tools = memory_mib, judge, tools
        self.step, self.pid = "", os.getpid()
        self.root, self.keep_files = os.geteuid() == 0, False
        first, count = lockdown.SANDBOX_UIDS
        self.user = str(first + judge % count) if self.root else "kept"
        self.programs = [tools[name] for name in ("ivlpp", "ivl", "vvp", "yosys", "verilator_bin")]
        self.ruleset = None
        if lockdown.landlock_version():
            self.ruleset = lockdown.landlock_ruleset(*self._paths())
        self.program = lockdown.seccomp_program(allow_exec=True)
        self.threads = lockdown.MAX_THREADS + (0 if self.root else lockdown.threads_of(os.getuid()) + 1024)
        # memory shared with a child until its exec removes it, so neither a tool nor a candidate can write to it
        self.told = mmap.mmap(-1, mmap.PAGESIZE)
        self.environment = {"LANG": "C", "VERILATOR_ROOT": tools["verilator_root"], "MALLOC_ARENA_MAX": "2"}

    def _paths(self) -> tuple[list[str], list[str], list[str], list[str]]:
        """Return the paths that are readable, writable, runnable and listed, for `landlock_ruleset`.

        /proc must be listed, because Verilator looks for its input among the names in /proc/self/fd.
        """
        readable = [path for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64") if os.path.exists(path)]
        readable += [
            "/etc/ld.so.cache",
            *(self.tools[name] for name in self.tools if name.endswith(("folder", "root"))),
        ]
        loaders = glob.glob("/lib*/ld-linux*.so.*") + glob.glob("/lib/ld-musl*")
        runnable = [*self.programs, *(os.path.realpath(path) for path in loaders)]
        return readable, ["/dev/null"], runnable, ["/proc"]

    def lock(self, cpu_seconds: int) -> None:
        self.step = "rights"
        self.settle()
        super().lock(cpu_seconds)

    def run(self, tool: str, arguments: list[str], text: str, second: str = "", *, until: float) -> Result:
        """Run a tool until it ends, or until time.monotonic() reaches `until`.

        Args:
            text, second: its standard input and descriptor 3.

        Raises:
            NotStarted: the locks could not be put in place, or the program could not be executed.
        """
        left = max(until - time.monotonic(), 0.01)
        inputs = [_in_memory(text), _in_memory(second)]
        pipes = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
        self._tell("the fork")
        if self.root:  # ivl and yosys open standard output by its path, so their user must own it
            os.fchown(pipes[0][1], int(self.user), -1)
        try:
            pid = os.fork()
        except OSError as error:
            for descriptor in [*inputs, *pipes[0], *pipes[1]]:
                os.close(descriptor)
            raise NotStarted(f"fork: {error.strerror}") from None
        if pid == 0:
            self._become(self.tools[tool], arguments, inputs, [pipes[0][1], pipes[1][1]], math.ceil(left))
        for descriptor in [*inputs, pipes[0][1], pipes[1][1]]:
            os.close(descriptor)
        texts, late, flood = _collect([pipes[0][0], pipes[1][0]], [MAX_OUTPUT, MAX_ERRORS], until)
        if not late and not flood:  # it closed both outputs, so it is ending
            late = not _ends(pid, until)
        for kill in (os.killpg, os.kill):  # the group exists only after the child called setsid
            try:
                kill(pid, signal.SIGKILL)
            except OSError:
                pass
        _, status, usage = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime
        output, errors = (text.decode("utf-8", "replace") for text in texts)
        told = self.told[:].rstrip(b"\0").decode("utf-8", "replace")
        if told and not late:  # if it is late, earlier tools may have left it no time to start
            raise NotStarted(f"{tool} was not started: {told}")
        peak_mib = usage.ru_maxrss / 1024
        if code == -signal.SIGKILL and not late and not flood:
            late = cpu >= math.ceil(left)
            if not late and peak_mib < self.memory_mib / 2:  # with more, it may have exhausted the machine
                raise NotStarted(f"{tool} was killed from outside")
        late = late or code == -signal.SIGXCPU
        return Result(code, output, errors, late, flood, cpu, peak_mib)

    def _tell(self, text: str) -> None:
        """Note in shared memory what keeps the child from becoming the tool; "" means nothing."""
        self.told[:] = text.encode("utf-8", "replace")[:300].ljust(mmap.PAGESIZE, b"\0")

    def _become(self, path: str, arguments: list[str], inputs: list[int], outputs: list[int], cpu: int) -> None:
        """In the child, set up descriptors 0 to 3, lock down, and execute the tool. Does not return."""
        try:
            # first move them to high numbers: one may have the number that another must get
            moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in [inputs[0], *outputs, inputs[1]]]
            for number, descriptor in enumerate(moved):
                os.dup2(descriptor, number)
            _close_others({*range(4), self.ruleset})  # the caller may have any number open
            os.chdir("/")
            self.lock(cpu)
            self.step = "exec"
            self._tell("")
            os.execve(path, [path, *arguments], self.environment)
        except BaseException as error:
            self._tell(f"{self.step}: {error!r}")
        finally:
            os._exit(1)


def _close_others(kept: set[int | None]) -> None:
    """Close every descriptor except these. /proc lists them, for the limit may have been higher when one was opened."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed already
                os.close(number)


def _in_memory(text: str) -> int:
    """Return the descriptor of a nameless file in memory that holds this text and cannot be changed."""
    descriptor = os.memfd_create("text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    data = memoryview(text.encode("utf-8", "replace"))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def _collect(descriptors: list[int], limits: list[int], until: float) -> tuple[list[bytes], bool, bool]:
    """Read until all writers are gone, time runs out or an output exceeds its limit; then close the descriptors.

    Returns:
        the texts, whether time ran out, and whether one was too long.
    """
    texts = [bytearray() for _ in descriptors]
    poll, numbers = select.poll(), {descriptor: n for n, descriptor in enumerate(descriptors)}
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    late = flood = False
    while numbers and not late and not flood:
        ready = poll.poll(max(until - time.monotonic(), 0) * 1000)
        late = not ready
        for descriptor, _ in ready:
            chunk = os.read(descriptor, 1 << 16)
            if chunk:
                texts[numbers[descriptor]] += chunk
                flood = flood or len(texts[numbers[descriptor]]) > limits[numbers[descriptor]]
            else:
                poll.unregister(descriptor)
                del numbers[descriptor]
    for descriptor in descriptors:
        os.close(descriptor)
    return [bytes(text) for text in texts], late, flood


def _ends(pid: int, until: float) -> bool:
    """Wait for a child that closed its outputs, without reaping it; return whether it ended before `until`."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            return False
        time.sleep(0.0005)
    return True


def versions(toolbox: Any, until: float) -> dict[str, str]:
    """Return the first line that each tool prints about its version."""
    asked = {"ivl": ["-V"], "vvp": ["-V"], "yosys": ["-V"], "verilator_bin": ["--version"]}
    results = {name: toolbox.run(name, flags, "", until=until) for name, flags in asked.items()}
    lines = {name: (result.output + result.errors).strip().splitlines() for name, result in results.items()}
    return {name: text[0][:100] if text else f"does not start ({results[name].code})" for name, text in lines.items()}
