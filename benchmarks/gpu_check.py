"""Check whether this project works on your GPU, and how fast. It takes less than eight minutes and needs no network.

    python benchmarks/gpu_check.py

Each section has its own process and time limit. Results are written to a file as they are found, one JSON line each,
and printed as tables at the end. The 1.3B model has DeepSeek-Coder's shape and random weights. Without a GPU, the
sections run in a small form on the CPU (`--tiny`); this shows that the check works, but says nothing about any GPU.

    card        GPU, driver, versions, bitsandbytes' library, attention kernels used
    methods     pocket: a step of every method; GRPO twice, and killed and resumed: equal bits, or how far apart
    exact       the same GRPO runs with --deterministic
    precision   sampler against trainer, and the gradient against float32's, by format and LM head
    decoding    tokens/s of decoding steps: eager and under a CUDA graph, with unpacked and with 4-bit weights
    memory      peaks of a GRPO step by phase, predicted and measured; does it fit in 16 and 24 GB?
    step        a GRPO step against TRL's, one round (without TRL: only ours)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import require, run_script

LIMITS = {"card": 40, "methods": 90, "exact": 60, "precision": 80, "decoding": 60, "memory": 50, "step": 100}  # seconds
NEEDS = {"precision": 10, "decoding": 9, "memory": 12, "step": 9}  # GiB free: 7.1 to 9.5 by memory.predict, and CUDA
LOOK = """
import json, sys, torch
from common import machine
print(json.dumps([machine(), torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None]))
"""


@dataclass
class Args:
    only: tuple[str, ...] = tuple(LIMITS)  # sections to run
    out: str = "gpu_check.jsonl"  # file for the results, one JSON line each
    tiny: bool = False  # run a small form, for a CPU
    config: str = ""  # YAML file with any of these; flags win over it


def run_section(name: str, folder: Path, tiny: bool, out: Any) -> list[dict[str, Any]]:
    """Run a section and return its results, each also written to `out` at once; the last one says how it ended."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check_sections.py"), name, str(folder), str(int(tiny))]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    found, log = [], folder / f"{name}.log"
    started = time.perf_counter()
    limit = LIMITS[name] * (10 if tiny else 1)

    def note(record: dict[str, Any]) -> None:
        found.append({"section": name, **record})
        out.write(json.dumps(found[-1]) + "\n")
        out.flush()
        print(f"  {', '.join(f'{key} {shown(value)}' for key, value in record.items())}", flush=True)

    print(name, flush=True)
    results = folder / f"{name}.jsonl"
    with log.open("w") as output:
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output,
                                 start_new_session=True)  # fmt: skip
        read, late = 0, False
        while True:
            over = child.poll() is not None
            lines = results.read_text().split("\n")[:-1] if results.exists() else []
            for line in lines[read:]:
                note(json.loads(line))
            read = len(lines)
            if over:
                break
            if late := time.perf_counter() - started > limit:
                os.killpg(child.pid, signal.SIGKILL)  # and all processes it started
                child.wait()
                break
            time.sleep(0.2)
    seconds = round(time.perf_counter() - started, 1)
    if child.returncode == 0:
        note({"seconds": seconds})
    elif late:
        note({"unfinished": f"stopped after {limit} s"})
    else:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:] or ["no word"]
        note({"failed": last[0][-300:]})
    return found


def look() -> tuple[dict[str, Any], int | None]:
    """Return the machine and the free bytes on its GPU (None without one).

    A child process asks, because asking takes some GPU memory.
    """
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True)
    require(done.returncode == 0, f"this torch does not start here: {done.stderr.strip().splitlines()[-1:]}")
    here, free = json.loads(done.stdout.splitlines()[-1])
    return here, free


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(found: list[dict[str, Any]]) -> str:
    """Write Markdown with the tables of each section; results with the same fields share a table."""
    parts = []
    for name in dict.fromkeys(record["section"] for record in found):
        rows = [{k: v for k, v in r.items() if k != "section"} for r in found if r["section"] == name]
        ends = [row for row in rows if row.keys() & {"seconds", "failed", "unfinished"} and len(row) == 1]
        rows = [row for row in rows if row not in ends]
        ended = "; ".join(f"{key} {shown(value)}" for row in ends for key, value in row.items())
        lines = [f"**{name}** ({ended})", ""]
        for columns in dict.fromkeys(tuple(row) for row in rows):
            lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            lines += [f"| {' | '.join(map(shown, row.values()))} |" for row in rows if tuple(row) == columns]
            lines.append("")
        parts.append("\n".join(lines))
    return "\n".join(parts)


def main(args: Args) -> None:
    unknown = [name for name in args.only if name not in LIMITS]
    require(not unknown, f"--only {' '.join(unknown)}: want some of {', '.join(LIMITS)}")
    started, (here, free), found = time.perf_counter(), look(), []
    names, tiny = list(args.only), args.tiny or free is None
    if free is None:
        print("no CUDA GPU here, or none that this torch can use: the sections run in a small form on the CPU, which "
              "says nothing about any GPU")  # fmt: skip
    elif not tiny and (short := [name for name in names if free < NEEDS.get(name, 0) * 2**30]):
        needs = ", ".join(f"{name} needs {NEEDS[name]}" for name in short)
        print(f"{here['gpu']}: {free / 2**30:.1f} GiB are free; left out: {needs}")
        names = [name for name in names if name not in short]
    with tempfile.TemporaryDirectory() as temporary, open(args.out, "w", encoding="utf-8") as out:
        out.write(json.dumps({"section": "machine", **here}) + "\n")
        for name in names:
            found += run_section(name, Path(temporary), tiny, out)
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
    print(f"\n{here['gpu'] or here['cpu']}; {versions}; commit {here['commit']}{'; tiny' * tiny}; "
          f"{time.perf_counter() - started:.0f} s\n\n{table(found)}")  # fmt: skip
    failed = [record["section"] for record in found if "failed" in record]
    require(not failed, f"{', '.join(failed)} failed: see {args.out}")


if __name__ == "__main__":
    run_script(main, Args, __doc__)
