"""Check and run the stage scripts that `train.py` puts in a row."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import InputError, as_flags, field_names, parse_args, require, unknown_name
from common.server_url import server_urls
from training.tracking import check_tracker

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Stage:
    """A script and the settings it is given."""

    script: str
    settings: dict[str, Any]

    @property
    def module(self) -> Any:
        return importlib.import_module(Path(self.script).stem)

    def args(self) -> Any:
        """Return the settings as the script will have them. Raises InputError where a value does not fit."""
        return parse_args(self.module.Args, as_flags(self.settings))


def stage(script: str, settings: dict[str, Any], *others: str, **fixed: Any) -> Stage:
    """Return a stage with those settings that the script takes, without `others`, which mean something else there.

    Args:
        fixed: more settings of the script, which win.
    """
    names = set(field_names(Stage(script, {}).module.Args)) - {"config", *others}
    return Stage(script, {name: value for name, value in settings.items() if name in names} | fixed)


def find_gpu(gpu: int) -> bool:
    """Return whether there is a GPU, and hide the others from the stages (SFT's Trainer would take them all).

    Raises:
        InputError: there are GPUs, but none of this number.
    """
    import torch

    count = torch.cuda.device_count()  # does not start CUDA, which would see the other GPUs
    require(not count or gpu < count, f"GPU {gpu}: torch sees {count} here, numbered from 0")
    if count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[max(gpu, 0)]
    else:
        print(f"{f'GPU {gpu}: ' if gpu >= 0 else ''}torch sees no CUDA GPU here; this runs on the CPU")
    return count > 0


def check(stages: list[Stage], given: dict[str, Any], names: list[str]) -> None:
    """Check the settings of all stages before the first one runs.

    Args:
        given: what the user set. names: other options, to suggest where one is misspelt.

    Raises:
        InputError: an option that no stage of the run takes, or a value that does not fit.
    """
    for name, value in given.items():
        if not any(name in one.settings and str(one.settings[name]) == str(value) for one in stages):
            known = [known for one in stages for known in field_names(one.module.Args)]
            require(name not in known, f"--{name}: is of no use in this run, or another option says it")
            raise InputError(unknown_name("option", f"--{name}", names + known))
    for one in stages:
        args = one.args()
        if hasattr(args, "report_to"):
            check_tracker(args)
        if getattr(args, "engine", "") == "server":
            server_urls(args.server)
        if hasattr(one.module, "check"):
            one.module.check(args)


def run_stage(one: Stage) -> None:
    """Run a script to its end, and exit with its code if that is not 0."""
    flags = as_flags(one.settings)
    print("\n" + shlex.join(["python", one.script, *flags]), flush=True)
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen([sys.executable, str(ROOT / one.script), *flags], env=environment)
    before = {  # the stage answers them: it saves its state and ends
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),  # the terminal sends it to the stage too
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number)),
    }
    code = process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def has_pairs(pairs: Stage, train: Stage) -> bool:
    """Return whether this very stage has made the pairs that an interrupted training resumes with."""
    stats = Path(pairs.settings["output_path"].removesuffix(".jsonl") + "_stats.json")
    interrupted = Path(train.settings["output_dir"] + ".partial", "resume.pt").is_file() and train.args().resume
    return interrupted and stats.is_file() and json.loads(stats.read_text())["args"] == asdict(pairs.args())
