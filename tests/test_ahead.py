"""--async_steps 1: the next batch is sampled while this one is trained on, by the policy before the update."""

import json
import math
import os
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("openai")

from fleet_stand_in import StandIn
from plain import Plain
from test_resume import broken_log

import train_grpo_lora
import train_ppo_lora
import train_rft_lora
import train_rl_lora
from common import InputError, Preempted
from common.arguments import parse_args
from judging.pool import Verdict
from model import sampling_server
from model.sampling import Rollout
from model.sampling_server import ServerSampler
from training import run as training
from training.learner import Learner

SCRIPTS = {"rl": train_rl_lora, "ppo": train_ppo_lora, "grpo": train_grpo_lora}
METHODS = {
    "rl": dict(baseline="mean"),
    "ppo": dict(ppo_epochs=2, minibatch_size=3, ratio_level="token"),
    "grpo": dict(num_iterations=2, minibatch_size=5),
}
BATCH, PROBES = 4, 2  # requests of a batch, and of the comparison before the first, for two tasks
WEIGHTS = "adapter_model.safetensors"
TIMES = ("seconds", "_per_second")


class Server(StandIn):
    """Knows which adapter each request was for."""

    def __init__(self, *how) -> None:
        self.weights, self.drawn = {}, []
        super().__init__(*how)

    def load(self, lora_name, lora_path):
        self.weights[lora_name] = load_file(f"{lora_path}/{WEIGHTS}")
        return super().load(lora_name, lora_path)

    def choice(self, request):
        self.drawn.append((request, super().choice(request)))
        return self.drawn[-1][1]

    def batch(self, step: int) -> list[dict]:
        """The requests of a step, if nothing else was asked for before."""
        return self.requests[PROBES + BATCH * (step - 1) : PROBES + BATCH * step]

    def sampled_by(self, requests: list[dict], folder) -> bool:
        """Whether all these requests were for the adapter in a folder."""
        wanted = load_file(f"{folder}/{WEIGHTS}")
        used = [self.weights[request["model"]] for request in requests]
        return bool(used) and all(torch.equal(one[name], wanted[name]) for one in used for name in wanted)


@pytest.fixture
def serve(pocket, monkeypatch):
    monkeypatch.setattr(sampling_server, "LONGEST_PAUSE", 0.05)
    servers = []

    def start() -> Server:
        servers.append(Server(pocket))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(autouse=True)
def some_pass_and_no_pictures(monkeypatch):
    """Verdicts by the tokens, so that there is something to learn from in a few of them; and no time for plots."""
    monkeypatch.setattr(training, "conclude", lambda *_: None)

    def verdicts(samples):
        return [Verdict("pass" if sum(s.rollout.token_ids) % 2 else "fail", "") for s in samples]

    monkeypatch.setattr("training.sampler.verdicts", verdicts)


@pytest.fixture
def train(tasks_path, start, tmp_path):
    def run(method: str, name: str, server: Server, steps: int = 4, **settings) -> list[dict]:
        base = dict(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / name), max_length=300,
                    max_new_tokens=12, batch_size=2, num_samples=2, learning_rate=0.01, keep_every=1, engine="server",
                    server=server.url, server_timeout=500.0, server_wait=600.0, async_steps=1)  # fmt: skip
        base["num_updates" if method == "ppo" else "num_steps"] = steps
        script = SCRIPTS[method]
        script.main(script.Args(**base | METHODS[method] | settings))
        return records(tmp_path / name, method)

    yield run
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]  # none is left


def records(folder, method: str) -> list[dict]:
    """The log without speeds, which two runs need not share."""
    found = [json.loads(line) for line in open(folder / f"{method}_train_log.jsonl")]
    return [{name: value for name, value in one.items() if not name.endswith(TIMES)} for one in found]


def rows(folder, step: int) -> list[dict]:
    return [row for line in open(folder / "completions.jsonl") if (row := json.loads(line))["step"] == step]


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_sampled_by_the_policy_before_the_last_update(serve, train, start, tmp_path, method):
    server = serve()
    log = train(method, "ahead", server, steps=3)
    adapters = [start, *(tmp_path / "ahead" / f"step_{step}" for step in (1, 2))]
    for step, age in ((1, 0), (2, 0), (3, 1)):
        assert [server.sampled_by(server.batch(step), one) for one in adapters] == [i == age for i in range(3)]
    assert len(server.requests) == PROBES + 3 * BATCH and not server.adapters
    assert log[0]["sampler_mismatch"] < 1e-3 and log[1]["sampler_mismatch"] > 0.01
    assert log[0]["importance_mean"] == pytest.approx(1, abs=1e-4) and log[1]["importance_mean"] != 1


