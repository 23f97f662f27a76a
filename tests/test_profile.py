"""What `profile.sh` installs and picks where PROFILE is not given, and what it says of a card that torch cannot use.

`nvidia-smi` is played by a script. So is torch, where another build or a card is wanted: a module of the few names that
`profile.sh` asks, with PyTorch's own messages.
"""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

CARD = "GPU 0: NVIDIA GeForce RTX 3090"
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by"  # etc.


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of what `profile.sh` needs, its .venv complete, with this python."""
    for name in ("profile.sh", "run_tests.sh", "requirements.txt", "requirements-tests.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    program(tmp_path / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    shutil.copy(ROOT / "requirements.txt", tmp_path / ".venv")
    return tmp_path


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def nvidia_smi(copy: Path, driver: str = "550.54.14") -> None:
    """A driver and two cards, the first of them CARD."""
    cards = f"printf '%s (UUID: GPU-1f)\\n' '{CARD}' 'GPU 1: NVIDIA GeForce GT 1030'"
    driver = f"printf '%s\\n' {driver} {driver}"
    program(copy / "bin" / "nvidia-smi", f'case "$*" in -L) {cards} ;; --query-gpu=driver_version*) {driver} ;; esac')


def torch_build(copy: Path, cuda: str, says: str = "") -> None:
    """A torch for `cuda` that refuses to start CUDA with the words `says`, or finds a card; "" is the CPU build."""
    build = f"cu{cuda.replace('.', '')}" if cuda else "cpu"
    (copy / "torch.py").write_text(f"""
import warnings
from types import SimpleNamespace

def is_available():
    if {says!r}:
        warnings.warn("CUDA initialization: " + {says!r})
    return not {says!r}

def init():
    raise RuntimeError({says!r})

