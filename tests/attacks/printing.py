"""Whole programs that are judged by what they print: broken ones, attacks, and right ones that are unusual.

In the tasks `kept` and `counts` the second output can only be right for a program that knows something about its run
on the first input. `hidden` expects a secret that no program is given.
"""

# ruff: noqa: E501 (a program is one string)

from . import CRASH, FAIL, MEMORY, PASS, SYNTAX, TIMEOUT, Attack

FAST = 0.7  # seconds: the limit for what has to run into it
ADD = "print(sum(map(int, input().split())))\n"
TWO = "data = open(0).read()\n"


def _first_then(keep: str, recall: str) -> str:
    """A program that answers the first input, keeps it by `keep`, and answers the second with what `recall` finds."""
    return (
        "import os, sys\ntext = input()\nif text == 'later':\n    found = None\n"
        + "".join(f"    {line}\n" for line in recall.split("\n"))
        + "    print(found)\nelse:\n    try:\n"
        + "".join(f"        {line}\n" for line in keep.split("\n"))
        + "    except Exception:\n        pass\n    print('ok')\n"
    )


_KEEPING = {  # what keeps the first input for the second, and what finds it again
    "a file in /tmp": ("open('/tmp/sandbox-attack', 'w').write(text)", "found = open('/tmp/sandbox-attack').read()"),
    "a file in the working folder": ("open('sandbox-attack', 'w').write(text)", "found = open('sandbox-attack').read()"),
    "a file in /dev/shm": ("open('/dev/shm/sandbox-attack', 'w').write(text)", "found = open('/dev/shm/sandbox-attack').read()"),
    "a folder's name": ("os.mkdir('/tmp/sandbox-attack-' + text)", "found = os.listdir('/tmp')[0].rpartition('-')[2]"),
    "the size of /dev/null": ("os.truncate('/dev/null', int(text))", "found = os.stat('/dev/null').st_size"),
    "the position of its input": ("os.lseek(0, int(text), 0)", "found = os.lseek(0, 0, 1)"),
    "the flags of a stream": ("import fcntl\nfcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK)", "import fcntl\nfound = '41' if fcntl.fcntl(2, fcntl.F_GETFL) & os.O_NONBLOCK else ''"),
    "what waits at the other end of its output": ("pass", "os.set_blocking(1, False)\nfound = os.read(1, 99).decode()"),
    "an environment variable": ("os.environ['KEPT'] = text\nos.putenv('KEPT', text)", "found = os.environ.get('KEPT')"),
    "a module's attribute": ("sys.kept = text\nos.kept = text", "found = getattr(sys, 'kept', None)"),
    "a patched print": ("import builtins\nbuiltins.print = lambda *a: sys.stdout.write('41' if a == (None,) else 'ok')", "pass"),
    "a patched builtin": ("import builtins\nbuiltins.hex = lambda x: int(text)", "found = hex(1)"),
    "the runner's functions": ("import judging.python.runner as r\nr.run_program = r.end = lambda *a: text", "import judging.python.runner as r\nfound = r.run_program(1, 2, 3)"),
    "the zygote's state": ("sys.modules['judging.python.runner'].KEPT = text", "found = getattr(sys.modules['judging.python.runner'], 'KEPT', '')"),
    "the seed of random": ("import random\nrandom.seed(41)", "import random\nfound = 41 if random.random() == 0.38102068999577143 else 0"),
    "a POSIX semaphore": ("import _multiprocessing\n_multiprocessing.SemLock(1, int(text), 99, '/sandbox-attack', False)", "import _multiprocessing\nfound = _multiprocessing.SemLock._rebuild(0, 1, 99, '/sandbox-attack')._get_value()"),
    "shared memory": ("from multiprocessing import shared_memory as m\nm.SharedMemory('sandbox-attack', True, 64).buf[0] = int(text)", "from multiprocessing import shared_memory as m\nfound = m.SharedMemory('sandbox-attack').buf[0]"),
    "System V memory": ("import ctypes\nctypes.CDLL(None).shmget(77, 4096, 0o1666)", "import ctypes\nfound = '41' if ctypes.CDLL(None).shmget(77, 0, 0) >= 0 else ''"),
    "an abstract socket": ("import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('\\0sandbox-attack')\ns.listen()", "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0sandbox-attack')\nfound = '41'"),
    "a background process": ("if os.fork() == 0:\n    import time\n    while True:\n        try: os.write(1, b'41\\n')\n        except OSError: pass\n        time.sleep(0.01)", "import time\ntime.sleep(0.1)"),
    "a background process in its own session": ("if os.fork() == 0:\n    os.setsid()\n    os.fork() and os._exit(0)\n    os.write(1, b'41')", "import time\ntime.sleep(0.1)"),
    "a thread that outlives it": ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.3), os.write(1, b'41')), daemon=True).start()", "import time\ntime.sleep(0.3)"),
    "a function for its end": ("import atexit\natexit.register(lambda: sys.__stdout__.write('41'))\nos._exit(os.write(1, b'ok\\n') and 0)", "import atexit\natexit._run_exitfuncs()"),
    "the access time of a file": ("os.utime(os.__file__, (41, 41))", "found = int(os.stat(os.__file__).st_atime)"),
    "a lock on a file": ("import fcntl\nfcntl.flock(os.open(os.__file__, 0), fcntl.LOCK_EX)\nimport time", "import fcntl\ntry: fcntl.flock(os.open(os.__file__, 0), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError: found = '41'"),
    "its priority": ("os.nice(5)", "found = '41' if os.nice(0) else ''"),
    "a resource limit": ("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (41, 41))", "import resource\nfound = resource.getrlimit(resource.RLIMIT_NOFILE)[0]"),
    "its children's CPU time": ("pass", "found = '41' if os.times().children_user else ''"),
    "byte code of a module": ("import py_compile\npy_compile.compile(os.__file__, '/tmp/sandbox-attack.pyc')", "import importlib.util\nfound = '41' if importlib.util.find_spec('sandbox-attack') else ''"),
}  # fmt: skip

