"""The benchmarks on work small enough to see that they count right; what they measure is not looked at."""

import importlib.util
import json
import shutil
from dataclasses import replace
from statistics import median

import pytest
import torch
from conftest import ROOT
from fleet_stand_in import StandIn
from sampled import sample

import eval_humaneval
from benchmarks import bench_fleet, bench_importance, compare_engines, published_prompt
from common import InputError, write_jsonl
from judging.tasks import read_tasks
from model.load import CPU, load_policy, load_tokenizer
from model.sampling import Rollout, encode_prompts

STEP = "benchmarks/bench_rl_step.py --rounds 1 --steps 1 --batch_size 2 --num_samples 2 --new_tokens 6"


def rounds(run_cli, tmp_path, flags: str) -> list[dict]:
    code, out, err = run_cli(*STEP.split(), *flags.split(), "--json", str(tmp_path / "out.json"), OMP_NUM_THREADS="1")
    assert code == 0, err
    record = json.loads((tmp_path / "out.json").read_text())
    assert "samples/s" in out and record["machine"]["versions"]["torch"]
    return record["rounds"]


@pytest.mark.slow
def test_a_side_does_what_was_asked(run_cli, tmp_path):
    results = rounds(run_cli, tmp_path, "--only ours loop")
    assert [r["side"] for r in results] == ["ours", "loop"]
    for result in results:
        assert (result["steps"], result["samples"], result["tokens"]) == (1, 4, 24)
        assert len(set(result["tasks"])) == 2
        assert 0 < result["sample_seconds"] + result["score_seconds"] < result["seconds"]
        assert 0 < result["above_mib"] < result["peak_mib"]


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed")
def test_all_sides_do_the_same_work(run_cli, tmp_path):
    results = rounds(run_cli, tmp_path, "")
    assert [r["side"] for r in results] == ["ours", "loop", "trl"]
    for name in ("steps", "samples", "tokens", "prompt_tokens"):
        assert len({r[name] for r in results}) == 1
    assert len({tuple(sorted(r["tasks"])) for r in results}) == 1


def test_unequal_work_is_no_comparison():
    from benchmarks.bench_rl_step import check_equal_work

    ours = dict(round=0, side="ours", steps=1, samples=4, prompt_tokens=9, tokens=24, tasks=["a", "b"])
    check_equal_work([ours, ours | {"side": "trl", "tasks": ["b", "a"]}], "fixed")
    check_equal_work([ours, ours | {"side": "trl", "tokens": 20}], "natural")
    with pytest.raises(SystemExit, match="ours and trl did not do the same work: tokens"):
        check_equal_work([ours, ours | {"side": "trl", "tokens": 20}], "fixed")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--only ours --workload 7b", "--workload 7b: needs a CUDA GPU, none is here"),
        ("--only ours --workload humaneval --tokenizer nowhere", "--tokenizer nowhere: has no tokenizer.json"),
        ("--only ours --num_samples 1", "--num_samples 1: must be at least 2"),
        ("--only trl --trl_batch_size 3", "--trl_batch_size 3: must divide the batch of 8"),
        ("--only trl --trl_settings x", "--trl_settings: is not JSON"),
    ],
)
def test_bad_input_is_one_line(run_cli, tmp_path, flags, says):
    (tmp_path / "trl").mkdir()  # stands for the package where that is missing
    (tmp_path / "trl" / "__init__.py").touch()
    code, _, err = run_cli("benchmarks/bench_rl_step.py", *flags.split(), PYTHONPATH=str(tmp_path))
    assert code == 2 and says in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("trl") is not None, reason="TRL is installed")
def test_missing_trl_says_how_to_install_it(run_cli):
    code, _, err = run_cli("benchmarks/bench_rl_step.py")
    assert code == 2 and "pip install -r benchmarks/requirements.txt" in err and err.count("\n") == 1


