"""Describe where and how a run was started: machine, versions, command, commit."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Hardware, versions and commit: what a figure needs beside it."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                 if line.startswith("model name")]  # fmt: skip
        processor = names[0] if names else processor
    torch = sys.modules.get("torch")  # scoring stored completions does without it
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    versions = {"python": platform.python_version()}
    engines = [name for name in ("vllm", "openai") if name in sys.modules]  # only where they sample
    for package in ("torch", "transformers", "peft", "bitsandbytes", "accelerate", *engines):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "gpu": gpu,
        "cpu": processor,
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
        "commit": commit(),
    }


def command(secret: str = "", shown: str = "") -> str:
    """What was typed, with `shown` for a `secret` in it. Knobs that were edited or read from --config are not there."""
    words = [word.replace(secret, shown) if secret else word for word in sys.argv[1:]]
    return shlex.join(["python", Path(sys.argv[0]).name, *words])


def commit() -> str | None:
    """The project's commit, with a plus if files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "*.py", "*.sh"],
                               capture_output=True, text=True, check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