# Expressions that look for the expected output; each gives texts or bytes to search
_LOOKING = {
    "every object": "[repr(o)[:2000] for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]",
    "the frames above": "[repr(f.f_locals) + repr(f.f_globals) for f in frames()]",
    "its arguments": "[repr(sys.argv), repr(sys.orig_argv)]",
    "its command line": "[open('/proc/self/cmdline').read()]",
    "its parent's command line": "[open(f'/proc/{os.getppid()}/cmdline').read()]",
    "its environment": "[repr(os.environ)]",
    "its parent's environment": "[open(f'/proc/{os.getppid()}/environ').read()]",
    "every process": "[open(f'/proc/{n}/environ').read() for n in os.listdir('/proc') if n.isdigit()]",
    "its own memory": "[open('/proc/self/mem', 'rb').read(1 << 20)]",
    "its parent's memory": "[open(f'/proc/{os.getppid()}/mem', 'rb').read(1 << 20)]",
    "every descriptor": "[take(n) for n in range(64)]",
    "its descriptors through /proc": "[open(f'/proc/self/fd/{n}').read() for n in range(10)]",
    "its parent's descriptors": "[open(f'/proc/{os.getppid()}/fd/{n}').read() for n in range(10)]",
    "a pidfd of its parent": "[os.pidfd_open(os.getppid())]",
    "the memory of another process": "[ctypes.CDLL(None).process_vm_readv(os.getppid(), buf, 1, buf, 1, 0)]",
    "ptrace": "[ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)]",
    "the heap, by ctypes": "[ctypes.string_at(id(o) & ~0xFFF, 4096) for o in gc.get_objects()[::50]]",
    "the files that it may read": "[open(p).read() for p in (__file__, sys.modules['judging.python.runner'].__file__)]",
    "the modules": "[repr(vars(m))[:100000] for m in list(sys.modules.values()) if 'judging' in getattr(m, '__name__', '')]",
    "the main module": "[repr(vars(sys.modules['__main__']))]",
    "a second reading of its input": "[open(0).read() for _ in range(2)]",
    "the other end of its socket": "[socket.socket(fileno=0).getpeername(), socket.socket(fileno=1).recv(99)]",
    "descriptors sent to it": "[socket.recv_fds(socket.socket(fileno=0), 99, 9)]",
    "an abstract socket of the judge": "[open('/proc/net/unix').read()]",
    "the project's tasks": "[open(p).read() for p in ('data/pocket_test.jsonl', '../data/pocket_test.jsonl')]",
    "tracemalloc": "[(tracemalloc.start(), repr(tracemalloc.take_snapshot().traces))]",
}

