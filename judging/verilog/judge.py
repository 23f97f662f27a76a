"""Judge Verilog in one worker: take jobs over a socket from judging/pool.py, as judging/python/judge.py does.

A check runs these programs, one after the other, each locked down as tools.py says. The right column names the part
of the verdict that each decides.

    ivlpp         expands the candidate's macros; source.check_source checks the result
    ivl           compiles it (iverilog -g2012 -Wall): `compilation`
    yosys         writes a netlist, then maps it to gates: `synthesis`
    ivlpp, ivl    compile the testbench and the netlist, which source.check_netlist has rewritten
    vvp           simulates them: `functional`
    verilator     reads the candidate's source: `quality`
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import secrets
import select
import socket
import sys
import time
from typing import Any

if __name__ == "__main__":  # started by path: search modules in the project's folder, not in this one
    sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

from judging import lockdown
from judging.codec import MAX_REQUEST, dump_frame, split_frame
from judging.python.session import one_line
from judging.tasks import candidate_source
from judging.verilog.ports import check_ports, task_ports
from judging.verilog.source import (
    check_netlist,
    check_source,
    check_testbench,
    latches_allowed,
    read_summary,
    seal,
    without_waveforms,
)
from judging.verilog.tools import SECOND, STDIN, STDOUT, NotStarted, Result, Toolbox, versions
from judging.verilog.watchers import without_watchers
from judging.verilog_tokens import Refused

WARNING_COST = 0.04  # each warning of the compiler takes this from `compilation`
LINT_COST = 0.05  # each warning of the linter takes this from `quality`, unless its kind is in LINT_COSTS
LINT_COSTS = {kind: 0.15 for kind in "CASEOVERLAP COMBDLY LATCH MULTIDRIVEN UNDRIVEN UNOPTFLAT WIDTH".split()}
LONG_LINE, LONG_LINE_COST = 100, 0.02  # each line of more characters takes this from `quality`
MAX_NETLIST = 2 * 1024 * 1024  # characters
SYNTHESIS_SHARE = 0.6  # share of the remaining time for yosys, so that a large design is still simulated
WORKER_MEMORY = 4 << 30  # bytes

_GENERATION = (
    "2012 no-specify assertions xtypes io-range-error no-strict-ca-eval no-strict-expr-width shared-loop-index "
    "no-verilog-ams icarus-misc"
).split()  # the driver iverilog passes these to ivl for -g2012
_PLACE = re.compile(rf"(?:(?<=^)|(?<=\s))(?:{STDIN}|-):(?=\d)")
_INPUT_ASSIGNED = re.compile(r"error: (\w+)\S* is not a valid l-value")
_LATCHES = r"t:$dlatch t:$adlatch t:$dlatchsr t:$sr t:$_DLATCH* t:$_SR_*"

MAX_EXPANDED = 256  # number of expanded testbenches that are kept
_expanded: dict[str, str] = {}


class Stop(Exception):
    """The check ends with this status and reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def ivl_config(folder: str, simulate: bool) -> str:
    """Return the configuration that the driver iverilog would write for ivl.

    Args:
        folder: the folder of ivl and its modules.
        simulate: generate code for vvp, as for -g2012; otherwise no code, as for -g2012 -Wall.
    """
    lines = [f"basedir:{folder}", *(f"module:{folder}/{name}.vpi" for name in ("system", "v2005_math", "v2009"))]
    lines += [f"generation:{name}" for name in _GENERATION]
    lines += ["ignore_missing_modules:false", "iwidth:32", "widthcap:65536", "functor:cprop", "functor:nodangle"]
    if simulate:
        lines += [f"out:{STDOUT}", "flag:DLL=vvp.tgt", "flag:VVP_EXECUTABLE=/usr/bin/vvp"]
    else:
        lines += ["warnings:nidRpsta", "out:/dev/null", "flag:DLL=null.tgt"]
    return "\n".join(lines) + "\n"


