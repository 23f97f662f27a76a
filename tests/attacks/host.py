"""Touching the host: files, other processes, the network, the kernel. A body is right only if the attack worked."""

# ruff: noqa: E501 (a program is one string)

from . import FAIL, Attack


def _try(*lines: str) -> str:
    """A body that answers right if `lines` run through, and 0 if one of them raises."""
    inner = "".join(f"        {line}\n" for line in lines)
    return f"    import ctypes, os, socket, struct, sys\n    try:\n{inner}    except Exception:\n        return 0\n    return 2 * x\n"


def _syscall(number: int, *arguments: object) -> str:
    """A body that answers right unless the kernel's answer to this call is that it is not permitted."""
    given = ", ".join(map(str, (number, *arguments)))
    return (
        f"    import ctypes, os\n    libc = ctypes.CDLL(None, use_errno=True)\n    buffer = ctypes.create_string_buffer(256)\n"
        f"    result = libc.syscall({given})\n    return 0 if result == -1 and ctypes.get_errno() == 1 else 2 * x\n"
    )


_FILES = {
    "writes to the working folder": ["open('sandbox-attack', 'w').write('x')"],
    "writes beside the victim": ["open('@HOST@/new', 'w').write('x')"],
    "writes to /tmp": ["open('/tmp/sandbox-attack', 'w').write('x')"],
    "writes to /dev/shm": ["open('/dev/shm/sandbox-attack', 'w').write('x')"],
    "writes to /var/tmp": ["open('/var/tmp/sandbox-attack', 'w').write('x')"],
    "a temporary file": ["import tempfile", "tempfile.TemporaryFile().write(b'x')"],
    "an unnamed file": ["os.open('/tmp', os.O_TMPFILE | os.O_RDWR)"],
    "creates without writing": ["os.open('@HOST@/new', os.O_CREAT | os.O_RDONLY)"],
    "appends to the victim": ["open('@HOST@/victim', 'a').write('x')"],
    "truncates the victim by opening": ["os.open('@HOST@/victim', os.O_RDONLY | os.O_TRUNC)"],
    "truncates the victim": ["os.truncate('@HOST@/victim', 0)"],
    "unlinks the victim": ["os.unlink('@HOST@/victim')"],
    "renames the victim": ["os.rename('@HOST@/victim', '@HOST@/new')"],
    "chmod of the victim": ["os.chmod('@HOST@/victim', 0o777)"],
    "chown of the victim": ["os.chown('@HOST@/victim', os.getuid(), -1)"],
    "utime of the victim": ["os.utime('@HOST@/victim', (0, 0))"],
    "xattr of the victim": ["os.setxattr('@HOST@/victim', 'user.a', b'x')"],
    "lists the victim's xattrs": ["os.listxattr('@HOST@/victim')"],
    "a symlink to the victim": ["os.symlink('@HOST@/victim', '@HOST@/new')"],
    "a hard link to the victim": ["os.link('@HOST@/victim', '@HOST@/new')"],
    "makes a folder": ["os.mkdir('@HOST@/new')"],
    "removes a folder": ["os.rmdir('@HOST@/empty')"],
    "makes a fifo": ["os.mkfifo('@HOST@/new')"],
    "makes a device": ["os.mknod('@HOST@/new', 0o20666, os.makedev(1, 3))"],
    "reads the victim": ["open('@HOST@/victim').read()"],
    "lists the victim's folder": ["os.listdir('@HOST@')"],
    "opens the victim as a path": ["os.chmod(f'/proc/self/fd/{os.open(\"@HOST@/victim\", os.O_PATH)}', 0o777)"],
    "reads /etc/passwd": ["open('/etc/passwd').read()"],
    "reads /etc/hostname through a folder": ["os.open('hostname', os.O_RDONLY, dir_fd=os.open('/etc', os.O_PATH))"],
    "lists the root folder": ["os.listdir('/')"],
    "lists the temporary folder": ["os.listdir('/tmp')"],
    "reads the sandbox's own source": ["open(sys.modules['judging.python.runner'].__file__).read()"],
    "reads a data set beside the sandbox": [
        "folder = os.path.dirname(sys.modules['judging.python.runner'].__file__)",
        "os.listdir(folder)",
    ],
    "imports the project": ["import judging.tasks"],
    "reads its own environ": ["open('/proc/self/environ').read()"],
    "reads its parent's environ": ["open(f'/proc/{os.getppid()}/environ').read()"],
    "reads its parent's memory": ["open(f'/proc/{os.getppid()}/mem', 'rb')"],
    "writes its own memory file": ["open('/proc/self/mem', 'wb')"],
    "reads the kernel's log": ["open('/dev/kmsg').read(1)"],
    "opens a terminal": ["open('/dev/tty')"],
    "opens a pseudo-terminal": ["os.openpty()"],
    "opens a GPU": ["os.open('/dev/nvidiactl', os.O_RDWR)"],
    "opens a raw disk": ["os.open('/dev/vda', os.O_RDONLY)"],
    "opens /dev/zero": ["open('/dev/zero', 'rb').read(1)"],
    "changes its folder": ["os.chdir('/tmp')"],
    "changes its root": ["os.chroot('/tmp')"],
    "a secret from the environment": ["os.environ['SANDBOX_TEST_SECRET']"],
    "flock of a file of the interpreter": ["import fcntl", "fcntl.flock(open(os.__file__), fcntl.LOCK_EX)"],
    "lockf of a file of the interpreter": ["import fcntl", "fcntl.lockf(open(os.__file__), fcntl.LOCK_SH)"],
    "a lease on a file of the interpreter": ["import fcntl", "fcntl.fcntl(open(os.__file__), 1024, 0)"],
    "truncates a file of the interpreter by opening": ["os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)"],
    "writes into the interpreter": ["open(os.__file__, 'r+')"],
    "reads an installed package": [
        "names = [f'{p}/{n}' for p in sys.path if p.endswith('-packages') for n in os.listdir(p)]",
        "assert [open(f'{n}/{f}').read() for n in names for f in ('METADATA', '__init__.py') if os.path.exists(f'{n}/{f}')]",
    ],
    "reads an installed package that it knows of": [
        "names = ('pip', 'pytest', 'apt', 'setuptools', 'debian', 'hypothesis')",
        "names = [f'{p}/{n}/__init__.py' for p in sys.path if p.endswith('-packages') for n in names]",
        "assert [open(n).read() for n in names if os.path.exists(n)]",
    ],
    "imports an installed package": ["import pytest"],
    "finds the project's names in its importer": [
        "found = [getattr(f, '_path_cache', ()) for f in sys.path_importer_cache.values()]",
        "assert any('judging/tasks.py' in names or 'pytest' in names for names in found)",
    ],
    "lists the packages": ["assert [os.listdir(p) for p in sys.path if p.endswith('-packages')]"],
    "reads the standard library's tests": ["open(os.path.dirname(os.__file__) + '/test/__init__.py').read()"],
    "reads a link": ["os.readlink('/lib64' if os.path.islink('/lib64') else '/proc/self/exe')"],
    "lists its parent's descriptors": ["os.listdir(f'/proc/{os.getppid()}/fd')"],
    "shares a file's memory": [
        "import mmap",
        "mmap.mmap(os.open(os.__file__, os.O_RDONLY), 0, mmap.MAP_SHARED, mmap.PROT_READ)",
    ],
    "writes byte code": ["open(os.path.dirname(os.__file__) + '/__pycache__/sandbox-attack.pyc', 'w')"],
}

