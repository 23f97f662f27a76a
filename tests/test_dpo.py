"""Preference pairs and the DPO loss: known answers, hand-made samples, and the two commands as a user calls them."""

import contextlib
import json
import math
import random
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sampled import sample
from test_resume import broken_log

import generate_dpo_data
import train_dpo_lora
from common import InputError, command
from generate_dpo_data import pairs_of_task
from judging import by_language as judging
from judging.pool import Verdict
from judging.tasks import read_tasks
from model import parity, reference
from model.load import load_config, load_policy, load_tokenizer
from model.sampling import Rollout
from train_dpo_lora import Args, check, dpo_loss, encode_pairs, read_pairs
from train_sft_lora import encode
from training import run as training
from training.record import training_of
from training.samples import Sample, item_order

TEXTS = [
    ("def one() -> int:\n", "    return 1\n", "    return 2\n\n\nprint(one())\nprint(one())\n"),
    ("def double(x: int) -> int:\n", "    return 2 * x\n", "    return x\n"),
    ("def last(xs: list[int]) -> int:\n", "    return xs[-1]\n", "    result = xs[1]\n    return result\n"),
]


@pytest.fixture
def pairs_path(tmp_path) -> str:
    lines = [dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)) for texts in TEXTS]
    return write(tmp_path / "pairs.jsonl", *lines)


def write(path, *records) -> str:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return str(path)


def arguments(start, pairs_path, tmp_path, out="dpo", **settings) -> Args:
    base = dict(train_path=pairs_path, sft_model=start, output_dir=str(tmp_path / out), learning_rate=1e-3,
                batch_size=3)  # fmt: skip
    return Args(**base | settings)


def log_of(args: Args) -> list[dict]:
    log = [json.loads(line) for line in open(f"{args.output_dir}/dpo_train_log.jsonl")]
    for record in log:
        record.pop("train_tokens_per_second")
    return log


# the loss


def test_the_loss_by_hand():
    assert dpo_loss(torch.tensor([0.0])).item() == pytest.approx(math.log(2))
    margin = 0.1 * ((-5 - -7) - (-6 - -4))  # beta 0.1; the chosen gained 2 nats, the rejected lost 2
    assert dpo_loss(torch.tensor([margin])).item() == pytest.approx(0.5130153)  # log(1 + exp(-0.4))
    assert dpo_loss(torch.tensor([margin]), 0.1).item() == pytest.approx(0.9 * 0.5130153 + 0.1 * 0.9130153)
    assert dpo_loss(torch.tensor([-200.0, 200.0])).tolist() == [200, 0]  # no overflow


BETA, SMOOTHING, RATE = 0.3, 0.1, 0.5