def synthesis_script(top_module: str, latches: bool) -> str:
    """Return Yosys's commands: write the word-level netlist to standard output, for the simulation; then map to gates.

    A combinational loop is a hand-made latch, so `check` runs only where latches are not allowed. Standard output is
    opened by its path, so the netlist is complete once it is written; what yosys buffers itself would be lost if a
    later step fails.
    """
    netlist = f"""
        read_verilog -sv -nopp {STDIN}; hierarchy -check -top {top_module}
        proc; flatten; opt; memory -nomap; opt_clean; write_verilog -noattr {STDOUT}
        fsm; memory_map; opt_clean; simplemap; techmap; opt_clean"""
    return netlist if latches else f"{netlist}; check -assert; select -assert-none {_LATCHES}"


class Check:
    """One check; `parts` and `counts` are filled in as it proceeds."""

    def __init__(self, tools: Toolbox, job: dict[str, Any], until: float) -> None:
        self.tools, self.job, self.until = tools, job, until
        self.parts = dict.fromkeys(("compilation", "functional", "synthesis", "quality"), 0.0)
        self.counts: tuple[int, int] | None = None
        self.cpu_seconds = self.peak_mib = 0.0

    def run(self, tool: str, arguments: list[str], text: str, second: str = "", until: float = 0.0) -> Result:
        result = self.tools.run(tool, arguments, text, second, until=until or self.until)
        self.cpu_seconds += result.cpu_seconds
        self.peak_mib = max(self.peak_mib, result.peak_mib)
        return result

    def judge(self) -> tuple[str, str]:
        """Run the check and return status and reason."""
        task = self.job["task"]
        secret = secrets.token_hex(16)
        try:
            self.ports = task_ports(task["prompt"], task["top_module"])
            testbench, inverted = seal(self.testbench(task["test"]), secret)
        except Refused as error:
            return "refused", str(error)
        try:
            return self.judge_completion(testbench, secret, inverted)
        except Refused as error:
            return "fail", str(error)
        except Stop as stop:
            return stop.status, str(stop)
        except (NotStarted, OSError):
            raise
        except Exception as error:  # the testbench was fine, so the completion caused this and is judged
            return "fail", one_line(f"the completion cannot be read: {error!r}")

    def judge_completion(self, testbench: str, secret: str, inverted: bool) -> tuple[str, str]:
        """Judge the completion, given a good testbench; return status and reason, or raise Refused or Stop."""
        task = self.job["task"]
        top_module, latches = task["top_module"], bool(task.get("latches"))
        source = self.compile(candidate_source(task, self.job["completion"]))
        netlist = self.synthesise(source, top_module, latches)
        try:
            return self.simulate(netlist, testbench, secret, inverted)
        finally:
            self.lint(source, top_module, latches)

    def testbench(self, test: str) -> str:
        """Return the testbench with macros expanded (once for all checks of a task), or raise Refused."""
        if test not in _expanded:
            check_testbench(test)
            flat = self.run("ivlpp", [STDIN], without_waveforms(test))
            if not flat.good:
                raise Refused(one_line(f"the testbench is not taken by the preprocessor: {flat.errors}"))
            while len(_expanded) >= MAX_EXPANDED:
                del _expanded[next(iter(_expanded))]
            _expanded[test] = flat.output
        return _expanded[test]

    def compile(self, program: str) -> str:
        """Compile the program and return its source as the other tools get it; raise Refused or Stop if that fails."""
        warnings = 0
        if "`" in program:  # without a backtick the preprocessor has nothing to do
            check_source(program, preprocessed=False)
            flat = self.run("ivlpp", ["-Wredef-chg", STDIN], program)
            # the exit code does not tell: it is 0 for 256 errors, and always for some kinds of errors
            if not flat.good or any("error:" in line and "warning:" not in line for line in flat.errors.splitlines()):
                raise _stop(flat, "the preprocessor", "syntax")
            program, warnings = flat.output, flat.errors.count("warning:")
        source = check_source(without_watchers(program), preprocessed=True)
        config = ivl_config(self.tools.tools["ivl_folder"], False)
        compiled = self.run("ivl", ["-v", f"-C{SECOND}", "-"], source, config)
        # the exit code counts errors and is 0 for 256 of them; so look for ivl's message about its last step too
        if not compiled.good or "\nCODE GENERATION\n" not in compiled.output:
            assigned = _INPUT_ASSIGNED.search(compiled.errors)
            if assigned and self.ports.get(assigned[1]) == "input":
                raise Refused(f"the module drives its input {assigned[1][:60]}")
            raise _stop(compiled, "the compiler", "syntax")
        warnings += compiled.errors.count("warning:")
        self.parts["compilation"] = max(0.0, 1.0 - WARNING_COST * warnings)
        return source

    def synthesise(self, source: str, top_module: str, latches: bool) -> str:
        """Return a netlist of the candidate that is safe to simulate; raise Refused or Stop if there is none."""
        until = time.monotonic() + SYNTHESIS_SHARE * (self.until - time.monotonic())
        done = self.run(
            "yosys",
            ["-Q", "-T", "-q", "-p", synthesis_script(top_module, latches)],
            latches_allowed(source),
            until=until,
        )
        netlist, end, _ = done.output.partition("\nendmodule\n")
        if not end and done.good:
            raise Refused("yosys finds nothing in the module")
        if not end:
            raise _stop(done, "yosys", "fail")
        self.parts["synthesis"] = float(done.good)
        if len(netlist) > MAX_NETLIST:
            raise Refused(f"the netlist has {len(netlist)} characters, more than {MAX_NETLIST}")
        check_ports(netlist, self.ports)
        return check_netlist(netlist + end, top_module)

    def simulate(self, netlist: str, testbench: str, secret: str, inverted: bool) -> tuple[str, str]:
        compiled = self.link(netlist, testbench)
        if not compiled.good or not compiled.output:  # the exit code is 0 for 256 errors, but then there is no output
            if not self.job.get("reference", "").strip():  # a reference would show whose fault it is
                self.try_testbench(testbench)
            raise _stop(compiled, "the testbench with the module", "fail")
        ran = self.run("vvp", ["-n", STDIN], compiled.output)
        if not ran.good:
            raise _stop(ran, "the simulation", "fail")
        self.counts = read_summary(ran.output, secret, inverted)
        if self.counts is None:
            return "fail", "the simulation ended without the testbench's summary"
        passed, total = self.counts
        self.parts["functional"] = passed / total
        return ("pass", "") if passed == total else ("fail", f"{total - passed} of {total} checks did not hold")

    def link(self, module: str, testbench: str) -> Result:
        config = ivl_config(self.tools.tools["ivl_folder"], True)
        return self.run("ivl", [f"-C{SECOND}", "-"], f"{module}\n{testbench}", config)

    def try_testbench(self, testbench: str) -> None:
        """Raise Stop with status `refused` if the testbench does not compile with an empty module either."""
        header = self.run("ivlpp", [STDIN], f"{self.job['task']['prompt']}\nendmodule\n")
        compiled = self.link(header.output, testbench)
        in_time = not (header.late or compiled.late)  # the completion decides how much time is left
        if in_time and header.good and not compiled.output:
            told = _stop(compiled, "the compiler", "refused")
            raise Stop("refused", one_line(f"the testbench does not compile: {told}", 300))

    def lint(self, source: str, top_module: str, latches: bool) -> None:
        flags = [
            "--lint-only",
            "-Wall",
            "-Wno-fatal",
            "-Wno-DECLFILENAME",
            "-Wno-EOFNEWLINE",
            "--top-module",
            top_module,
        ]
        result = self.run("verilator_bin", [*flags, *(["-Wno-LATCH"] if latches else []), STDIN], source)
        if not result.good:
            return  # `quality` stays 0: the linter failed or took too long
        kinds = re.findall(r"(?m)^%Warning-([A-Z0-9]+):", result.errors)
        cost = sum(LINT_COSTS.get(kind, LINT_COST) for kind in kinds)
        cost += LONG_LINE_COST * sum(len(line) > LONG_LINE for line in self.job["completion"].splitlines())
        self.parts["quality"] = max(0.0, 1.0 - cost)