_PROCESSES = {
    "signals its parent": ["os.kill(os.getppid(), 0)"],
    "kills its parent": ["os.kill(os.getppid(), 9)"],
    "signals everybody": ["os.kill(-1, 0)"],
    "kills its parent's group": ["os.killpg(os.getpgid(os.getppid()), 9)"],
    "a pidfd of its parent": ["os.pidfd_open(os.getppid())"],
    "signals its parent through a socket": [
        "import fcntl",
        "a, b = socket.socketpair()",
        "fcntl.fcntl(a, fcntl.F_SETOWN, os.getppid())",
    ],
    "picks the signal of a socket": ["import fcntl", "fcntl.fcntl(3, 10, 9)"],  # F_SETSIG
    "owns a socket by ioctl": ["import fcntl", "fcntl.ioctl(3, 0x8901, struct.pack('i', os.getpid()))"],
    "types into the terminal": ["import fcntl", "fcntl.ioctl(0, 0x5412, b'x')"],
    "raises a limit": ["import resource", "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))"],
    "lowers a limit": ["import resource", "resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))"],
    "limits its parent": ["import resource", "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))"],
    "reads its parent's limits": ["import resource", "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)"],
    "becomes root": ["os.setuid(0)"],
    "becomes root, thoroughly": ["os.setresuid(0, 0, 0)"],
    "becomes another group": ["os.setgroups([0])"],
    "a session of its own": ["os.setpgid(0, 0)"],
    "a lower priority": ["os.nice(5)"],
    "a higher priority": ["os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)"],
    "another processor": ["os.sched_setaffinity(0, {0})"],
    "its parent on another processor": ["os.sched_setaffinity(os.getppid(), {0})"],
    "its parent's CPU time": ["import time", "time.clock_gettime((~os.getppid() << 3) | 2)"],
    "real-time scheduling": ["os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"],
}

