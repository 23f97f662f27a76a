"""List the files of this project that a script's numbers depend on.

These are all files that it imports, except those that only display, track or predict. When one of them has changed,
the shell scripts repeat the stage and an interrupted run starts over. `python common/dependencies.py SCRIPT.py` prints
the list.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Code that only displays, tracks or predicts: no number of a run depends on it
ONLY_SHOWS = {"reporting", "training/screen.py", "training/tracking.py", "training/dry_run.py", "model/memory.py",
              "model/memory_parts.py"}  # fmt: skip
PARTS = {"judging/worker.py": ["judging/python/judge.py", "judging/python/zygote.py", "judging/verilog/judge.py"]}


def files_of(script: str | Path) -> list[Path]:
    """Return the script and every file of the project that it imports, directly or indirectly, sorted.

    Files under `ONLY_SHOWS` are left out.
    """
    waiting, found = [Path(script).resolve()], set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += [ROOT / part for part in PARTS.get(str(path.relative_to(ROOT)), ())]  # started by path, not imported
        waiting += [file for name in _imported(path) for file in _files(name)]
    return sorted(path for path in found if not _only_shows(path))


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _files(name: str) -> list[Path]:
    """Return the file of a module of this project, or nothing for any other module."""
    base = ROOT.joinpath(*name.split("."))
    return [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]


def _only_shows(path: Path) -> bool:
    return any(str(above.relative_to(ROOT)) in ONLY_SHOWS for above in (path, path.parent) if above != ROOT)


if __name__ == "__main__":
    print("\n".join(str(path.relative_to(ROOT)) for path in files_of(sys.argv[1])))