@pytest.fixture(scope="module")
def expected(start):
    """Two steps of plain gradient descent on all of TEXTS: one sequence at a time, float64, no helper of the project's.

    Gives the losses, the last margins, and the weights; in the second step the margins are not 0.
    """
    tokenizer = load_tokenizer(start)
    policy = load_policy(start, torch.device("cpu"), trainable=True).eval()
    reference = load_policy(start, torch.device("cpu")).eval()

    def logprob(model, prompt, completion):
        prompt = tokenizer(prompt).input_ids
        completion = tokenizer(completion, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        logits = model(torch.tensor([prompt + completion])).logits[0].double()
        return sum(logits[len(prompt) + t - 1].log_softmax(0)[token] for t, token in enumerate(completion))

    losses = []
    for _ in range(2):
        loss, margins = 0, []
        for prompt, chosen, rejected in TEXTS:
            with torch.no_grad():
                ratio = logprob(reference, prompt, chosen) - logprob(reference, prompt, rejected)
            margin = BETA * (logprob(policy, prompt, chosen) - logprob(policy, prompt, rejected) - ratio)
            right, wrong = 1 / (1 + torch.exp(-margin)), 1 / (1 + torch.exp(margin))
            loss = loss - ((1 - SMOOTHING) * right.log() + SMOOTHING * wrong.log()) / 3
            margins.append(margin.item())
        loss.backward()
        losses.append(loss.item())
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.data -= RATE * parameter.grad
                parameter.grad = None
    weights = {n.replace(".default", ""): p.detach() for n, p in policy.named_parameters() if p.requires_grad}
    return losses, margins, weights


@pytest.mark.parametrize("micro_batch_tokens", [1, 400, 4096])
def test_loss_and_gradient_are_the_hand_computed_ones(
    start, pairs_path, tmp_path, monkeypatch, expected, micro_batch_tokens
):
    monkeypatch.setattr(torch.optim, "AdamW", lambda p, lr, weight_decay: torch.optim.SGD(p, lr=lr))
    args = arguments(start, pairs_path, tmp_path, beta=BETA, label_smoothing=SMOOTHING, learning_rate=RATE,
                     num_steps=2, max_grad_norm=0.0, micro_batch_tokens=micro_batch_tokens)  # fmt: skip
    train_dpo_lora.main(args)
    losses, margins, weights = expected
    log = log_of(args)
    assert [record["loss"] for record in log] == pytest.approx(losses, rel=1e-4)
    assert log[0]["loss"] == pytest.approx(math.log(2)) and abs(losses[1] - math.log(2)) > 0.01
    assert log[1]["margin"] == pytest.approx(sum(margins) / 3, rel=1e-3)
    assert log[1]["accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 3)
    before, after = (load_file(f"{folder}/adapter_model.safetensors") for folder in (start, args.output_dir))
    assert weights.keys() == after.keys()
    largest = max((weights[name] - before[name]).abs().max() for name in weights)
    for name, weight in weights.items():
        assert torch.allclose(after[name], weight, rtol=1e-3, atol=float(largest) * 1e-3), name


def test_the_rewards_and_log_probs_of_the_log(start, pairs_path, tmp_path):
    args = arguments(start, pairs_path, tmp_path, batch_size=2, num_train_epochs=3, beta=0.2)
    train_dpo_lora.main(args)
    log = log_of(args)
    assert [record["epoch"] for record in log] == pytest.approx([2 / 3, 4 / 3, 2, 8 / 3, 3])  # the last has one pair
    assert log[0]["margin"] == log[0]["accuracy"] == 0
    for record in log:
        assert record["margin"] == pytest.approx(record["chosen_reward"] - record["rejected_reward"], abs=1e-6)
        assert record["chosen_logprob"] < 0 and "sampled_tokens" not in record
    assert log[-1]["accuracy"] == 1 and log[-1]["loss"] < math.log(2)


def test_a_reference_that_is_the_base_is_caught(start, pairs_path, tmp_path, monkeypatch):
    real = reference.load_reference

    def base(model, adapter):
        real(model, adapter)
        for name, weight in model.named_parameters():
            if "lora_B.reference" in name:
                weight.data.zero_()

    monkeypatch.setattr("training.learner.load_reference", base)
    with pytest.raises(InputError, match="the reference is not the adapter that the run started from"):
        train_dpo_lora.main(arguments(start, pairs_path, tmp_path))


def test_a_first_loss_other_than_ln_2_is_caught(start, pairs_path, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "as_reference", lambda model: model.disable_adapter())
    monkeypatch.setattr(parity, "check_reference", lambda *args, **kwargs: 0.0)
    with pytest.raises(InputError, match="not ln 2: policy and reference differ"):
        train_dpo_lora.main(arguments(start, pairs_path, tmp_path, beta=20.0))  # the start is near the base


def test_an_interrupted_run_ends_as_an_uninterrupted_one(start, pairs_path, tmp_path, monkeypatch, capsys):
    settings = dict(batch_size=1, num_train_epochs=2, save_every=2, lr_scheduler_type="linear")
    whole = arguments(start, pairs_path, tmp_path, "whole", **settings)
    train_dpo_lora.main(whole)
    broken = arguments(start, pairs_path, tmp_path, "broken", **settings)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(training, "RunLog", broken_log(after=3))
        train_dpo_lora.main(broken)
    train_dpo_lora.main(broken)
    out = capsys.readouterr().out
    assert "resuming after step 2" in out and out.count(f"KL({start}, reference)") == 3
    assert out.count("KL(the policy, reference)") == 2  # the resumed one has moved
    assert log_of(broken) == log_of(whole) and len(log_of(whole)) == 6
    first, second = (load_file(f"{args.output_dir}/adapter_model.safetensors") for args in (whole, broken))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_last_bad_batch_is_kept(start, pairs_path, tmp_path, monkeypatch):
    bad = iter([1.0] + [math.nan] * 9)
    monkeypatch.setattr(train_dpo_lora, "dpo_loss", lambda margin, _: dpo_loss(margin) * next(bad))
    with pytest.raises(InputError, match="not finite in 5 updates in a row"):
        train_dpo_lora.main(arguments(start, pairs_path, tmp_path, num_steps=9, batch_size=1))
    kept = json.loads((tmp_path / "dpo.partial" / "nonfinite_batch.jsonl").read_text())
    assert kept["where"].startswith(pairs_path) and kept["chosen"] in [chosen for _, chosen, _ in TEXTS]


def test_a_dry_run_keeps_nothing(start, pairs_path, tmp_path, capsys):
    train_dpo_lora.main(arguments(start, pairs_path, tmp_path, num_train_epochs=9, dry_run=True))
    out = capsys.readouterr().out
    assert "dpo: 3 pairs, up to 9 steps" in out and "dry run: peak memory" in out and "saved" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


# pairs files


def test_text_is_tokenised_as_sft_does_it(pocket, tmp_path):
    tokenizer, task = load_tokenizer(pocket), read_tasks("data/pocket_train.jsonl")[0]
    record = {"prompt": task["prompt"], "chosen": task["canonical_solution"], "rejected": ""}
    (pair,) = read_pairs(write(tmp_path / "p.jsonl", record))
    encode_pairs([pair], tokenizer, load_config(pocket))
    assert pair.prompt_ids + pair.chosen_ids == encode(tokenizer, task, 384)["input_ids"]
    assert pair.rejected_ids == [tokenizer.eos_token_id] and pair.task_id.endswith("p.jsonl:1")


GOOD = {"prompt": "def f():\n", "chosen": "    return 1\n", "rejected": "    return 2\n"}
WITH_IDS = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{broken\n", r":2: not JSON \(Expecting"),
        ([GOOD], ":2: wants a JSON object, not list"),
        ({"prompt": "a", "chosen": "b"}, ":2: a pair needs prompt_ids"),
        (GOOD | {"chosen": 3}, ":2: chosen is not text"),
        (GOOD | {"rejected": GOOD["chosen"]}, ":2: chosen and rejected are the same"),
        (WITH_IDS | {"rejected_ids": [2]}, ":2: chosen and rejected are the same"),
        (GOOD | {"chosen_ids": [2]}, ":2: prompt_ids must be a list of token ids"),
        (WITH_IDS | {"prompt_ids": []}, ":2: prompt_ids must be a list"),
        (WITH_IDS | {"chosen_ids": []}, ":2: chosen_ids must be a list"),
        (WITH_IDS | {"rejected_ids": [True]}, ":2: rejected_ids must be a list"),
        (GOOD | WITH_IDS, ":2: its ids are of another tokenizer"),
        (WITH_IDS | {"chosen_ids": [5000]}, ":2: token id 5000, and the model has 1024 embeddings"),
        (GOOD | {"chosen": "    x = 1\n" * 500}, ":2: .* tokens, and the model has 1024"),
    ],
)
def test_a_line_that_is_no_pair_is_named(start, tmp_path, line, says):
    path = write(tmp_path / "p.jsonl", GOOD, line)
    with pytest.raises(InputError, match="p.jsonl" + says):
        train_dpo_lora.main(arguments(start, path, tmp_path))
    assert not (tmp_path / "dpo.partial").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"beta": 0.0}, "--beta 0.0: must be positive"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"label_smoothing": 0.5}, r"must be in \[0, 0.5\)"),
        ({"num_steps": 0}, "--num_steps 0: must be at least 1"),
        ({"num_train_epochs": 0.0}, "--num_train_epochs must be positive"),
        ({"micro_batch_tokens": 0}, "must be at least 1"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, says):
    with pytest.raises(InputError, match=says):
        check(Args(**settings))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train_dpo_lora.py --train_path none.jsonl", "none.jsonl: no such file of pairs; generate_dpo_data.py makes"),
        ("train_dpo_lora.py --train_path README.md", "README.md:1: not JSON"),
        ("train_dpo_lora.py --betta 0.1", "did you mean --beta?"),
        ("generate_dpo_data.py --num_samples 1", "--num_samples 1: a pair needs 2 or more"),
        ("generate_dpo_data.py --rejected shortest", "rejected"),
        ("generate_dpo_data.py --temperature 0", "must be positive"),
        ("generate_dpo_data.py --output_path pairs.json", "must end in .jsonl"),
        ("generate_dpo_data.py --train_path a.jsonl --output_path ./a.jsonl", "is the task file itself"),
        ("generate_dpo_data.py --train_path none.jsonl", "none.jsonl: no such task file"),
    ],
)
def test_bad_input_is_one_line(run_cli, command, says):
    code, out, err = run_cli(*command.split())
    assert code == 2 and says in err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in out + err


