"""The other end of `sandbox.Sandbox`: a small interpreter that forks one child for each check.

Reads one JSON request a line on standard input, answers one JSON line on standard output. Standard library only, so
that a fork is cheap.
"""

import gc
import json
import os
import resource
import select
import signal
import sys
import time
import traceback


def run_check(request: dict, report: int) -> None:
    """In the child: run the candidate, then the tests; only a reached last line reports the secret."""
    resource.setrlimit(resource.RLIMIT_AS, (request["memory_mib"] << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(max(1, round(request["time_limit"] + 0.5)))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.write(report, json.dumps(_verdict(request)).encode() + b"\n")


def _verdict(request: dict) -> dict:
    scope: dict = {"__name__": "candidate"}
    try:
        candidate = compile(request["candidate"], "<completion>", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return {"status": "syntax", "reason": f"{type(error).__name__}: {error}"}
    try:
        exec(candidate, scope)
        name = request["entry_point"]
        if not callable(scope.get(name)):
            return {"status": "no_entry_point", "reason": f"{name} is not a function after the program ran"}
        exec(compile(request["test"], "<test>", "exec"), scope)
    except MemoryError:
        return {"status": "memory", "reason": f"more than {request['memory_mib']} MiB"}
    except BaseException as error:
        return {"status": "fail", "reason": _reason(error, request)}
    return {"status": "pass", "reason": "", "proof": request["secret"]}


def _reason(error: BaseException, request: dict) -> str:
    where = ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in ("<completion>", "<test>"):
            source = request["candidate"] if frame.filename == "<completion>" else request["test"]
            lines = source.splitlines()
            where = f" at {lines[frame.lineno - 1].strip()!r}" if frame.lineno <= len(lines) else ""
            break
    return f"{type(error).__name__}: {error}{where}".replace("\n", " ")[:300]


def check(request: dict) -> dict:
    """Fork, wait as long as the limit allows, kill the child's whole group, and say what happened."""
    started = time.monotonic()
    inlet, outlet = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.close(inlet)
            run_check(request, outlet)
        finally:
            os._exit(0)
    os.close(outlet)
    data, expired = b"", False
    while not data.endswith(b"\n"):
        left = started + request["time_limit"] - time.monotonic()
        if left <= 0 or not select.select([inlet], [], [], left)[0]:
            expired = True
            break
        chunk = os.read(inlet, 65536)
        if not chunk:
            break
        data += chunk
    os.close(inlet)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    answer = {"wall_seconds": time.monotonic() - started, "cpu_seconds": usage.ru_utime + usage.ru_stime,
              "peak_mib": usage.ru_maxrss / 1024}  # fmt: skip
    if expired:
        return answer | {"status": "timeout", "reason": f"no result after {request['time_limit']:g} s"}
    try:
        told = json.loads(data)
        if told["status"] == "pass" and told.get("proof") != request["secret"]:
            return answer | {"status": "crash", "reason": "ended without proof that the last test was reached"}
        return answer | {"status": str(told["status"]), "reason": str(told["reason"])}
    except (ValueError, KeyError, TypeError):
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "an early exit"
        return answer | {"status": "crash", "reason": f"the program ended by {how} before the tests did"}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; end of input ends the worker
    gc.freeze()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(check(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