__version__ = "2.13.0+{build}"
version = SimpleNamespace(cuda={cuda or None!r})
cuda = SimpleNamespace(is_available=is_available, init=init)
""", encoding="utf-8")  # fmt: skip


def profile(copy: Path, **settings: str) -> subprocess.CompletedProcess:
    """`. ./profile.sh` of a script, with a PATH that has no nvidia-smi but the one that a test has put there."""
    return run(copy, "-c", '. ./profile.sh; echo "goes on with $PROFILE"', **settings)


def run(copy: Path, *words: str, **settings: str) -> subprocess.CompletedProcess:
    """Run `sh` with these words in the copy."""
    (copy / "bin").mkdir(exist_ok=True)
    for tool in ("sh", "cmp", "cp", "tail", "basename", "dirname", "touch"):
        program(copy / "bin" / tool, f'exec {shutil.which(tool)} "$@"')
    environment = {"PATH": str(copy / "bin"), **settings}
    return subprocess.run(["sh", *words], cwd=copy, env=environment, capture_output=True, text=True)


def refused(copy: Path, **settings: str) -> str:
    """The one line that it stops with."""
    done = profile(copy, **settings)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert done.stderr.startswith("error: GPU 0: NVIDIA ") and done.stderr.count("\n") == 1, done.stderr
    assert "UUID" not in done.stderr and "GPU 1" not in done.stderr
    assert "PROFILE=pocket" in done.stderr and "docs/hardware.md" in done.stderr
    return done.stderr


def pocket_because(why: str) -> str:
    return f"profile: pocket (picked: {why})\ngoes on with pocket\n"


def index(build: str) -> str:
    return f"`.venv/bin/pip install torch==2.13.0+{build} --index-url https://download.pytorch.org/whl/{build}`"


def test_no_nvidia_smi_is_no_card(copy):
    torch_build(copy, "13.0", NO_DRIVER)
    done = profile(copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == pocket_because("no CUDA GPU here")


@pytest.mark.parametrize(
    "body",
    [
        "echo 'NVIDIA-SMI has failed because it couldn'\\''t communicate with the NVIDIA driver.'; exit 9",
        "echo 'No devices were found'",
    ],
)
def test_an_nvidia_smi_that_lists_no_card_is_no_card(copy, body):
    torch_build(copy, "13.0", NO_DRIVER)
    program(copy / "bin" / "nvidia-smi", body)
    done = profile(copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == pocket_because("no CUDA GPU here")


def test_the_cpu_build_beside_a_card_is_refused(copy):
    torch = pytest.importorskip("torch")
    if torch.version.cuda or torch.version.hip:
        pytest.skip("the torch installed here is no CPU build")
    nvidia_smi(copy)
    said = refused(copy)
    assert f"{CARD}, driver 550.54.14: torch {torch.__version__} (a CPU build) cannot use it" in said
    assert "Torch not compiled with CUDA enabled; install a CUDA build: `.venv/bin/pip install torch==" in said
    assert "+cu126 " in said and "/whl/cu126`" in said  # 550 is too old for the build that is the default


def test_a_new_driver_gets_the_default_build(copy):
    torch_build(copy, "", "Torch not compiled with CUDA enabled")
    nvidia_smi(copy, driver="580.82.07")
    assert f"install a CUDA build: {index('cu130')} (cu126 for cards older than Turing), or" in refused(copy)
    nvidia_smi(copy, driver="")  # it does not tell
    said = refused(copy)
    assert f"{CARD}, driver unknown: torch 2.13.0+cpu (a CPU build)" in said and index("cu130") in said


def test_a_driver_too_old_for_the_build_is_said(copy):
    torch_build(copy, "13.0", TOO_OLD)
    nvidia_smi(copy)
    said = refused(copy)
    assert f"{CARD}, driver 550.54.14: torch 2.13.0+cu130 (for CUDA 13.0) cannot use it" in said
    assert "is too old (found version 12040); update the driver to 580 or newer, or install" in said
    assert index("cu126") in said and "Please update" not in said


@pytest.mark.parametrize(
    ("cuda", "way"),
    [
        ("13.0", "update the driver to 580 or newer"),
        ("12.6", "update the driver to 525 or newer"),
        ("", "update the driver to 525 or newer and install a CUDA build"),
    ],
)
def test_a_driver_too_old_for_every_build_can_only_be_updated(copy, cuda, way):
    torch_build(copy, cuda, TOO_OLD)
    nvidia_smi(copy, driver="470.256.02")
    said = refused(copy)
    assert f"; {way}, or set PROFILE" in said and "pip" not in said


def test_a_card_that_is_not_there_is_a_mistake_in_cuda_visible_devices(copy):
    torch_build(copy, "13.0", "No CUDA GPUs are available")
    nvidia_smi(copy, driver="580.82.07")
    said = refused(copy, CUDA_VISIBLE_DEVICES="7")
    assert "No CUDA GPUs are available; mend that (CUDA_VISIBLE_DEVICES is 7), or" in said and "pip" not in said


def test_what_torch_says_of_another_trouble_is_passed_on(copy):
    reason = "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variables"
    torch_build(copy, "13.0", f"{reason}. Setting the available devices to be zero.")
    nvidia_smi(copy, driver="580.82.07")
    assert f"cannot use it: {reason}; mend that, or set PROFILE" in refused(copy)


@pytest.mark.parametrize("devices", ["", "-1", "-1,0"])
def test_a_card_that_the_user_hides_is_no_error(copy, devices):
    torch_build(copy, "13.0", "No CUDA GPUs are available")
    nvidia_smi(copy)
    done = profile(copy, CUDA_VISIBLE_DEVICES=devices)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == pocket_because("CUDA_VISIBLE_DEVICES hides the GPU")


def test_a_card_that_torch_can_use_is_used(copy):
    torch_build(copy, "13.0")
    here = {"MODEL": "data/pocket_coder", "TRAIN": "data/pocket_train.jsonl", "TEST": "data/pocket_test.jsonl"}
    done = profile(copy, **here)  # without an nvidia-smi, as in some containers
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "profile: deepseek (picked: a CUDA GPU is here)\ngoes on with deepseek\n"


def test_a_torch_that_cannot_be_imported_stops_the_script(copy):
    (copy / "torch.py").write_text("raise ImportError('libcudart is gone')")
    done = profile(copy)
    assert (done.returncode, done.stdout) == (1, "") and "libcudart is gone" in done.stderr


@pytest.mark.parametrize("given", ["pocket", "smol", "qwen", "deepseek"])
def test_a_given_profile_asks_nobody(copy, given):
    program(copy / "bin" / "nvidia-smi", "touch asked")
    program(copy / ".venv" / "bin" / "python", "touch asked")
    here = {"MODEL": "data/pocket_coder", "TRAIN": "data/pocket_train.jsonl", "TEST": "data/pocket_test.jsonl"}
    done = profile(copy, PROFILE=given, **here)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"profile: {given}\ngoes on with {given}\n"
    assert not (copy / "asked").exists()


def test_the_page_shows_the_error_as_it_is(copy):
    torch_build(copy, "13.0", TOO_OLD)
    nvidia_smi(copy)
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    shown = page.partition("\n## Which build of PyTorch\n")[2].partition("\n## ")[0]
    assert " ".join(refused(copy).split()) in " ".join(shown.split())
    for build in ("cu126", "cu130"):
        assert index(build) in shown


DEEPSEEK = {"PROFILE": "deepseek", "MODEL": "data/pocket_coder", "PREFIX": "x", "TRAIN": "data/pocket_train.jsonl",
            "TEST": "data/pocket_test.jsonl"}  # fmt: skip
STAGES = ("SFT", "RL", "PPO", "GRPO", "DPO_DATA", "DPO", "EVAL")
SHOW = "; ".join(f'echo "{stage}: $(echo ${stage}_FLAGS)"' for stage in STAGES)  # echo drops spare blanks


def flags(copy: Path, script: str = f". ./profile.sh; {SHOW}", **settings: str) -> dict[str, str]:
    """The flags that each stage gets."""
    done = run(copy, "-c", script, **DEEPSEEK | settings)
    assert (done.returncode, done.stderr) == (0, "")
    lines = (line.partition(":") for line in done.stdout.splitlines() if not line.startswith("profile"))
    return {stage: words.strip() for stage, _, words in lines}


def test_original_is_what_the_original_system_ran(copy):
    plain, original = flags(copy), flags(copy, ORIGINAL="1")
    assert plain["RL"] == plain["PPO"] == plain["SFT"] == "--seed 42" and plain["EVAL"] == plain["DPO_DATA"] == ""
    assert original["SFT"] == "--max_steps 200 --seed 42"
    assert original["RL"] == "--temperature 0.8 --top_p 0.95 --seed 42"
    assert original["PPO"] == "--temperature 0.8 --top_p 0.95 --std_ddof 1 --std_floor 0 --seed 42"
    assert {name: original[name] for name in STAGES[3:]} == {name: plain[name] for name in STAGES[3:]}
    assert flags(copy, ORIGINAL="1", STEPS="2")["SFT"].endswith("--max_steps 2")
    assert flags(copy, ORIGINAL="0", TUNED="0") == flags(copy, ORIGINAL="", TUNED="") == plain


def test_tuned_has_qwen_s_rates_and_samples(copy):
    tuned, qwen = flags(copy, TUNED="1"), flags(copy, PROFILE="qwen")
    for name in ("RL", "PPO", "GRPO"):
        assert "--learning_rate 1e-4" in tuned[name] and "--num_samples 8" in tuned[name]
        ours = "--max_length 768 --max_new_tokens 256 --micro_batch_tokens 2048 --token_budget 40000"
        assert qwen[name].startswith(ours)
        assert tuned[name] == qwen[name].replace(ours, "--token_budget 200000")
    assert "--baseline rloo" in tuned["RL"]
    assert tuned["DPO"] == "--learning_rate 5e-5 --seed 42" and tuned["SFT"] == "--learning_rate 2e-4 --seed 42"
    assert "--token_budget 100000" in flags(copy, TUNED="1", ROUNDS="2")["DPO_DATA"]


@pytest.mark.parametrize("setting", [{"ORIGINAL": "1"}, {"TUNED": "1"}])
def test_the_scripts_take_the_flags(copy, setting):
    from common import parse_args

    scripts = {"SFT": "train_sft_lora", "RL": "train_rl_lora", "PPO": "train_ppo_lora", "GRPO": "train_grpo_lora",
               "DPO_DATA": "generate_dpo_data", "DPO": "train_dpo_lora", "EVAL": "eval_humaneval"}  # fmt: skip
    for name, words in flags(copy, **setting).items():
        script = importlib.import_module(scripts[name])
        args = parse_args(script.Args, words.split())
        getattr(script, "check", lambda args: None)(args)


def test_each_has_names_of_its_own(copy):
    (copy / "deepseek-ai" / "deepseek-coder-1.3b-base").mkdir(parents=True)
    for settings, prefix, suffix in (
        ({}, "deepseek_1_3b", "_100"),  # the original's name
        ({"ORIGINAL": "1"}, "deepseek_1_3b_original", ""),
        ({"TUNED": "1"}, "deepseek_1_3b_tuned", ""),
        ({"TUNED": "1", "MODEL": "data/pocket_coder"}, "pocket_coder_tuned", ""),
        ({"TUNED": "1", "PREFIX": "mine"}, "mine", ""),
    ):
        done = run(copy, "-c", '. ./profile.sh; checkpoint_name rl 0.01; echo "$SFT"',
                   **{**DEEPSEEK, "MODEL": "", "PREFIX": ""} | settings)  # fmt: skip
        names = [f"checkpoints/{prefix}_lora_{method}" for method in (f"rl_alpha0.01{suffix}", "sft_v2")]
        assert done.stdout.splitlines()[1:] == names, done.stderr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ORIGINAL": "1", "TUNED": "1"}, "ORIGINAL=1 TUNED=1: set one of them to 1, not both"),
        ({"ORIGINAL": "yes"}, "ORIGINAL=yes TUNED=0: set one of them to 1"),
        (
            {"PROFILE": "pocket", "ORIGINAL": "1"},
            "ORIGINAL and TUNED are for PROFILE=deepseek without TASKS, not for",
        ),
        ({"PROFILE": "qwen", "TUNED": "1"}, "ORIGINAL and TUNED are for PROFILE=deepseek without TASKS, not for qwen"),
        ({"TASKS": "verilog", "TUNED": "1"}, "ORIGINAL and TUNED are for PROFILE=deepseek without TASKS, not for"),
    ],
)
def test_what_does_not_go_together_is_one_line(copy, settings, says):
    done = run(copy, "-c", ". ./profile.sh; echo on", **DEEPSEEK | settings)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {says}")


NESTED = f"""
. ./profile.sh
(SEED=1; . ./profile.sh)
. ./profile.sh
export RESULTS CHECKPOINTS SEED=1
sh -c '. ./profile.sh; {SHOW.replace("'", "")}'
"""  # as in reproduce_table.sh and ablations.sh


@pytest.mark.parametrize("given", ["pocket", "smol", "qwen", "deepseek"])
def test_the_user_s_flags_come_last_and_once_however_deep(copy, given):
    own = {f"{stage}_FLAGS": f"--mine {stage} --two 'words'" for stage in STAGES}
    plain, extended = (flags(copy, PROFILE=given, **extra) for extra in ({}, own))
    assert extended == {stage: f"{plain[stage]} --mine {stage} --two 'words'".strip() for stage in STAGES}
    plain, extended = (flags(copy, NESTED, PROFILE=given, **extra) for extra in ({}, own))
    assert "--seed 1" in plain["RL"] and "--seed 42" not in plain["RL"]
    assert extended == {stage: f"{plain[stage]} --mine {stage} --two 'words'".strip() for stage in STAGES}


RUN, TESTS = "requirements.txt", "requirements-tests.txt"


@pytest.fixture
def fresh(copy) -> Path:
    """The copy on a fresh machine, without a .venv. The pythons only write their arguments to the file `asked`."""
    shutil.rmtree(copy / ".venv")
    note = "for word; do printf '%s ' \"$word\"; done >> asked; echo >> asked"
    program(copy / "bin" / "python", note)  # what `python -m venv` puts into .venv
    make = f'mkdir() {{ {shutil.which("mkdir")} "$@"; }}; mkdir -p .venv/bin; cp bin/python .venv/bin/python'
    program(copy / "bin" / "python3", f"{note}; {make}")
    return copy


def installed(copy: Path, *words: str) -> list[str]:
    """The files that pip installed while the words ran."""
    (copy / "asked").write_text("")
    done = run(copy, *words, PROFILE="pocket")
    assert (done.returncode, done.stderr) == (0, "")
    asked = [line.split() for line in (copy / "asked").read_text().splitlines()]
    files = [words[-1] for words in asked if words[:3] == ["-m", "pip", "install"]]
    assert asked.count(["-m", "venv", ".venv"]) == len(files) == done.stdout.count("installing ")
    return files


TRAINING, TESTING = ("-c", ". ./profile.sh"), ("run_tests.sh",)


def test_a_training_run_installs_what_it_needs_and_the_tests_add_theirs(fresh):
    assert installed(fresh, *TRAINING) == [RUN]
    assert installed(fresh, *TRAINING) == []
    assert installed(fresh, *TESTING) == [TESTS]
    assert installed(fresh, *TESTING) == installed(fresh, *TRAINING) == []
    with (fresh / TESTS).open("a") as file:
        file.write("another==1.0\n")
    assert installed(fresh, *TRAINING) == []
    assert installed(fresh, *TESTING) == [TESTS]
    with (fresh / RUN).open("a") as file:
        file.write("another==1.0\n")
    assert installed(fresh, *TRAINING) == [RUN]
    assert installed(fresh, *TESTING) == []


def test_the_tests_can_come_first(fresh):
    assert installed(fresh, *TESTING) == [RUN, TESTS]
    assert installed(fresh, *TRAINING) == installed(fresh, *TESTING) == []


def test_an_install_that_fails_stops_the_script_and_is_tried_again(fresh):
    program(fresh / "bin" / "python", 'case "$*" in *-tests.txt) echo "no such version"; exit 1 ;; esac')
    for already in (False, True):
        done = run(fresh, *TESTING, PROFILE="pocket")
        assert (done.returncode, done.stderr) == (1, "no such version\n")
        assert (f"installing {RUN}" in done.stdout, f"installing {TESTS}" in done.stdout) == (not already, True)
        assert (fresh / ".venv" / RUN).exists() and not (fresh / ".venv" / TESTS).exists()