def test_a_base_model_is_no_place_to_start_from(pocket, pairs_path, tmp_path):
    with pytest.raises(InputError, match="is no adapter"):
        train_dpo_lora.main(arguments(pocket, pairs_path, tmp_path))


# which samples make a pair


def made(*specs: tuple) -> list[Sample]:
    """Samples from (status, token ids[, log-probability of each token])."""
    return [
        Sample({"task_id": "t", "prompt": "p"}, 0,
               Rollout(0, [1], list(ids), list(logprobs[0]) if logprobs else [-1.0] * len(ids), True, str(ids)),
               Verdict(status, ""))
        for status, ids, *logprobs in specs
    ]  # fmt: skip


def chosen_pairs(samples, rejected="longest", pairs_per_task=1, prefer_short=False, seed=0):
    pairs = pairs_of_task(samples, rejected, pairs_per_task, prefer_short, random.Random(seed))
    return [(c.rollout.token_ids, r.rollout.token_ids, kind) for c, r, kind in pairs]


MIXED = made(
    ("fail", [9, 9], [-0.1, -0.1]),
    ("pass", [1, 2, 3]),
    ("syntax", [8, 8, 8, 8], [-1, -1, -1, -1]),
    ("pass", [4, 5]),
    ("pass", [6, 7]),  # as short as the one before: that came first
    ("timeout", [7, 7, 7, 7], [-0.5, -0.5, -0.5, -0.5]),  # as long as the one before
    ("infrastructure", [5] * 9),  # says nothing
    ("refused", [5]),
    ("pass", [4, 5]),  # a copy
    ("syntax", [8, 8, 8, 8], [-1, -1, -1, -1]),  # a copy
)


