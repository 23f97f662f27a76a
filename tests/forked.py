"""Programs that are forked from a server which has imported the libraries. A start takes no seconds, and little CPU."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from contextlib import chdir
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What takes time to import; a child imports the project's own modules.
IMPORTED = ["peft", "bitsandbytes", "transformers.trainer", "transformers.models.llama.modeling_llama", "tyro",
            "matplotlib.pyplot"]  # fmt: skip


def become(words: list[str], out: str, err: str, environment: dict[str, str]) -> None:
    """In the child: do what `python words` does. What it writes goes into the two files."""
    streams = []
    for number, path, errors in ((1, out, "strict"), (2, err, "backslashreplace")):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
        streams.append(open(number, "w", buffering=1, encoding="utf-8", errors=errors))
    sys.stdout, sys.stderr = streams
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = list(words)
    sys.path[:0] = [str((ROOT / words[0]).parent), *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def start(words: list[str], out: str | Path, err: str | Path, **environment: str) -> multiprocessing.Process:
    """Start a script of the project, with its words, as a process. `out` and `err` may be named pipes."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTED)
    process = server.Process(target=become, args=(list(words), str(out), str(err), environment), daemon=True)
    with chdir(ROOT):  # where the server looks for the project's modules
        process.start()
    return process