_SEARCH = """import ctypes, gc, os, re, socket, sys, tracemalloc
buf = ctypes.create_string_buffer(4096)
def frames():
    frame = sys._getframe()
    while frame:
        yield frame
        frame = frame.f_back
def take(n):
    try:
        os.set_blocking(n, False)
        return os.read(n, 1 << 16)
    except OSError:
        return b''
try:
    found = @HERE@
except (Exception, SystemExit):
    found = []
for text in found:
    text = text if isinstance(text, bytes) else repr(text).encode()
    for match in re.findall(rb'S3CRET-[0-9a-f]{6}', text):
        print(match.decode())
        sys.exit()
"""

_SPEAKING = {  # (statuses, program): everything about how it prints, ends and is written to
    "prints, then exits 1": (FAIL, ADD + "exit(1)\n"),
    "prints, then exits with a text": (FAIL, ADD + "exit('done')\n"),
    "prints, then raises": (FAIL, ADD + "raise ValueError('no')\n"),
    "prints, then an assertion": (FAIL, ADD + "assert False\n"),
    "prints, then KeyboardInterrupt": (FAIL, ADD + "raise KeyboardInterrupt\n"),
    "prints, then a BaseException of its own": (FAIL, ADD + "class Odd(BaseException): pass\nraise Odd\n"),
    "prints, then segfaults": (CRASH, ADD + "import ctypes, sys\nsys.stdout.flush()\nctypes.string_at(0)\n"),
    "prints, then aborts": (CRASH, ADD + "import os, sys\nsys.stdout.flush()\nos.abort()\n"),
    "prints, then kills itself": (FAIL, ADD + "import os\nos.kill(os.getpid(), 9)\n"),
    "prints, then runs out of memory": (MEMORY, ADD + "x = bytearray(1 << 40)\n"),
    "prints, then dies of its alarm": (CRASH, ADD + "import signal, sys\nsys.stdout.flush()\nsignal.setitimer(0, 0.01)\nsignal.pause()\n"),
    "prints, then fails in a thread that ends it": (FAIL, ADD + "import os, sys, threading\nsys.stdout.flush()\nthreading.Thread(target=os._exit, args=(3,)).start()\n"),
    "_exit 0 before its buffer is written": (FAIL, "import os\n" + ADD + "os._exit(0)\n"),
    "exit 0 without printing": (FAIL, "exit(0)\n"),
    "_exit 0 after half": (FAIL, "import os\nos.write(1, b'1')\nos._exit(0)\n"),
    "an exit code of 256": (FAIL, "import os\nos._exit(256)\n"),
    "closes its output, then prints": (FAIL, "import os\nos.close(1)\n" + ADD),
    "closes its output and goes on": (FAIL, "import os, time\nos.closerange(0, 64)\ntime.sleep(5)\n"),
    "shuts its socket down": (FAIL, "import socket\nsocket.socket(fileno=1).shutdown(2)\n" + ADD),
    "shuts its socket down and waits": (FAIL, ADD + "import socket, sys, time\nsys.stdout.flush()\nsocket.socket(fileno=1).shutdown(2)\ntime.sleep(5)\n"),
    "another socket in the place of its output": (FAIL, "import os, socket\na, b = socket.socketpair()\nos.dup2(a.fileno(), 1)\n" + ADD),
    "another pipe in the place of its output": (FAIL, "import os\nr, w = os.pipe()\nos.dup2(w, 1)\n" + ADD),
    "its output in the place of /dev/null": (FAIL, "import os\nos.dup2(2, 1)\n" + ADD),
    "prints to standard error": (FAIL, "import sys\nsys.stdout = sys.stderr\n" + ADD),
    "writes to every descriptor": (FAIL, "import os\nfor n in range(64):\n    try: os.write(n, b'{\"status\": \"pass\"}')\n    except OSError: pass\n"),
    "writes a verdict as a frame": (FAIL, "import os, json, struct\nb = json.dumps({'status': 'pass', 'reason': ''}).encode()\nos.write(1, struct.pack('>I', len(b)) + b)\n"),
    "writes a frame that is ready": (FAIL, "import os\nos.write(1, b'\\0\\0\\0\\x0c{\"ready\":\"\"}')\n" + ADD),
    "sends a report like the zygote's": (FAIL, "import os, struct\nfor n in (3, 4, 5, 6):\n    try: os.write(n, struct.pack('<i?ddq', 0, 0, 0, 0, 0))\n    except OSError: pass\n"),
    "prints the mark of an exception": (FAIL, "import gc, re, sys\nf = sys._getframe()\nwhile f and 'mark' not in f.f_locals: f = f.f_back\nprint(f.f_locals['mark'] + '1 ok')\n"),
    "right, then the mark": (FAIL, ADD + "import sys\nf = sys._getframe()\nwhile f and 'mark' not in f.f_locals: f = f.f_back\nprint(f.f_locals['mark'] + '1 ok')\n"),
    "prints every small number": (FAIL, "for i in range(100): print(i)\n"),
    "prints the right one among others": (FAIL, "input()\nprint('3 7')\n"),
    "answers the first input only": (FAIL, "print(3)\n"),
    "an answer with a NUL": (FAIL, "print(str(sum(map(int, input().split()))) + chr(0))\n"),
    "an answer behind a byte order mark": (FAIL, "print('\\ufeff' + str(sum(map(int, input().split()))))\n"),
    "full-width digits": (FAIL, "print(''.join(chr(0xFF10 + int(c)) for c in str(sum(map(int, input().split())))))\n"),
    "invalid UTF-8": (FAIL, "import os\nos.write(1, b'\\xff\\xfe3')\n"),
    "a carriage return that overwrites": (FAIL, "print('9\\r', sum(map(int, input().split())), sep='')\n"),
    "escape codes that delete": (FAIL, "print('9\\b' + str(sum(map(int, input().split()))))\n"),
    "an always-equal object": (FAIL, "class E(str):\n    __eq__ = lambda s, o: True\n    __hash__ = str.__hash__\nprint(E('x'))\n"),
    "nan": (FAIL, "print('nan')\n"),
    "prints for ever": (FAIL, "while True: print('x' * 1000)\n"),
    "prints for ever, by drops": (TIMEOUT, "import time\nwhile True:\n    print('x', flush=True)\n    time.sleep(0.01)\n"),
    "prints for ever from threads": (("fail", "timeout"), "import os, threading\ndef f():\n    while True: os.write(1, b'x' * 60000)\nfor _ in range(8): threading.Thread(target=f).start()\n"),
    "floods standard error": (TIMEOUT, "import sys\nwhile True: sys.stderr.write('x' * 10**6)\n"),
    "empty lines for ever": (FAIL, "import os\nwhile True: os.write(1, b'\\n' * 60000)\n"),
    "right, then blanks for ever": (FAIL, ADD + "while True: print(' ' * 1000)\n"),
    "loops at once": (TIMEOUT, "while True: pass\n"),
    "right, then loops": (TIMEOUT, ADD + "import sys\nsys.stdout.flush()\nwhile True: pass\n"),
    "loops at its end": (TIMEOUT, ADD + "import atexit\natexit.register(lambda: [1 for _ in iter(int, 1)])\n"),
    "waits for a thread that never ends": (TIMEOUT, ADD + "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"),
    "ignores every signal and loops": (TIMEOUT, "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass\n"),
    "stops itself": (FAIL, "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n" + ADD),
    "stops itself by raise_signal": (FAIL, "import signal\nsignal.raise_signal(signal.SIGSTOP)\n" + ADD),
    "stops its group": (FAIL, "import os, signal\nos.killpg(0, signal.SIGSTOP)\n" + ADD),
    "waits for input that does not come": (FAIL, "input()\ninput()\n"),
    "reads what it printed": (TIMEOUT, "import os, socket\na, b = socket.socketpair()\nos.dup2(a.fileno(), 0)\nprint(input())\n"),
    "a fork bomb": (FAIL, "import os\nwhile True: os.fork()\n"),
    "a child that prints": (FAIL, "import os\nif os.fork() == 0:\n    " + ADD + "    os._exit(0)\nos.wait()\n"),
    "a program that prints": (FAIL, "import subprocess\nprint(subprocess.run(['expr', '1', '+', '2'], capture_output=True, text=True).stdout)\n"),
    "os.system that prints": (FAIL, "import os\nos.system('echo 3')\n"),
    "a pool of processes": (FAIL, "from multiprocessing import Pool\nprint(Pool(2).map(abs, [3]))\n"),
    "executes another program": (FAIL, "import os\nos.execv('/bin/cat', ['cat'])\n"),
    "asks the network": (FAIL, "import socket\nsocket.create_connection(('127.0.0.1', @PORT@), 1).send(b'x')\n" + ADD),
    "writes a file first": (FAIL, "open('@HOST@/new', 'w').write('x')\n" + ADD),
    "reads a file of the host": (FAIL, "open('@HOST@/victim').read()\n" + ADD),
    "deletes a file of the host": (FAIL, "import os\nos.unlink('@HOST@/victim')\n" + ADD),
    "kills its parent": (FAIL, "import os\nos.kill(os.getppid(), 9)\n" + ADD),
    "a thread bomb": (FAIL, "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"),
    "eats all memory": (("memory", "fail", "timeout"), "x = []\nwhile True: x.append(bytearray(1 << 20))\n"),
    "opens every descriptor": (FAIL, "import os\nwhile True: os.dup(0)\n"),
    "recursion without end": (FAIL, "def f(): return f()\nf()\n"),
    "a stack that overflows": (("crash", "fail"), "import sys\nsys.setrecursionlimit(10**9)\nt = ()\nfor _ in range(3 * 10**5): t = (t,)\nhash(t)\n"),
    "a program that does not compile": (SYNTAX, "print(\n"),
    "a NUL in the program": (SYNTAX, ADD + "\0"),
    "a lone surrogate in the program": (SYNTAX, ADD + "# \ud800\n"),
    "a program in prose": (SYNTAX, "This program adds two numbers.\n"),
    "5000 brackets": (SYNTAX, "print(" + "(" * 5000 + ")" * 5000 + ")\n"),
    "too long a program": (SYNTAX, "#" * (1 << 18) + "\n" + ADD),
    "an empty program": (FAIL, ""),
    "only a comment": (FAIL, "# adds\n"),
    "only a function": (FAIL, "def solve(a, b):\n    return a + b\n"),
}  # fmt: skip

