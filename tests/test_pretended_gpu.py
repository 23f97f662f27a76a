"""The scripts on a GPU that is not there (`pretended_gpu.py`): no device mix-ups, and few waits for the GPU."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from pretended_gpu import guard_library

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: a part of the pretended GPU is in C++")

# what is run where x, mask, rows are on the card and host is not: its kernels, syncs, copies
COUNTED = {
    "x + x": (1, 0, 0),
    "x + 1": (1, 0, 0),
    "x + torch.tensor(1.0)": (1, 0, 0),
    "x[0]": (0, 0, 0),
    "x.view(2, 2).t()": (0, 0, 0),
    "x[rows]": (1, 0, 0),
    "x[rows.cpu()]": (1, 1, 1),
    "x[mask]": (1, 1, 0),
    "x[[0, 1]] = 1.0": (1, 0, 2),
    "x.clone()[mask] = 1.0": (2, 0, 0),
    "x.clone()[mask] = x[:2]": (2, 1, 0),
    "x.masked_fill(mask, 0.0)": (1, 0, 0),
    "x.masked_select(mask)": (1, 1, 0),
    "mask.nonzero()": (1, 1, 0),
    "torch.equal(x, x)": (1, 1, 0),
    "x.double()": (1, 0, 0),
    "x.sum().item()": (1, 1, 0),
    "bool(mask.any())": (1, 1, 0),
    "x.tolist()": (0, 1, 0),
    "x.cpu()": (0, 1, 0),
    "host.clone().copy_(x)": (0, 1, 0),
    "host.to('cuda')": (0, 0, 1),
    "x.copy_(host)": (0, 0, 1),
    "x.to('cuda')": (0, 0, 0),
    "torch.tensor([1, 2], device='cuda')": (0, 0, 1),
    "torch.zeros(3, device='cuda')": (1, 0, 0),
    "torch.empty(3, device='cuda')": (0, 0, 0),
    "torch.cuda.synchronize()": (0, 1, 0),
    "host + host": (0, 0, 0),
}
REFUSED = [
    "x + host",
    "host * x.sum()",
    "x @ host",
    "host[rows]",
    "torch.cat([x, host])",
    "torch.where(mask, host, x)",
    "x.index_put((rows,), host[:2])",
    "torch.nn.functional.embedding(rows, host[:, None])",
    "torch.nn.Linear(4, 1)(x)",
    "x + x.to('cuda:1')",
]
TRUE = {
    "there and back": "assert x.device == torch.device('cuda', 0) and type(x.cpu()) is torch.Tensor and x.cpu().is_cpu",
    "views share memory": "y = x.clone(); y[1:3].add_(1); assert y.tolist() == [0.0, 2.0, 3.0, 3.0]",
    "data": "p = torch.nn.Parameter(x); p.data = p.data.double(); assert p.dtype == p.sum().dtype == torch.float64",
    "a linear layer": """
layer, copy = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
copy.load_state_dict(layer.state_dict())
copy.to("cuda")
assert isinstance(copy.weight, torch.nn.Parameter) and copy.weight.is_cuda
for module, inputs in ((layer, torch.ones(2, 4)), (copy, torch.ones(2, 4, device="cuda"))):
    output = module(inputs).tanh()
    output.sum().backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
    torch.optim.AdamW(module.parameters(), lr=0.1).step()
    module.output = output.tolist()
assert layer.output == copy.output
assert torch.equal(layer.weight, copy.weight.cpu()) and torch.equal(layer.weight.grad, copy.weight.grad.cpu())
""",
    "a gradient to the CPU": "h = host.clone().requires_grad_(); (h.cuda() * x).sum().backward(); assert h.grad.is_cpu",
    "autocast": "with torch.autocast('cuda', torch.float16): assert (x[None] @ x[:, None]).dtype == torch.float16",
    "float32 products": """
half = torch.ones(2, 2, dtype=torch.float16, device="cuda")
assert torch.mm(half, half, out_dtype=torch.float32).dtype == torch.float32
""",
    "scaled gradients": """