def test_only_the_age_of_the_adapter_is_another(serve, train, tmp_path):
    ahead, in_turn = serve(), serve()
    logs = train("rl", "ahead", ahead, steps=3), train("rl", "in_turn", in_turn, steps=3, async_steps=0)
    for step in (1, 2, 3):  # the same tasks and seeds, in whatever order the requests came
        assert asked(ahead.batch(step)) == asked(in_turn.batch(step))
    assert in_turn.sampled_by(in_turn.batch(2), tmp_path / "in_turn" / "step_1")
    for name in ("step", "epoch", "retried"):
        assert [record[name] for record in logs[0]] == [record[name] for record in logs[1]]
    tokens = [[[row["token_ids"] for row in rows(tmp_path / name, step)] for name in ("ahead", "in_turn")]
              for step in (1, 2)]  # fmt: skip
    assert tokens[0][0] == tokens[0][1] and tokens[1][0] != tokens[1][1]


def asked(requests: list[dict]) -> list[tuple]:
    return sorted((request["prompt"], request["seed"]) for request in requests)


def test_weights_loss_and_gradient_of_a_stale_step_by_hand(serve, train, tmp_path):
    """REINFORCE's second step in float64: the start has sampled, step_1 is trained."""
    server, cap = serve(), 1.02
    record = train("rl", "run", server, steps=2, baseline="none", importance_cap=cap)[1]
    policy, loss, ratios = Plain(str(tmp_path / "run" / "step_1")), 0.0, []
    rewards = {tuple(row["token_ids"]): row["reward"] for row in rows(tmp_path / "run", 2)}
    for request, choice in server.drawn[-BATCH:]:
        ids, told = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        logprobs, *_ = policy.tokens(Rollout(0, request["prompt"], ids, told, True, ""))
        each = [math.exp(ours.item() - theirs) for ours, theirs in zip(logprobs, told, strict=True)]
        weighted = sum(min(ratio, cap) * logprob for ratio, logprob in zip(each, logprobs, strict=True))
        loss = loss - rewards[tuple(ids)] * weighted / BATCH
        ratios += each
    assert record["importance_mean"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    truncated = sum(ratio > cap for ratio in ratios) / len(ratios)
    assert record["importance_truncated"] == pytest.approx(truncated) and 0 < truncated < 1
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-4)
    gradients = torch.autograd.grad(loss, policy.adapter.values())
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    assert record["grad_norm"] == pytest.approx(norm, rel=1e-3) and norm > 0


def test_requests_and_training_go_on_beside_each_other(serve, train, monkeypatch):
    """The second batch's requests are not answered until the first batch has a gradient."""
    server, trained, real = serve(), threading.Event(), Learner.clip_gradients
    server.hook = lambda request, number: number > PROBES + BATCH and not trained.wait(300) and (500, "too late")
    monkeypatch.setattr(Learner, "clip_gradients", lambda run: trained.set() or real(run))
    log = train("rl", "run", server, steps=2)
    assert [record["retried"] for record in log] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rl", "ppo", "grpo"])
def test_a_killed_run_ends_as_an_uninterrupted_one(serve, train, start, tmp_path, monkeypatch, method):
    """It dies in step 2. The state of step 1 has step_1, but the batch ahead is once more sampled by the start."""
    how = dict(steps=3, save_every=1)
    log = train(method, "whole", serve(), **how)
    server = serve()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(training, "RunLog", broken_log(after=1))
        train(method, "killed", server, **how)
    before = len(server.requests)
    assert train(method, "killed", server, **how) == log and len(log) == 3
    weights = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    again = server.requests[before + PROBES :]
    assert len(again) == 2 * BATCH and asked(again[:BATCH]) == asked(server.batch(2))
    assert server.sampled_by(again[:BATCH], start)
    assert server.sampled_by(again[BATCH:], tmp_path / "killed" / "step_1")


@pytest.mark.slow
def test_a_stop_waits_for_no_request(serve, train, tmp_path):
    log = train("rl", "whole", serve(), steps=3, keep_every=0)
    server, released, in_vain = serve(), threading.Event(), []

    def hook(request, number):
        if number == PROBES + BATCH + 1:  # in the background, in the first step
            os.kill(os.getpid(), signal.SIGTERM)
        if number > PROBES + BATCH:
            in_vain.append(not released.wait(300))

    server.hook = hook
    with pytest.raises(Preempted, match="stopped after step 1; the same command resumes from there"):
        train("rl", "stopped", server, steps=3, keep_every=0)
    assert not in_vain and (tmp_path / "stopped.partial" / "resume.pt").is_file()
    released.set()
    server.hook = None
    assert train("rl", "stopped", server, steps=3, keep_every=0) == log


