"""Ending the program, or dying, before the tests are done."""

# ruff: noqa: E501 (a program is one string)

from . import CRASH, FAIL, PROTOCOL, Attack

_AFTER = "    return x\n\n"  # a wrong body, then statements of the module


def _body(*lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines)


ATTACKS = [
    Attack("exit 0 at import", CRASH, _AFTER + "import sys\nsys.exit(0)\n"),
    Attack("exit 0 in the function", CRASH, _body("import sys", "sys.exit(0)")),
    Attack("exit 0 in a test that swallows all", CRASH, _body("import sys", "sys.exit(0)"), "swallowing"),
    Attack("_exit 0 at import", CRASH, _AFTER + "import os\nos._exit(0)\n"),
    Attack("_exit 0 in the function", CRASH, _body("import os", "os._exit(0)")),
    Attack("_exit 0 in a test that swallows all", CRASH, _body("import os", "os._exit(0)"), "swallowing"),
    Attack("raise SystemExit", CRASH, _body("raise SystemExit")),
    Attack("raise SystemExit of a subclass", CRASH, _body("class Done(SystemExit): pass", "raise Done(0)")),
    Attack("raise KeyboardInterrupt", CRASH, _body("raise KeyboardInterrupt")),
    Attack("raise GeneratorExit", CRASH, _body("raise GeneratorExit")),
    Attack("raise a BaseException of its own", FAIL, _body("class Odd(BaseException): pass", "raise Odd()")),
    Attack("quit()", CRASH, _body("quit()")),
    Attack("atexit that exits 0", FAIL, _AFTER + "import atexit, os\natexit.register(os._exit, 0)\n"),
    Attack(
        "excepthook that exits 0",
        FAIL,
        "    raise RuntimeError('no')\n\nimport os, sys\nsys.excepthook = lambda *a: os._exit(0)\n"
        "sys.unraisablehook = sys.excepthook\n",
    ),
    Attack("exec of /bin/true", FAIL, _body("import os", "os.execv('/bin/true', ['true'])")),
    Attack(
        "a thread that exits",
        CRASH,
        _body("import os, threading, time", "threading.Thread(target=os._exit, args=(0,)).start()", "time.sleep(3)"),
    ),
    Attack(
        "exit_group by ctypes",
        CRASH,
        _body("import ctypes", "ctypes.CDLL(None).syscall(231, 0)", "ctypes.CDLL(None)._exit(0)"),
    ),
    Attack("SIGKILL of itself", FAIL, _body("import os", "os.kill(os.getpid(), 9)", "return x")),
    Attack("raise_signal SIGKILL", FAIL, _body("import signal", "signal.raise_signal(9)", "return x")),
    Attack(
        "pthread_kill of itself",
        FAIL,
        _body("import signal, threading", "signal.pthread_kill(threading.get_ident(), 9)", "return x"),
    ),
    Attack("dies of its own SIGALRM", CRASH, _body("import signal", "signal.setitimer(0, 0.01)", "signal.pause()")),
    Attack("dies of SIGPROF", CRASH, _body("import signal", "signal.setitimer(2, 0.01)", "while True: pass")),
    Attack("segfault by ctypes", CRASH, _body("import ctypes", "ctypes.string_at(0)")),
    Attack("segfault at import", CRASH, _AFTER + "import ctypes\nctypes.string_at(1)\n"),
    Attack("segfault in a test that swallows all", CRASH, _body("import ctypes", "ctypes.string_at(0)"), "swallowing"),
    Attack("abort", CRASH, _body("import os", "os.abort()")),
    Attack("a jump into nothing", CRASH, _body("import ctypes", "ctypes.CFUNCTYPE(None)(4096)()")),
    Attack(
        "C stack overflow",
        CRASH,
        _body(
            "import sys", "sys.setrecursionlimit(10**9)", "t = ()", "for _ in range(10**6): t = (t,)", "return hash(t)"
        ),
    ),
    Attack("closes its channel", PROTOCOL, _body("import os", "os.close(3)", "import time", "time.sleep(3)")),
    Attack("closes every descriptor", ("protocol", "crash"), _body("import os", "os.closerange(0, 1000)", "return x")),
    Attack(
        "puts another socket in the place of its channel",
        ("protocol", "crash"),
        _body("import os, socket", "a, b = socket.socketpair()", "os.dup2(a.fileno(), 3)", "return 2 * x"),
    ),
    Attack(
        "shuts its channel down",
        PROTOCOL,
        _body("import socket, time", "socket.socket(fileno=3).shutdown(2)", "time.sleep(3)"),
    ),
]