@pytest.mark.slow
def test_scaling_writes_table_and_plot(run_cli, tmp_path):
    code, out, err = run_cli(
        *"benchmarks/bench_scaling.py --hidden_size 64 --layers 1 --group 2 4 --prompt 8 16 --completion 4".split(),
        *"--batch 1 --middle 2 8 4 1 --rounds 2".split(), "--plot", str(tmp_path / "plot.png"),
        "--table", str(tmp_path / "table.md"), "--json", str(tmp_path / "out.json"), OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert code == 0, err
    table = (tmp_path / "table.md").read_text()
    assert table in out and table.count("\n| 4 | 8 | 4 | 1 | 24 | 48 |") == 1  # P + G R = 24, G (P + R) = 48
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((tmp_path / "out.json").read_text())
    assert len(record["results"]) == 3 * 2 * 2  # points, works, shared and not
    assert all(len(r["seconds"]) == 2 and median(r["seconds"]) > 0 for r in record["results"])


def test_the_fit_finds_what_the_times_grow_as():
    from benchmarks.bench_scaling import fit, tokens

    grid = [
        dict(group=g, prompt=p, completion=r, batch=b) for g in (2, 8) for p in (9, 70) for r in (5, 40) for b in (1, 3)
    ]
    results = [point | {"seconds": [0.1 + 2e-3 * tokens(point, True)]} for point in grid]
    right, wrong = fit(results, True), fit(results, False)
    assert right["slope"] == pytest.approx(2e-3) and right["constant"] == pytest.approx(0.1)
    assert right["r2"] == pytest.approx(1.0) and wrong["r2"] < 0.95 and right["relative"] < 1e-9 < wrong["relative"]


@pytest.fixture
def chat(tmp_path) -> str:
    """The pocket model with a chat template."""
    folder = shutil.copytree(ROOT / "data" / "pocket_coder", tmp_path / "chat")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<go>"
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def test_completions_to_the_published_prompt_can_be_scored(chat, pocket, tmp_path, monkeypatch):
    asked = []

    def generate(model, tokenizer, prompts, **settings):
        asked.extend(tokenizer.decode(prompt) for prompt in prompts)
        for index, solution in enumerate(solutions):  # the first answer closes its fence, the second breaks off
            yield Rollout(index, prompts[index], [1], [0.0], index == 0, solution + "\n```\nDone." * (index == 0))

    data, samples = str(ROOT / "data" / "pocket_test.jsonl"), str(tmp_path / "samples.jsonl")
    tasks = read_tasks(data)[:2]
    solutions = [task["prompt"] + task["canonical_solution"].rstrip() for task in tasks]
    monkeypatch.setattr(published_prompt, "generate", generate)
    args = published_prompt.Args(model_path=chat, data_path=data, limit=2, output=samples)
    published_prompt.main(args)
    for task, text in zip(tasks, asked, strict=True):
        assert text.startswith("<system>You are an intelligent programming assistant")
        assert f"```python\n{task['prompt'].strip()}\n```" in text and text.endswith("<go>```python\n")
    eval_humaneval.main(eval_humaneval.Args(data_path=data, samples=samples, limit=2, exp_name="x",
                                            results_dir=str(tmp_path)))  # fmt: skip
    metrics = json.loads((tmp_path / "x_metrics.json").read_text())
    assert (metrics["num_pass"], metrics["cut_off"]) == (2, 0.5)
    with pytest.raises(InputError, match="has no chat template"):
        published_prompt.main(replace(args, model_path=pocket))


def test_completions_of_another_engine_are_compared_token_by_token(pocket, tmp_path, capsys):
    tokenizer, model = load_tokenizer(pocket), load_policy(pocket, CPU, load_in_4bit=False).eval()
    tasks = read_tasks("data/pocket_test.jsonl")[:3]
    prompts = encode_prompts(tokenizer, tasks, 256)
    ours = sample(model, tokenizer, prompts, max_new_tokens=12, temperature=0, unpack=False)
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0, -1] for ids in (prompts[1] + ours[1].token_ids[:5], prompts[2])]
    second = logits[0].argsort(descending=True)[1].item()
    texts = [ours[0].text, tokenizer.decode([*ours[1].token_ids[:5], second]) + "\x00", ""]
    rows = [{"task_id": task["task_id"], "completion": text} for task, text in zip(tasks, texts, strict=True)]
    same, other, few = (str(tmp_path / name) for name in ("same.jsonl", "other.jsonl", "few.jsonl"))
    write_jsonl(same, [row | {"completion": r.text} for row, r in zip(rows, ours, strict=True)])
    write_jsonl(other, rows)
    write_jsonl(few, rows[:2])
    args = compare_engines.Args(model_path=pocket, data_path="data/pocket_test.jsonl", max_length=384,
                                max_new_tokens=12, completions=(same, other))  # fmt: skip
    compare_engines.main(args)
    equal, *said = capsys.readouterr().out.splitlines()[-4:]
    assert equal == f"{same}: 0 of 3 completions differ (36 tokens)"
    others = second, tokenizer.eos_token_id
    gaps = [f"{(row.max() - row[token]).item():.2g}" for row, token in zip(logits, others, strict=True)]
    assert said[0] == f"{tasks[1]['task_id']}: part after 5 of 12 tokens, the two are {gaps[0]} nats apart"
    assert said[1] == f"{tasks[2]['task_id']}: part after 0 of 12 tokens, the two are {gaps[1]} nats apart"
    assert said[2].startswith(f"{other}: 2 of 3 completions differ (36 tokens); the largest gap there ")
    with pytest.raises(InputError, match="has other tasks than the first file"):
        compare_engines.main(replace(args, completions=(same, few)))
    with pytest.raises(InputError, match="has completions of tasks that"):
        compare_engines.main(replace(args, data_path="data/pocket_train.jsonl"))