def test_the_shortest_passing_one_is_set_against_the_longest_failing_one():
    assert chosen_pairs(MIXED) == [([4, 5], [8, 8, 8, 8], "failing")]
    assert chosen_pairs(MIXED, pairs_per_task=9) == [
        ([4, 5], [8, 8, 8, 8], "failing"),
        ([6, 7], [7, 7, 7, 7], "failing"),
        ([1, 2, 3], [9, 9], "failing"),
    ]


def test_the_likeliest_failing_one_has_the_highest_log_probability():
    assert chosen_pairs(MIXED, "likeliest", 2) == [([4, 5], [9, 9], "failing"), ([6, 7], [7, 7, 7, 7], "failing")]


def test_a_random_failing_one_depends_on_the_seed_alone():
    drawn = [chosen_pairs(MIXED, "random", seed=seed) for seed in range(30)]
    assert drawn == [chosen_pairs(MIXED, "random", seed=seed) for seed in range(30)]
    assert {tuple(pairs[0][1]) for pairs in drawn} == {(9, 9), (8, 8, 8, 8), (7, 7, 7, 7)}


def test_failing_ones_serve_again_when_there_are_too_few():
    samples = made(("pass", [1]), ("pass", [1, 2]), ("fail", [3]), ("pass", [1, 2, 3]), ("fail", [4, 4]))
    assert [pair[1] for pair in chosen_pairs(samples, pairs_per_task=3)] == [[4, 4], [3], [4, 4]]


def test_short_over_long_where_all_pass_and_only_if_asked():
    samples = made(("pass", [1, 2]), ("pass", [3]), ("pass", [4, 5, 6]), ("pass", [7, 8]), ("refused", [9] * 9))
    assert chosen_pairs(samples) == []
    assert chosen_pairs(samples, prefer_short=True, pairs_per_task=5) == [([3], [4, 5, 6], "longer")]
    assert chosen_pairs(made(("pass", [1]), ("pass", [2])), prefer_short=True) == []  # no shorter one
    assert chosen_pairs(MIXED, prefer_short=True) == chosen_pairs(MIXED)  # a failing one comes first


