"""The Verilog tasks: references pass, mutants fail, and no test problem is a train problem under another name."""

import itertools
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from make_verilog_tasks import PROBLEMS, SEED, make_task, split_problems
from verilog_testbench import header, mutants, parse_ports

DATA = Path(__file__).parents[1] / "data"
MISSING = [tool for tool in ("iverilog", "vvp", "yosys") if not shutil.which(tool)]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian packages)")
TASKS = {problem.name: make_task(problem) for problem in PROBLEMS}


def judge(task, completions, folder):
    """(passed, total) of each completion as a netlist, or the first line of what a tool says against it.

    One yosys run for all of them: starting it costs more than a small module does.
    """
    folder.mkdir()
    (folder / "tb.v").write_text(task["test"])
    latches = "" if task.get("latches") else "select -assert-none t:*dlatch* t:*DLATCH* t:$sr t:$_SR_*; "
    script = ""
    for number, completion in enumerate(completions):
        (folder / f"{number}.v").write_text(task["prompt"] + "\n\n" + completion)
        script += (
            f"design -reset; read_verilog -sv -noblackbox {number}.v; hierarchy -check -top {task['top_module']}; proc; opt; fsm; "
            f"opt; memory; opt; techmap; opt; {latches}write_verilog -noattr net{number}.v; log done{number}; "
        )
    log = run(["yosys", "-p", script], folder)
    verdicts = []
    for number in range(len(completions)):
        if f"done{number}" not in re.findall(r"^done\d+$", log, re.M):
            verdicts.append("yosys: " + log[log.find("ERROR") :].strip())
            return verdicts + judge(task, completions[number + 1 :], folder / "rest") if completions[number + 1 :] else verdicts
        warnings = run(["iverilog", "-g2012", "-Wall", "-tnull", f"{number}.v"], folder)
        errors = run(["iverilog", "-g2012", "-s", "tb", "-o", f"{number}.vvp", f"net{number}.v", "tb.v"], folder)
        shown = run(["vvp", "-n", f"{number}.vvp"], folder) if not errors else errors
        counts = re.findall(r"^passed (\d+) of (\d+)$", shown, re.M)
        verdicts.append(warnings or (tuple(map(int, counts[0])) if len(counts) == 1 else shown))
    return verdicts


def run(command, folder):
    done = subprocess.run(command, cwd=folder, stdout=-1, stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.stdout