def test_the_fleet_is_measured_with_one_and_with_all_servers():
    found = bench_fleet.ways(bench_fleet.Args(servers=("http://a", "http://b"), threads=(1, 2)))
    one, two = ["--engine", "server", "--server", "http://a"], ["--engine", "server", "--server", "http://a,http://b"]
    assert found == {
        "local, 1 thread": (1, []), "local, 2 threads": (2, []),
        "1 server": (1, one), "1 server, --async_steps 1": (1, [*one, "--async_steps", "1"]),
        "2 servers": (1, two), "2 servers, --async_steps 1": (1, [*two, "--async_steps", "1"]),
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_from_a_server_is_measured(pocket, start):
    server = StandIn(pocket)
    args = bench_fleet.Args(sft_model=start, steps=3, batch_size=1, num_samples=2, max_length=384, max_new_tokens=6)
    try:
        found = bench_fleet.run(args, 1, ["--engine", "server", "--server", server.url])
    finally:
        server.kill()
    assert server.requests and found["samples_per_second"] > 0
    assert found["tokens_per_second"] <= 6 * found["samples_per_second"] and 0 < found["training"] < found["step"]
    with pytest.raises(InputError, match="train_grpo_lora.py failed: .*error: none.jsonl"):
        bench_fleet.run(replace(args, train_path="none.jsonl"), 1, [])


def test_wrong_samplers_are_compared_with_the_right_one_by_seed():
    areas = {("right", False): (0.30, 0.50, 0.40), ("lag 4", True): (0.31, 0.52, 0.43)}  # +0.01, +0.02, +0.03
    runs = [
        {"method": "grpo", "sampler": sampler, "weighted": weighted, "seed": seed, "area": area, "end": area,
         "kl_reference": 0.1} | ({"importance_mean": 1.0} if weighted else {})
        for (sampler, weighted), row in areas.items() for seed, area in enumerate(row)
    ]  # fmt: skip
    means, _, differences = bench_importance.tables(runs).partition("\n\n")
    assert means.splitlines()[2].startswith(
        "| grpo | right | off | 0.4 (0.3 to 0.5) | 0.4 (0.3 to 0.5) | 0.1 (0.1 to 0.1) |"
    )
    change = "+0.0200 (-0.0048 to +0.0448)"  # as in judging.intervals.paired_t
    assert differences.splitlines()[2:] == [
        f"| grpo | lag 4 | on | {change} | {change} | +0.0000 (+0.0000 to +0.0000) |"
    ]