@pytest.mark.parametrize("specs", [[("fail", [1]), ("syntax", [2, 2])], [("pass", [1]), ("refused", [2])], []])
def test_no_pair_without_both(specs):
    assert chosen_pairs(made(*specs), pairs_per_task=4) == []


verdict_and_ids = st.tuples(
    st.sampled_from(["pass", "fail", "syntax", "timeout", "infrastructure", "refused"]),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
)


@given(
    st.lists(verdict_and_ids, max_size=12),
    st.sampled_from(["longest", "likeliest", "random"]),
    st.integers(1, 4),
    st.booleans(),
)
def test_what_every_selection_keeps(specs, rejected, pairs_per_task, prefer_short):
    by_ids = {}
    samples = made(*((by_ids.setdefault(tuple(ids), status), ids) for status, ids in specs))  # copies agree
    lengths = sorted(len(ids) for ids, status in by_ids.items() if status == "pass")
    num_failing = sum(status not in ("pass", "infrastructure", "refused") for status in by_ids.values())
    pairs = chosen_pairs(samples, rejected, pairs_per_task, prefer_short)
    assert len(pairs) <= pairs_per_task
    assert [len(chosen) for chosen, *_ in pairs] == lengths[: len(pairs)]
    assert len({tuple(chosen) for chosen, *_ in pairs}) == len(pairs)
    for chosen, against, kind in pairs:
        assert by_ids[tuple(chosen)] == "pass"
        assert by_ids[tuple(against)] not in ("infrastructure", "refused")
        assert (by_ids[tuple(against)] == "pass") is (kind == "longer")
        assert kind == "failing" or (prefer_short and num_failing == 0 and len(against) > len(chosen))
    if num_failing:
        assert len(pairs) == min(pairs_per_task, len(lengths))
        assert len({tuple(against) for _, against, _ in pairs}) == min(len(pairs), num_failing)


# the generator


@pytest.fixture
def few_tasks(tmp_path) -> str:
    return write(tmp_path / "tasks.jsonl", *read_tasks("data/pocket_train.jsonl")[:6])


class FakeSandbox:
    layers: dict = {}
    asked: list

    def __init__(self, judge):
        self.judge, self.asked = judge, []

    def submit(self, task, text):
        self.asked.append((task["task_id"], text))
        verdict = Future()
        verdict.set_result(Verdict(self.judge(text), ""))
        return verdict


def generate(start, few_tasks, tmp_path, monkeypatch, judge, **settings) -> SimpleNamespace:
    """Run the generator with verdicts of our own: its lines, its stats, what was sampled, what was judged."""
    sandbox, sampled = FakeSandbox(judge), []

    def spy(*args, **kwargs):
        sampled.append(sample(*args, **kwargs))
        return iter(sampled[-1])

    monkeypatch.setattr(judging, "open_sandbox", lambda args, tasks: contextlib.nullcontext(sandbox))
    monkeypatch.setattr("model.engine.generate", spy)
    path = tmp_path / "out" / "pairs.jsonl"
    args = dict(train_path=few_tasks, sft_model=start, output_path=str(path), max_length=384, max_new_tokens=12,
                num_samples=4, batch_size=8)  # fmt: skip
    generate_dpo_data.main(generate_dpo_data.Args(**args | settings))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    stats = json.loads((tmp_path / "out" / "pairs_stats.json").read_text())
    assert sorted(p.name for p in path.parent.iterdir()) == ["pairs.jsonl", "pairs_stats.json"]
    return SimpleNamespace(lines=lines, stats=stats, rollouts=[r for batch in sampled for r in batch],
                           batches=len(sampled), asked=sandbox.asked, path=str(path))  # fmt: skip


def by_length(text: str) -> str:
    return "pass" if len(text) % 2 else "fail"