def test_an_error_in_the_background_ends_the_run_with_its_line(serve, train, tmp_path):
    server = serve()
    server.hook = lambda request, number: (400, {"error": {"message": "no"}}) if number > PROBES + BATCH else None
    with pytest.raises(InputError, match=f"^--server {server.url}: .*error 400"):
        train("rl", "run", server, steps=2, save_every=1)
    assert [record["step"] for record in records(tmp_path / "run.partial", "rl")] == [1]
    assert (tmp_path / "run.partial" / "resume.pt").is_file()
    server.hook = None
    assert len(train("rl", "run", server, steps=2, save_every=1)) == 2


def test_an_error_of_the_training_ends_what_is_ahead(serve, train, monkeypatch):
    server, released, in_vain = serve(), threading.Event(), []
    server.hook = lambda request, number: number > PROBES + BATCH and in_vain.append(not released.wait(300))
    monkeypatch.setattr(Learner, "clip_gradients", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("rl", "run", server)
    assert not in_vain and not server.adapters
    released.set()


@pytest.mark.slow
def test_the_only_server_is_compared_before_it_is_asked_again(serve, train, tmp_path, monkeypatch, capsys):
    """It dies with the batch ahead, so what it says must wait until the policy is not being trained."""
    calm = train("grpo", "calm", serve(), steps=3)
    server, in_training, real = serve(), [], ServerSampler.compare

    def compare(sampler, server, rollouts, model):
        in_training.append(bool(rollouts) and sampler.training)
        real(sampler, server, rollouts, model)

    monkeypatch.setattr(ServerSampler, "compare", compare)

    def dies(request, number):
        if number == PROBES + BATCH + 2:
            server.kill()
            server.start()

    server.hook = dies
    capsys.readouterr()
    log = train("grpo", "killed", server, steps=3)
    assert [one["loss"] for one in log] == [one["loss"] for one in calm]
    assert sum(record["retried"] for record in log) > 0
    said = capsys.readouterr().out
    assert said.count("its log-probabilities are within") == 2 and "is back" in said and not any(in_training)
    assert server.sampled_by([r for r in server.requests[-BATCH:] if r["seed"]], tmp_path / "killed" / "step_1")


def test_validation_and_curve_wait_and_measure_the_policy_as_it_is(serve, train, tasks_path, start, tmp_path):
    server = serve()
    log = train("rl", "run", server, steps=2, valid_path=tasks_path, valid_every=1, curve_path=tasks_path,
                curve_every=1, curve_samples=1, curve_tasks=2)  # fmt: skip
    both = {"valid_pass_rate", "curve_pass_rate"}
    assert [record["step"] for record in log if both <= record.keys()] == [0, 1, 2]
    drawn, measured = [r for r in server.requests if r["seed"]], 6 + 2
    assert len(drawn) == 3 * measured + 2 * BATCH
    parts = [("valid", measured), ("batch", BATCH), ("batch", BATCH), ("valid", measured), ("valid", measured)]
    adapters = [start, start, start, tmp_path / "run" / "step_1", tmp_path / "run" / "step_2"]
    for (what, count), adapter in zip(parts, adapters, strict=True):
        part, drawn = drawn[:count], drawn[count:]
        assert [r["temperature"] for r in part].count(0) == (6 if what == "valid" else 0)
        assert server.sampled_by(part, adapter)


def test_nothing_is_sampled_beyond_a_budget(serve, train):
    server = serve()
    log = train("rl", "run", server, token_budget=60, stop_at_strings=False)  # a step of 4 times 12 tokens at most
    assert len(log) == 2 and log[-1]["sampled_tokens"] >= 60
    assert len(server.requests) == PROBES + 2 * BATCH


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("rl", {"engine": "local"}, "--async_steps 1: is for --engine server; --engine local samples and trains"),
        ("ppo", {"engine": "vllm"}, "--async_steps 1: is for --engine server"),
        ("ppo", {"importance": "off"}, "--async_steps 1: its samples are a step old .*leave --importance off out"),
        ("rl", {"turns": 2}, "--turns: needs the verdicts on a batch before the next"),
        ("rl", {"prompt_selection": "half"}, "--prompt_selection: needs the verdicts"),
        ("grpo", {"dynamic_sampling": True}, "--dynamic_sampling: needs the verdicts"),
        ("grpo", {"replay": 1}, "--replay: needs the verdicts"),
    ],
)
def test_bad_settings_are_refused(method, settings, says):
    base = dict(engine="server", server="http://a", async_steps=1)
    SCRIPTS[method].check(SCRIPTS[method].Args(**base))
    with pytest.raises(InputError, match=says):
        SCRIPTS[method].check(SCRIPTS[method].Args(**base | settings))


def test_two_steps_and_rft_are_refused():
    with pytest.raises(InputError, match="async_steps"):
        parse_args(train_rl_lora.Args, ["--async_steps", "2"])
    with pytest.raises(InputError, match="unknown option '--async_steps'"):
        parse_args(train_rft_lora.Args, ["--async_steps", "1"])