weight = torch.nn.Parameter(torch.ones(2, device="cuda"))
optimizer, scaler = torch.optim.SGD([weight], lr=1.0), torch.amp.GradScaler("cuda", init_scale=8.0)
for factor, expected in ((0.5, [0.5, 0.5]), (float("inf"), [0.5, 0.5])):
    optimizer.zero_grad()
    scaler.scale((weight * factor).sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == expected
assert scaler.get_scale() == 4.0
""",
    "random states": "with torch.random.fork_rng(): torch.randn(2, device='cuda')",
    "saved": """
import io
torch.save({"x": x}, file := io.BytesIO())
file.seek(0)
assert torch.load(file, weights_only=True)["x"].tolist() == x.tolist()
""",
}
RUN_ALL = """
import json, sys
import torch

found = {}
for code in json.load(sys.stdin):
    x, host, rows = torch.arange(4.0).to("cuda"), torch.ones(4), torch.tensor([0, 1]).to("cuda")
    mask, error = x > 1, ""
    counts.kernels = counts.syncs = counts.copies = 0
    try:
        exec(code)
    except Exception as caught:
        error = repr(caught)
    found[code] = [counts.kernels, counts.syncs, counts.copies], error
print(json.dumps(found))
print(torch.cuda.is_bf16_supported(including_emulation=False), torch.cuda.device_count())
sys.exit(75)
"""


def run_all(folder: Path, card: str, codes: list[str]) -> list[str]:
    """What `RUN_ALL` prints of these pieces of code."""
    script = folder / "run_all.py"
    script.write_text(RUN_ALL)
    command = [sys.executable, str(HERE / "pretended_gpu.py"), *card.split(), str(script)]
    done = subprocess.run(command, input=json.dumps(codes), capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def on_card(tmp_path_factory) -> dict[str, tuple[list[int], str]]:
    """What was counted in each piece of code, and the error that it ended in; all in one process."""
    codes = [*COUNTED, *REFUSED, *TRUE.values()]
    found, card, _ = run_all(tmp_path_factory.mktemp("card"), "--two", codes)
    assert card == "True 2"
    return json.loads(found)


def test_each_installed_torch_has_its_own_guard(tmp_path):
    # one that was compiled for an environment that is gone finds no libtorch
    assert guard_library(tmp_path / "one") != guard_library(tmp_path / "other")


@pytest.mark.parametrize("code", COUNTED)
def test_kernels_waits_and_copies_are_counted(on_card, code):
    assert on_card[code] == [list(COUNTED[code]), ""]


@pytest.mark.parametrize("code", REFUSED)
def test_tensors_of_two_devices_are_refused(on_card, code):
    assert "RuntimeError('Expected all tensors to be on the same device" in on_card[code][1]


@pytest.mark.parametrize("what", TRUE)
def test_the_card_computes_as_the_cpu_does(on_card, what):
    assert on_card[TRUE[what]][1] == ""


@pytest.mark.slow
def test_a_card_may_have_no_bfloat16(tmp_path):
    assert run_all(tmp_path, "--float16", [])[1] == "False 1"


SHORT = "--max_length 384 --max_new_tokens 16"
FROM_START = f"--sft_model {{start}} --train_path {{tasks}} --output_dir {{out}} {SHORT}"
FEW = "--parity_bound 0.1"  # the gate then takes no samples of its own: one stage does, grpo
SFT = "train_sft_lora.py --model_name data/pocket_coder --train_path {tasks} --output_dir {out} --max_length 384"
GRPO = f"train_grpo_lora.py {FROM_START} --num_steps 2 --num_samples 4"
CARDS = ["", "--float16 --two"]
STAGES = {  # an epoch of 6 tasks, two updates, or four tasks
    "sft": [f"{SFT} --num_train_epochs 1 --per_device_train_batch_size 2 --gradient_accumulation_steps 1"],
    "rl": [f"train_rl_lora.py {FROM_START} --num_steps 2 --batch_size 2 {FEW}"],
    "ppo": [f"train_ppo_lora.py {FROM_START} --num_updates 2 --num_samples 2 {FEW}"],
    "ppo with a critic": [
        f"train_ppo_lora.py {FROM_START} --num_updates 2 --num_samples 2 --value_coef 0.5 --ratio_level token {FEW}"
    ],
    "grpo": [GRPO],
    "rft": [f"train_rft_lora.py {FROM_START} --num_steps 2 --num_samples 2 {FEW}"],
    "dpo": [
        "generate_dpo_data.py --sft_model {start} --train_path data/pocket_train.jsonl --output_path {out}.jsonl "
        "--max_length 384 --max_new_tokens 64 --limit 24 --num_samples 4",
        "train_dpo_lora.py --sft_model {start} --train_path {out}.jsonl --output_dir {out} --num_steps 2",
    ],
    "eval": [
        "eval_humaneval.py --exp_name tried --model_path {start} --data_path data/pocket_test.jsonl "
        f"--results_dir {{out}} --limit 4 {SHORT}"
    ],
}


@pytest.fixture
def on_gpu(run_cold, start, tasks_path, tmp_path):
    """Run a command on the card; gives what was counted, and where its output went."""

    def run(card: str, command: str) -> tuple[dict, Path]:
        words = command.format(start=start, tasks=tasks_path, out=tmp_path / "out").split()
        code, printed, errors = run_cold("tests/pretended_gpu.py", *card.split(), *words, OMP_NUM_THREADS="1")
        assert code == 0, f"{card} {command}\n{errors[-3000:]}"
        return json.loads(printed.splitlines()[-1]), tmp_path / "out"

    return run


@pytest.fixture(scope="module")
def stages(start, tmp_path_factory):
    """Run stages on a card, all in one process; gives of each what its commands took and ended in, and its output.

    What has run on a card once is not run again.
    """
    tasks, ran = tmp_path_factory.mktemp("tasks") / "t.jsonl", {}
    with (ROOT / "data" / "pocket_train.jsonl").open() as lines:
        tasks.write_text("".join(itertools.islice(lines, 6)))

    def run(card: str, wanted: list[str] = list(STAGES)) -> dict[str, tuple[list[tuple[int, str]], Path]]:  # noqa: B006
        if card not in ran:
            folder = tmp_path_factory.mktemp("stages")
            places = {name: folder / name.replace(" ", "_") for name in wanted}
            commands = [(name, command.format(start=start, tasks=tasks, out=places[name]).split())
                        for name in wanted for command in STAGES[name]]  # fmt: skip
            command = [sys.executable, "tests/pretended_gpu.py", *card.split(), "tests/pretended_stages.py"]
            done = subprocess.run(command, input=json.dumps([words for _, words in commands]), capture_output=True,
                                  text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            took = json.loads(done.stdout.splitlines()[0])
            ran[card] = {name: ([], places[name]) for name in wanted}
            for (name, _), (kernels, error) in zip(commands, took, strict=True):
                ran[card][name][0].append((kernels, error and f"{error}\n{done.stderr[-3000:]}"))
        return ran[card]

    return run


def last_step(folder: Path) -> int:
    (log,) = folder.glob("*_train_log.jsonl")
    return json.loads(log.read_text().splitlines()[-1])["step"]


@pytest.mark.slow
def test_grpo_trains_and_seldom_waits(on_gpu):
    counted, folder = on_gpu("", f"{GRPO} {FEW}")
    assert last_step(folder) == 2
    assert counted["kernels"] > 10_000
    decoding = {site: n for site, n in counted["sites"].items() if site.startswith("sampling")}
    assert 0 < sum(decoding.values()) < 2 * 16  # fewer than tokens are drawn one after the other


@pytest.mark.slow
def test_a_token_under_a_graph_waits_seldom_and_copies_nothing(run_cold):
    code, printed, errors = run_cold("tests/pretended_gpu.py", "benchmarks/count_kernels.py", "2", OMP_NUM_THREADS="1")
    assert code == 0, errors[-3000:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()[2:-1]]
    assert [row[0] for row in rows] == ["unpacked, eager"] * 2 + ["4-bit, eager"] * 2 + [
        "unpacked, graph"] * 2 + ["4-bit, graph"] * 2  # fmt: skip
    for name, _, _, waits, copies in rows:
        assert float(waits) <= (0.13 if "graph" in name else 2) and float(copies) < 0.1, name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["", "--float16"])
def test_sft_learns_the_same_whatever_cards_it_sees(stages, dtype):
    """It takes one of two. transformers' Trainer would take both, and a batch for each: fewer steps."""
    found = []
    for card in (dtype, f"{dtype} --two".strip()):
        wanted = list(STAGES) if card in CARDS else ["sft"]
        ((_, error),), folder = stages(card, wanted)["sft"]
        assert error == "" and last_step(folder) == 3
        found.append((folder / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_runs(stages, stage, card):
    took, folder = stages(card)[stage]
    assert [error for _, error in took] == [""] * len(STAGES[stage])
    assert all(kernels > 1000 for kernels, _ in took)
    if stage == "eval":
        assert (folder / "tried_metrics.json").is_file()
    else:
        assert last_step(folder) == (3 if stage == "sft" else 2)
        assert (folder / "adapter_model.safetensors").is_file()