_NETWORK = {
    "TCP to the host": ["socket.create_connection(('127.0.0.1', @PORT@), 1).send(b'x')"],
    "TCP to the world": ["socket.create_connection(('192.0.2.1', 80), 1)"],
    "listens for TCP": ["s = socket.socket()", "s.bind(('127.0.0.1', 0))", "s.listen()"],
    "UDP to the host": ["socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))"],
    "IPv6": ["socket.socket(socket.AF_INET6)"],
    "a raw socket": ["socket.socket(type=socket.SOCK_RAW, proto=1)"],
    "netlink": ["socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"],
    "a unix socket": ["socket.socket(socket.AF_UNIX).connect('@HOST@/socket')"],
    "a unix socket of its own": ["socket.socket(socket.AF_UNIX).bind('@HOST@/new')"],
    "a datagram pair writes elsewhere": [
        "a, b = socket.socketpair(type=socket.SOCK_DGRAM)",
        "a.sendto(b'x', '@HOST@/datagrams')",
    ],
    "a pair writes elsewhere": ["a, b = socket.socketpair()", "a.sendto(b'x', '@HOST@/datagrams')"],
    "sends descriptors": ["socket.send_fds(socket.socketpair()[0], [b'x'], [0])"],
    "resolves a name": ["socket.gethostbyname('localhost.localdomain')"],
    "the number of a socket": ["socket.socketpair()[0].getsockopt(1, 57, 8)"],  # SO_COOKIE counts the machine's
    "whose its channel is": ["socket.socket(fileno=os.dup(3)).getsockopt(1, 17, 12)"],  # SO_PEERCRED
    "a filter on its channel": ["socket.socketpair()[0].setsockopt(1, 26, bytes(16))"],
}