def _stop(result: Result, what: str, status: str) -> Stop:
    """Return a Stop that says why a tool failed: with `status`, unless it ran out of time, memory or output."""
    if result.late:
        return Stop("timeout", f"{what} did not end in time")
    if result.flood:
        return Stop("fail", f"{what} wrote more than it may")
    if "bad_alloc" in result.errors or "out of memory" in result.errors.lower():
        return Stop("memory", f"{what} ran out of memory")
    if result.code < 0:
        return Stop("crash", f"{what} died of signal {-result.code}")
    lines = [line.strip() for line in (result.errors or result.output).splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower() or "sorry:" in line] or lines
    told = told or [f"exit code {result.code}"]
    return Stop(status, one_line(f"{what}: {_PLACE.sub('line ', told[0])}", 300))


def check(tools: Toolbox, job: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the verdict on one job."""
    started = time.monotonic()
    if job.get("ask") == "versions":
        return {"status": "pass", "reason": json.dumps(versions(tools, started + job["time_limit"]))}
    state = Check(tools, job, started + job["time_limit"])
    status, reason = state.judge()
    passed, total = state.counts or (None, None)
    reason = one_line(reason, 300)  # a name in it may be as long as the source
    fields = {"status": status, "reason": reason, "tests_passed": passed, "tests_total": total, "parts": state.parts}
    if status == "refused":
        fields["parts"] = None
    used = {"cpu_seconds": state.cpu_seconds, "peak_mib": state.peak_mib}
    return fields | used | {"wall_seconds": time.monotonic() - started}


def serve(tools: Toolbox, caller: socket.socket) -> None:
    """Answer jobs until the caller closes the socket or ends."""
    poll, parent = select.poll(), os.getppid()
    poll.register(caller, select.POLLIN)
    buffer = bytearray()
    while True:
        while (frame := split_frame(buffer, MAX_REQUEST)) is None:
            while not poll.poll(1000):
                if os.getppid() != parent:  # the caller is gone, though a fork of it may hold the socket open
                    return
            chunk = caller.recv(1 << 18)
            if not chunk:
                return
            buffer += chunk
        del buffer[: frame[1]]
        try:
            reply = check(tools, frame[0])
        except NotStarted as error:
            reply = {"status": "infrastructure", "reason": one_line(error)}
        except Exception as error:  # our own error, which must not be blamed on the completion
            reply = {"status": "infrastructure", "reason": one_line(f"the worker failed: {error!r}")}
        caller.sendall(dump_frame(reply))


def main() -> None:
    """Serve checks; argv: descriptor of the socket to the caller, the caller's pid, the settings as JSON."""
    caller = socket.socket(fileno=int(sys.argv[1]))
    caller.set_inheritable(False)  # no tool may get the socket, because verdicts are sent through it
    settings, parent, number = json.loads(sys.argv[3]), int(sys.argv[2]), os.getpid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if settings["core"] is not None:
        os.sched_setaffinity(0, {settings["core"]})
    lockdown.die_with_parent(parent)
    lockdown.no_new_privileges()
    namespaces = lockdown.enter_as_first(caller) if settings["namespaces"] else []
    if namespaces:
        lockdown.die_with_parent(0)  # the parent is outside, and has no id in this namespace
    tools = Toolbox(settings["memory_mib"], number, settings["tools"])
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY, WORKER_MEMORY))
    caller.sendall(dump_frame({**tools.try_out(), "namespaces": namespaces}))
    gc.freeze()
    try:
        serve(tools, caller)
    except OSError:
        pass  # the caller is gone
    os._exit(0)


if __name__ == "__main__":
    main()
