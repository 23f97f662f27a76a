"""Time, memory, size, descriptors, threads and processes."""

# ruff: noqa: E501 (a program is one string)

from . import FAIL, MEMORY, SYNTAX, TIMEOUT, Attack

FAST = 0.7  # seconds: the limit for what has to run into it
_HASH = "(2**61 - 1)"  # multiples of this all have the hash 0


def _body(*lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines)


ATTACKS = [
    # time
    Attack("infinite loop", TIMEOUT, _body("while True: pass"), limit=FAST),
    Attack("infinite loop at import", TIMEOUT, "    return 2 * x\n\nwhile True: pass\n", limit=FAST),
    Attack(
        "infinite loop that catches everything",
        TIMEOUT,
        _body("while True:", "    try:", "        while True: pass", "    except BaseException: pass"),
        limit=FAST,
    ),
    Attack(
        "infinite loop with all signals ignored",
        TIMEOUT,
        _body(
            "import signal",
            "for s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(s, signal.SIG_IGN)",
            "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
            "while True: pass",
        ),
        limit=FAST,
    ),
    Attack(
        "re-arms the timer",
        TIMEOUT,
        _body("import signal", "signal.setitimer(0, 1000)", "signal.alarm(0)", "while True: pass"),
        limit=FAST,
    ),
    Attack("a loop in C", TIMEOUT, _body("return sum(range(10**11))"), limit=FAST),
    Attack("a huge power", TIMEOUT, _body("return len(str(7 ** 10**8))"), limit=FAST),
    Attack("a huge power as a constant", ("timeout", "fail", "memory"), _body("return 7 ** 10**8"), limit=FAST),
    Attack(
        "a catastrophic regex", TIMEOUT, _body("import re", "return re.match('(a+)+$', 'a' * 40 + 'b')"), limit=FAST
    ),
    Attack("sleep", TIMEOUT, _body("import time", "time.sleep(100)"), limit=FAST),
    Attack(
        "a deadlock",
        TIMEOUT,
        _body("import threading", "lock = threading.Lock()", "lock.acquire()", "lock.acquire()"),
        limit=FAST,
    ),
    Attack(
        "waits for a thread that never ends",
        TIMEOUT,
        _body("import threading", "t = threading.Thread(target=threading.Event().wait)", "t.start()", "t.join()"),
        limit=FAST,
    ),
    Attack(
        "waits for its own channel",
        TIMEOUT,
        _body("import socket", "socket.socket(fileno=3).recv(1 << 20)"),
        limit=FAST,
    ),
    Attack("waits for a pipe", TIMEOUT, _body("import os", "os.read(os.pipe()[0], 1)"), limit=FAST),
    Attack("SIGSTOP of itself", FAIL, _body("import os, signal", "os.kill(os.getpid(), signal.SIGSTOP)", "return x")),
    Attack("SIGSTOP of its group", FAIL, _body("import os, signal", "os.kill(0, signal.SIGSTOP)", "return x")),
    Attack("recursion without end", FAIL, _body("return double(x)")),
    Attack(
        "recursion with the limit raised",
        ("crash", "fail", "memory", "timeout"),
        _body("import sys", "sys.setrecursionlimit(10**9)", "return double(x) + 1"),
        limit=2.0,
    ),
    Attack(
        "an answer drop by drop",
        TIMEOUT,
        _body(
            "import os, time",
            "for b in bytes([0, 0, 3, 232]) + b'1' * 1000:",
            "    os.write(3, bytes([b])); time.sleep(0.01)",
        ),
        limit=FAST,
    ),
    Attack(
        "a right answer that comes too late",
        TIMEOUT,
        _body("import time", "time.sleep(0.5)", "return 2 * x"),
        limit=FAST,
    ),
    Attack(
        "a result that hangs when it is iterated",
        TIMEOUT,
        _body("import itertools", "return (0 for _ in itertools.count() if False)"),
        "listed",
        FAST,
    ),
    Attack("an infinite generator", TIMEOUT, _body("while True: yield 0"), "listed", FAST),
    Attack(
        "a huge number for the tests to multiply with", ("fail", "timeout"), _body("return 10**10"), "multiplied", 2.0
    ),
    Attack("a huge number for the tests to raise to", TIMEOUT, _body("return 10**9"), "powered", FAST),
    Attack(
        "busy threads after a wrong answer",
        FAIL,
        _body(
            "import threading",
            "def busy():",
            "    while True: pass",
            "for _ in range(4): threading.Thread(target=busy, daemon=True).start()",
            "return x",
        ),
    ),
    # memory and size
    Attack("one big allocation", MEMORY, _body("return len(bytearray(1 << 40))")),
    Attack("one big allocation at import", MEMORY, "    return 2 * x\n\nb = bytearray(1 << 40)\n"),
    Attack("a growing list", ("memory", "timeout", "crash"), _body("xs = [0]", "while True: xs += xs")),
    Attack(
        "a growing global", ("memory", "timeout", "crash"), "    while True: XS.append(bytes(1 << 20))\n\nXS = []\n"
    ),
    Attack(
        "mappings", ("fail", "memory"), _body("import mmap", "ms = []", "while True: ms.append(mmap.mmap(-1, 1 << 28))")
    ),
    Attack("a shared mapping larger than allowed", ("fail", "memory"), _body("import mmap", "mmap.mmap(-1, 1 << 34)")),
    Attack("a huge list as the result", FAIL, _body("return [0] * 10**7")),
    Attack("a huge str as the result", FAIL, _body("return 'a' * 10**8")),
    Attack("a huge int as the result", FAIL, _body("return 1 << 10**8")),
    Attack("huge bytes as the result", FAIL, _body("return bytes(10**8)")),
    Attack("a list of one huge str, many times", FAIL, _body("return ['a' * 10**5] * 10**5")),
    Attack("a nest a million deep", FAIL, _body("t = []", "for _ in range(10**6): t = [t]", "return t")),
    Attack("a list that contains itself", FAIL, _body("t = []", "t.append(t)", "return t")),
    Attack("a dict that contains itself", FAIL, _body("t = {}", "t[0] = t", "return t")),
    Attack("a wide web of shared lists", FAIL, _body("t = [0]", "for _ in range(90): t = [t, t]", "return t")),
    Attack(
        "colliding hashes as a set",
        ("fail", "timeout"),
        _body(f"return {{i * {_HASH} for i in range(9000)}}"),
        limit=3.0,
    ),
    Attack(
        "colliding hashes as a dict",
        ("fail", "timeout"),
        _body(f"return {{i * {_HASH}: 0 for i in range(7000)}}"),
        limit=3.0,
    ),
    Attack("many objects as the result", FAIL, _body("return [object() for _ in range(10**4)]")),
    Attack("a print flood", TIMEOUT, _body("while True: print('x' * 10**5)"), limit=FAST),
    Attack("a bounded print flood", FAIL, _body("for _ in range(10**4): print('x' * 1000)", "return x")),
    Attack(
        "a flood of standard output by descriptor",
        TIMEOUT,
        _body("import os", "while True: os.write(1, bytes(10**6))"),
        limit=FAST,
    ),
    Attack("a flood of the channel", ("protocol",), _body("import os", "while True: os.write(3, b'\\xff' * 10**6)")),
    Attack(
        "a thread bomb",
        FAIL,
        _body(
            "import threading, time",
            "threading.stack_size(32768)",
            "while True: threading.Thread(target=time.sleep, args=(9,)).start()",
        ),
    ),
    Attack("descriptor exhaustion", FAIL, _body("import os", "while True: os.pipe()")),
    Attack(
        "descriptor exhaustion that it survives",
        FAIL,
        _body("import os", "try:", "    while True: os.dup(0)", "except OSError: pass", "return x"),
    ),
    Attack(
        "socket pairs full of data",
        ("fail", "timeout"),
        _body(
            "import socket",
            "keep = []",
            "while True:",
            "    a, b = socket.socketpair()",
            "    a.setblocking(False)",
            "    keep.append((a, b))",
            "    try:",
            "        while True: a.send(bytes(65536))",
            "    except BlockingIOError: pass",
        ),
        limit=2.0,
    ),
    Attack("an oversized source", SYNTAX, "    return x\n" + "#" * 300_000 + "\n"),
    Attack("an oversized constant", ("memory", "fail"), "    return x\n\ny = (0,) * 10**10\n"),
    # processes
    *[
        Attack(name, FAIL, _body(*lines))
        for name, *lines in (
            ("fork", "import os", "return 2 * x if os.fork() >= 0 else 0"),
            (
                "fork and setsid",
                "import os",
                "if not os.fork(): os.setsid(); import time; time.sleep(60)",
                "return 2 * x",
            ),
            ("forkpty", "import os", "os.forkpty()", "return 2 * x"),
            ("posix_spawn", "import os", "os.posix_spawn('/bin/sleep', ['sleep', '60'], {})", "return 2 * x"),
            ("subprocess", "import subprocess", "subprocess.Popen(['/bin/sleep', '60'])", "return 2 * x"),
            ("os.system", "import os", "return 2 * x if os.system('/bin/true') == 0 else 0"),
            ("os.popen", "import os", "return 2 * x if os.popen('echo hi').read() == 'hi' else 0"),
            (
                "multiprocessing",
                "import multiprocessing as m",
                "p = m.get_context('fork').Process(target=print)",
                "p.start(); p.join()",
                "return 2 * x",
            ),
            (
                "a process pool",
                "import concurrent.futures as c",
                "with c.ProcessPoolExecutor(1) as p: return p.submit(abs, 2 * x).result()",
            ),
            ("vfork by ctypes", "import ctypes", "return 2 * x if ctypes.CDLL(None).syscall(58) >= 0 else 0"),
            (
                "clone by ctypes",
                "import ctypes",
                "return 2 * x if ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0 else 0",
            ),
            (
                "clone3 by ctypes",
                "import ctypes",
                "b = ctypes.create_string_buffer(88)",
                "return 2 * x if ctypes.CDLL(None).syscall(435, b, 88) >= 0 else 0",
            ),
            ("a bounded fork bomb", "import os", "for _ in range(6): os.fork()", "return 2 * x"),
            (
                "a fork bomb that catches errors",
                "import os",
                "made = 0",
                "for _ in range(20):",
                "    try: os.fork(); made += 1",
                "    except OSError: pass",
                "return 2 * x if made else 0",
            ),
        )
    ],
]