# right programs, by the ways in which programs read and print
_RIGHT = {
    "input": ADD,
    "stdin.read": "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n",
    "stdin.readline": "import sys\ninput = sys.stdin.readline\na, b = map(int, input().split())\nprint(a + b)\n",
    "stdin as an iterator": "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))\n",
    "stdin.buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))\n",
    "open(0)": "print(sum(map(int, open(0).read().split())))\n",
    "os.read": "import os\nprint(sum(map(int, os.read(0, 1 << 20).split())))\n",
    "os.fdopen": "import os\nprint(sum(map(int, os.fdopen(0).read().split())))\n",
    "fileinput": "import fileinput\nfor line in fileinput.input():\n    print(sum(map(int, line.split())))\n",
    "select on its input": "import select, sys\nselect.select([sys.stdin], [], [])\n" + ADD,
    "the size of its input": "import io, os\nb = os.read(0, max(os.fstat(0).st_size, 8192))\nprint(sum(map(int, b.split())))\n",
    "input until EOFError": "n = 0\nwhile True:\n    try: n += sum(map(int, input().split()))\n    except EOFError: break\nprint(n)\n",
    "stdout.write": "import sys\nsys.stdout.write(str(sum(map(int, input().split()))))\n",
    "stdout.buffer": "import sys\nsys.stdout.buffer.write(b'%d\\n' % sum(map(int, input().split())))\n",
    "os.write": "import os\nos.write(1, b'%d' % sum(map(int, input().split())))\n",
    "open(1)": "print(sum(map(int, input().split())), file=open(1, 'w'))\n",
    "open(1), never closed": "out = open(1, 'w')\nout.write(str(sum(map(int, input().split()))))\n",
    "a buffer that atexit writes": "import atexit, io, os, sys\nsys.stdout = io.StringIO()\natexit.register(lambda: os.write(1, sys.stdout.getvalue().encode()))\n" + ADD,
    "a TextIOWrapper of its own": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='ascii')\n" + ADD,
    "redirect_stdout": "import contextlib, io\nbuf = io.StringIO()\nwith contextlib.redirect_stdout(buf):\n    " + ADD + "print(buf.getvalue(), end='')\n",
    "a main function": "import sys\ndef main():\n    " + ADD + "if __name__ == '__main__':\n    sys.exit(main())\n",
    "an argument as a file": "import sys\nif len(sys.argv) > 1: sys.stdin = open(sys.argv[1])\n" + ADD,
    "exit()": ADD + "exit()\n",
    "sys.exit(0)": ADD + "import sys\nsys.exit(0)\n",
    "quit() in a function": "def solve():\n    " + ADD + "    quit()\nsolve()\n",
    "_exit after flush": "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)\n",
    "a thread with a big stack": "import sys, threading\nthreading.stack_size(1 << 27)\nsys.setrecursionlimit(1 << 20)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\ndef main():\n    assert f(20000) == 20000\n    " + ADD + "t = threading.Thread(target=main)\nt.start()\nt.join()\n",
    "a thread that nobody joins": "import threading, time\ndef main():\n    time.sleep(0.05)\n    " + ADD + "threading.Thread(target=main).start()\n",
    "a daemon that sleeps": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n" + ADD,
    "closes its output": ADD + "import sys\nsys.stdout.close()\n",
    "closes its input": ADD + "import sys\nsys.stdin.close()\n",
    "trailing blanks": "print(sum(map(int, input().split())), end=' \\t\\r\\n\\n\\n  \\n')\n",
    "prints to standard error too": "import sys\nprint('x' * 10**6, file=sys.stderr)\n" + ADD,
    "asyncio": "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    " + ADD + "asyncio.run(main())\n",
    "future annotations": "from __future__ import annotations\ndef f(x: nothing) -> nowhere: return x\n" + ADD,
    "a dataclass that is pickled": "import dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n    a: int\nassert pickle.loads(pickle.dumps(P(3))) == P(3)\n" + ADD,
    "recursion 900 deep": "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nassert f(900) == 900\n" + ADD,
    "catches its own error": "try: open('/nowhere')\nexcept OSError: pass\n" + ADD,
}  # fmt: skip