def test_the_ids_of_the_file_are_those_sampled_and_those_trained_on(start, few_tasks, tmp_path, monkeypatch):
    made = generate(start, few_tasks, tmp_path, monkeypatch, by_length, pairs_per_task=2)
    tasks = {task["task_id"]: task for task in read_tasks(few_tasks)}
    sampled = {(tuple(r.prompt_ids), tuple(r.token_ids)): r for r in made.rollouts}
    assert len(made.rollouts) == 24 and made.batches == 3 and made.lines
    for line in made.lines:
        for side in ("chosen", "rejected"):
            r = sampled[tuple(line["prompt_ids"]), tuple(line[f"{side}_ids"])]
            assert line[side] == r.text and line[f"{side}_length"] == len(r.token_ids)
            assert line[f"{side}_logprob"] == pytest.approx(sum(r.logprobs))
        assert by_length(line["chosen"]) == "pass" and by_length(line["rejected"]) == "fail"
        assert line["prompt"] == tasks[line["task_id"]]["prompt"] and line["rejected_status"] == "fail"
    assert made.stats["samples"] == 24 and made.stats["pairs"] == len(made.lines) and made.stats["tasks"] == 6
    assert made.stats["sampled_tokens"] == sum(len(r.token_ids) for r in made.rollouts)
    assert made.stats["pass_rate"] == pytest.approx(sum(by_length(r.text) == "pass" for r in made.rollouts) / 24)
    assert len(made.asked) == len(set(made.asked))  # a text is judged once

    # the trainer takes these very ids, and the log-probabilities are those of the sampler
    pairs = read_pairs(made.path)
    encode_pairs(pairs, load_tokenizer(start), load_config(start))
    assert [[p.prompt_ids, p.chosen_ids, p.rejected_ids] for p in pairs] == [
        [line["prompt_ids"], line["chosen_ids"], line["rejected_ids"]] for line in made.lines
    ]
    args = arguments(start, made.path, tmp_path, num_steps=1, batch_size=len(pairs))
    train_dpo_lora.main(args)
    tokens = sum(line["rejected_length"] for line in made.lines)
    per_token = sum(line["rejected_logprob"] for line in made.lines) / tokens
    assert log_of(args)[0]["rejected_logprob"] == pytest.approx(per_token, abs=1e-3)
    evaluated = training_of(args.output_dir)  # what a metrics file gets
    assert evaluated["pairs_command"] == made.stats["command"] == command()
    assert list(evaluated["task_files"]) == [few_tasks]


def test_a_budget_takes_the_first_tasks_of_the_shuffled_order(start, few_tasks, tmp_path, monkeypatch):
    made = generate(start, few_tasks, tmp_path, monkeypatch, by_length, token_budget=97, limit=5, seed=7)
    assert made.stats["tasks"] == 4 and made.stats["sampled_tokens"] >= 97  # two batches of two tasks
    order = item_order(5, 7)
    first = [f"pocket/train/{next(order)}" for _ in range(4)]
    assert {task_id for task_id, _ in made.asked} == set(first)
    assert [line["task_id"] for line in made.lines] == [i for i in first if i in {ln["task_id"] for ln in made.lines}]


def test_unjudged_samples_are_no_failures(start, few_tasks, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no pair: of 6 tasks 0 had no passing completion and 6 no failing one"):
        generate(start, few_tasks, tmp_path, monkeypatch, lambda text: "pass" if len(text) % 9 else "infrastructure")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_two_commands_as_a_user_calls_them(start, few_tasks, tmp_path, run_cli):
    pairs = tmp_path / "pairs.jsonl"
    flags = f"--train_path {few_tasks} --sft_model {start} --max_length 384 --max_new_tokens 64 --num_samples 8"
    code, out, err = run_cli("generate_dpo_data.py", *flags.split(), "--output_path", str(pairs), "--prefer_short")
    assert code == 0, err
    assert f"saved {pairs}" in out and "sandbox: rlimits" in out
    out_dir = str(tmp_path / "dpo")
    command = ["train_dpo_lora.py", "--train_path", str(pairs), "--sft_model", start, "--output_dir", out_dir]
    code, out, err = run_cli(*command, "--num_steps", "2")
    assert code == 0, err
    assert "parity: the first loss is ln 2" in out and f"saved {out_dir}" in out
    assert [record["step"] for record in log_of(Args(output_dir=out_dir))] == [1, 2]


@pytest.mark.parametrize("script", ["generate_dpo_data.py", "train_dpo_lora.py"])
def test_help_lists_every_option_with_its_comment(run_cold, script):
    code, out, err = run_cold(script, "--help")
    assert code == 0 and err == ""
    assert "YAML file with any of these" in " ".join(out.replace("│", " ").split())