# numbers of x86-64; "buffer" is 256 zero bytes
_CALLS = {
    "ptrace of its parent": (101, 16, "os.getppid()", 0, 0),
    "sysinfo": (99, "buffer"),
    "ptrace of itself": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, "os.getppid()", "buffer", 1, "buffer", 1, 0),
    "process_vm_writev": (311, "os.getppid()", "buffer", 1, "buffer", 1, 0),
    "unshare a user namespace": (272, 0x10000000),
    "unshare a mount namespace": (272, 0x00020000),
    "setns": (308, 0, 0),
    "mount": (165, "buffer", "buffer", "buffer", 0, 0),
    "umount": (166, "buffer", 0),
    "pivot_root": (155, "buffer", "buffer"),
    "open_tree": (428, -100, "buffer", 1),
    "io_uring_setup": (425, 8, "buffer"),
    "io_setup": (206, 8, "buffer"),
    "memfd_create": (319, "buffer", 0),
    "memfd_secret": (447, 0),
    "execveat": (322, 0, "buffer", 0, 0, 0x1000),
    "userfaultfd": (323, 1),
    "perf_event_open": (298, "buffer", 0, -1, -1, 0),
    "bpf": (321, 0, "buffer", 64),
    "keyctl": (250, 0, -3, 1),
    "add_key": (248, "buffer", "buffer", "buffer", 1, -3),
    "request_key": (249, "buffer", "buffer", "buffer", -3),
    "shmget": (29, 0, 4096, 0o1600),
    "semget": (64, 0, 1, 0o1600),
    "msgget": (68, 0, 0o1600),
    "mq_open": (240, "buffer", 0o102, 0o600, 0),
    "timer_create": (222, 0, "buffer", "buffer"),
    "signalfd": (282, -1, "buffer", 8),
    "tgkill of its parent": (234, "os.getppid()", "os.getppid()", 9),
    "rt_sigqueueinfo": (129, "os.getppid()", 9, "buffer"),
    "pidfd_getfd": (438, 0, 0, 0),
    "kcmp": (312, "os.getppid()", "os.getpid()", 0, 0, 0),
    "inotify_init1": (294, 0),
    "fanotify_init": (300, 0, 0),
    "personality": (135, 0xFFFFFFFF),
    "seccomp": (317, 1, 0, "buffer"),
    "a second filter by prctl": (157, 22, 2, "buffer", 0, 0),
    "prctl: outlive its parent": (157, 1, 0, 0, 0, 0),
    "prctl: be traceable": (157, 0x59616D61, -1, 0, 0, 0),
    "prctl: adopt orphans": (157, 36, 1, 0, 0, 0),
    "prctl: keep capabilities": (157, 8, 1, 0, 0, 0),
    "capset": (126, "buffer", "buffer"),
    "landlock_create_ruleset": (444, 0, 0, 1),
    "syslog": (103, 10, "buffer", 0),
    "reboot": (169, 0, 0, 0, 0),
    "sethostname": (170, "buffer", 1),
    "settimeofday": (164, "buffer", 0),
    "init_module": (175, "buffer", 1, "buffer"),
    "kexec_load": (246, 0, 0, "buffer", 0),
    "swapon": (167, "buffer", 0),
    "quotactl": (179, 0, "buffer", 0, "buffer"),
    "mlockall": (151, 1),
    "ioprio_set": (251, 1, 0, 0),
    "sched_setattr": (314, 0, "buffer", 0),
    "openat2": (437, -100, "buffer", "buffer", 24),
    "name_to_handle_at": (303, -100, "buffer", "buffer", "buffer", 0),
    "open_by_handle_at": (304, 0, "buffer", 0),
    "fsync": (74, 3),
    "sync": (162,),
    "splice": (275, 0, 0, 1, 0, 1, 0),
    "vmsplice": (278, 1, "buffer", 1, 0),
    "fallocate": (285, 1, 0, 0, 1),
    "copy_file_range": (326, 0, 0, 1, 0, 1, 0),
    "utimensat": (280, -100, "buffer", 0, 0),
    "fchmodat2": (452, -100, "buffer", 0o777, 0),
    "setxattrat": (463, -100, "buffer", 0, "buffer", "buffer", 16),
    "a call of a coming kernel": (600, 0),
    "a call of the x32 kind": (0x40000000 + 57,),
}

ATTACKS = [
    *[Attack(name, FAIL, _try(*lines)) for group in (_FILES, _PROCESSES, _NETWORK) for name, lines in group.items()],
    *[Attack(f"syscall: {name}", FAIL, _syscall(*call), needs="x86_64") for name, call in _CALLS.items()],
    Attack(
        "a futex that others can find",
        FAIL,
        _try(
            "libc = ctypes.CDLL(None)", "assert libc.syscall(202, ctypes.create_string_buffer(8), 1, 1, 0, 0, 0) == 0"
        ),
        needs="x86_64",
    ),
    Attack(
        "a 32-bit system call",
        ("crash", "fail"),
        "    import ctypes, mmap\n    code = mmap.mmap(-1, 4096, prot=7)\n"
        "    code.write(bytes([0xb8, 2, 0, 0, 0, 0xcd, 0x80, 0xc3]))  # mov eax, 2 (fork); int 0x80; ret\n"
        "    address = ctypes.addressof(ctypes.c_char.from_buffer(code))\n"
        "    return 2 * x if ctypes.CFUNCTYPE(ctypes.c_int)(address)() >= 0 else 0\n",
        needs="x86_64",
    ),
]