ATTACKS = [
    *[Attack(f"keeps its input: {name}", FAIL, _first_then(*pair), "kept") for name, pair in _KEEPING.items()],
    *[Attack(f"looks for the output: {name}", FAIL, _SEARCH.replace("@HERE@", where), "hidden") for name, where in _LOOKING.items()],
    *[Attack(f"program: {name}", right, text, "add", FAST if TIMEOUT[0] in right else 5.0) for name, (right, text) in _SPEAKING.items()],
    *[Attack(f"right program: {name}", PASS, text, "add") for name, text in _RIGHT.items()],
    Attack("program: never reads a large input", FAIL, "print('no')\n", "large"),
    Attack("program: never reads a large input and waits", TIMEOUT, "import time\ntime.sleep(9)\n", "large", FAST),
    Attack("program: closes its input without reading", FAIL, "import os\nos.close(0)\nprint('no')\n", "large"),
    Attack("program: reads a large input byte by byte", ("timeout", "fail"), "import os\nwhile os.read(0, 1): pass\n", "large", FAST),
    Attack("right program: reads a large input at once", PASS, "import sys\nprint(len(sys.stdin.read()))\n", "large"),
    Attack("right program: prints before it reads all", PASS, "import sys\nn = 0\nprint(end='', flush=True)\nfor line in sys.stdin: n += len(line)\nprint(n)\n", "large"),
    Attack("right program: knows the length, reads nothing", PASS, "print(3000000)\n", "large"),
    Attack("right program: echoes a large input", PASS, "import sys\nfor line in sys.stdin: sys.stdout.write(line)\n", "echo"),
    Attack("right program: echoes by os.write", PASS, "import os\nwhile b := os.read(0, 65536):\n    while b: b = b[os.write(1, b):]\n", "echo"),
    Attack("program: echoes all but the last line", FAIL, "import sys\nfor line in sys.stdin.readlines()[:-1]: sys.stdout.write(line)\n", "echo"),
    Attack("program: echoes five times", FAIL, "import sys\nt = sys.stdin.read()\nfor _ in range(5): sys.stdout.write(t)\n", "echo"),
    Attack("program: counts its runs", FAIL, "import itertools, sys\nn = getattr(sys, 'n', 0) + 1\nsys.n = n\nprint(n)\n", "counts"),
    Attack("right program: text of other scripts", PASS, "print(input()[::-1])\n", "scripts"),
    Attack("right program: other scripts as bytes", PASS, "import os\nos.write(1, os.read(0, 99).decode().strip()[::-1].encode())\n", "scripts"),
    Attack("right program: no input and no output", PASS, "import sys\nt = sys.stdin.read()\nif t: print(t)\n", "empty"),
]  # fmt: skip
