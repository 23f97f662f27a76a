"""Importance weights: known answers, the three objectives once more in float64, and what they are unbiased for."""

import itertools
import json
import math
from statistics import median
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import train_grpo_lora
import train_ppo_lora
import train_rl_lora
from common import InputError, processes
from common.run_args import ImportanceArgs
from model import parity
from model.parity import judge
from model.sampling import Rollout
from training import learner, sampler
from training.importance import importance, importance_weights, is_on
from training.metrics import Metrics
from training.samples import Batch, Sample

LEARN = {"rl": train_rl_lora, "ppo": train_ppo_lora, "grpo": train_grpo_lora}


def settings(**changed) -> SimpleNamespace:
    base = dict(engine="local", importance="on", importance_cap=2.0, importance_mask=0.0)
    return SimpleNamespace(**base | changed)


def made_up(lengths: list[int], sampled: list[list[float]] | None = None, seed: int = 0) -> tuple[Batch, torch.Tensor]:
    """A batch of completions of these lengths, and log-probs (B, R) under the policy that sampled; float64."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.float64)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    old, gap = (torch.randn(mask.shape, generator=rng, dtype=torch.float64) * scale for scale in (0.7, 0.6))
    old = (old - 2) * mask
    sampled = sampled or [(old + gap)[row, :length].tolist() for row, length in enumerate(lengths)]
    samples = [Sample({}, row, Rollout(row, [1], [2] * n, told, True, ""))
               for row, (n, told) in enumerate(zip(lengths, sampled, strict=True))]  # fmt: skip
    reference = (old + 0.3 * torch.randn(mask.shape, generator=rng, dtype=torch.float64)) * mask
    return Batch(samples, list(range(len(lengths))), mask, reference, old), old


def by_hand(batch: Batch, row: int, cap: float, bound: float) -> tuple[list[float], float]:
    """The weight of each token of a completion, and that of the completion, with Python's floats."""
    told, old = batch.samples[row].rollout.logprobs, batch.old_logprobs[row].tolist()
    ratios = [math.exp(o - s) for o, s in zip(old, told, strict=False)]
    product = math.prod(ratios)
    kept = not bound or 1 / bound <= product <= bound
    return [kept * min(ratio, cap) for ratio in ratios], kept * min(product, cap)


def test_truncation_and_mask_by_hand():
    ratios = torch.tensor([[3.0, 0.5, 1.0], [1.5, 1.5, 2.0], [0.5, 0.5, 1.0]], dtype=torch.float64)
    weight, ratio, kept = importance_weights(ratios.log(), "token", cap=2.0, bound=0.0)
    assert weight.numpy() == pytest.approx(ratios.clamp(max=2).numpy()) and kept.all()  # small ones stay small
    assert ratio.numpy() == pytest.approx(ratios.numpy())
    weight, ratio, kept = importance_weights(ratios.log(), "token", cap=0.0, bound=3.0)  # products 1.5, 4.5, 0.25
    assert kept[:, 0].tolist() == [True, False, False]
    assert weight.numpy() == pytest.approx((ratios * torch.tensor([[1.0], [0.0], [0.0]])).numpy())
    weight, ratio, kept = importance_weights(ratios.log(), "sequence", cap=2.0, bound=4.1)
    assert ratio[:, 0].tolist() == pytest.approx([1.5, 4.5, 0.25])
    assert weight[:, 0].tolist() == pytest.approx([1.5, 0.0, 0.25]) and kept[:, 0].tolist() == [True, False, True]
    weight, _, _ = importance_weights(torch.tensor([[800.0, -800.0]]), "token", cap=0.0, bound=0.0)
    assert weight.isfinite().all()


def test_a_log_prob_that_is_no_number_is_not_hidden():
    """It must reach the loss, where the update is skipped, not become a weight of 0."""
    weight, _, kept = importance_weights(torch.tensor([[float("nan"), 0.0]]), "token", cap=2.0, bound=1.5)
    assert not kept.any() and weight[0, 0].isnan()


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("bound", [0.0, 2.0])
def test_the_shares_are_those_of_the_whole_batch_however_it_is_cut(level, bound):
    batch, old = made_up([4, 2, 5, 1, 3], seed=4)
    args = settings(importance_cap=1.3, importance_mask=bound)
    weight, whole = importance(args, batch, old, batch, level)
    ratios = [math.exp(o - s) for row, one in enumerate(batch.samples)
              for o, s in zip(old[row].tolist(), one.rollout.logprobs, strict=False)]  # fmt: skip
    products = [math.prod(ratios[at : at + n]) for at, n in ((0, 4), (4, 2), (6, 5), (11, 1), (12, 3))]
    counted = ratios if level == "token" else products
    masked = sum(bool(bound) and not 1 / bound <= p <= bound for p in products)
    assert whole == {
        "importance_mean": pytest.approx(sum(counted) / len(counted)),
        "importance_truncated": pytest.approx(sum(ratio > 1.3 for ratio in counted) / len(counted)),
        "importance_masked": pytest.approx(masked / 5),
    }
    assert whole["importance_truncated"] > 0 and (masked > 0) == bool(bound)
    metrics, parts = Metrics(), []
    for rows in ([1, 3], [0, 2, 4]):  # as micro-batches, or the shares of two processes
        part, shares = importance(args, batch[rows], batch[rows].old_logprobs, batch, level)
        metrics.add(**shares)
        parts.append((rows, part))
    assert metrics.total() == pytest.approx(whole)
    for rows, part in parts:
        assert torch.equal(part, weight[rows, : part.shape[1]])


def test_the_shares_of_processes_add_up(monkeypatch):
    batch, old = made_up([4, 2, 5, 1])
    whole = importance(settings(), batch, old, batch, "token")[1]
    shares = [
        importance(settings(), batch[rows], batch[rows].old_logprobs, batch, "token")[1] for rows in ([0, 1], [2, 3])
    ]
    mine, other = Metrics(), Metrics()
    mine.add(**shares[0])
    other.add(**shares[1])
    everyones = {"sums": [mine.sums, other.sums, {}], "maxima": [{}, {}, {}]}  # the third had no sample
    monkeypatch.setattr(processes, "gather", lambda one: everyones["sums" if one == [mine.sums] else "maxima"])
    assert mine.total() == pytest.approx(whole)


def gradient(loss: torch.Tensor, logprobs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """On tokens; on padding the log-probs are a constant 0 in training."""
    return torch.autograd.grad(loss, logprobs)[0] * batch.mask


@pytest.mark.parametrize("bound", [0.0, 2.5])
def test_reinforce_takes_the_weight_of_each_token(bound):
    batch, old = made_up([3, 5, 2])
    batch.advantage = torch.tensor([[1.0], [-0.5], [0.3]], dtype=torch.float64)
    logprobs = old.clone().requires_grad_()
    weight, _ = importance(settings(importance_mask=bound), batch, logprobs, batch, "token")
    assert not weight.requires_grad
    loss = -(batch.advantage[:, 0] * (weight * logprobs).sum(1)).sum() / 3  # the script's line
    found, expected = gradient(loss, logprobs, batch), torch.zeros_like(old)
    total = 0.0
    for row, sample in enumerate(batch.samples):
        tokens, _ = by_hand(batch, row, 2.0, bound)
        for t, w in enumerate(tokens[: sample.length]):
            expected[row, t] = -batch.advantage[row, 0].item() * w / 3
            total += expected[row, t].item() * old[row, t].item()
    assert loss.item() == pytest.approx(total) and torch.allclose(found, expected, atol=1e-14)
    assert (expected == 0)[batch.mask > 0].any() == bool(bound)


@pytest.mark.parametrize("bound", [0.0, 2.5])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_ppo_takes_the_weight_of_each_ratio(level, bound):
    batch, old = made_up([3, 5, 2], seed=1)
    batch.advantage = torch.tensor([[1.0], [-0.5], [0.3]], dtype=torch.float64)
    logprobs = ((old + 0.15 * torch.sin(torch.arange(15.0).reshape(3, 5))) * batch.mask).requires_grad_()
    args = train_ppo_lora.Args(ratio_level=level, kl_coef=0.1, kl_in="loss", importance="on", importance_mask=bound)
    weight, _ = importance(args, batch, old, batch, level)
    out = SimpleNamespace(logprobs=logprobs)
    loss, _, _ = train_ppo_lora.ppo_loss(args, out, None, batch, weight, 10 if level == "token" else 3, 10)

    mine, expected = logprobs.detach().clone().requires_grad_(), 0.0
    for row, sample in enumerate(batch.samples):
        tokens, whole = by_hand(batch, row, 2.0, bound)
        a, gap = batch.advantage[row, 0], (mine - old)[row, : sample.length]
        terms = zip(gap.exp(), tokens, strict=False) if level == "token" else [(gap.sum().exp(), whole)]
        for rho, w in terms:
            expected = expected - w * torch.minimum(rho * a, rho.clamp(0.8, 1.2) * a) / (10 if level == "token" else 3)
        log_ratio = (batch.reference - mine)[row, : sample.length]  # the KL has no weight
        expected = expected + 0.1 * (log_ratio.exp() - 1 - log_ratio).sum() / 10
    assert loss.item() == pytest.approx(expected.item())
    assert torch.allclose(gradient(loss, logprobs, batch), gradient(expected, mine, batch), atol=1e-14)


@pytest.mark.parametrize("bound", [0.0, 2.5])
@pytest.mark.parametrize("loss_type", ["grpo", "gspo", "cispo", "dr_grpo"])
def test_grpo_takes_the_weight_of_each_ratio(loss_type, bound):
    batch, old = made_up([3, 5, 2], seed=2)
    batch.advantage = torch.tensor([[1.0], [-0.5], [0.3]], dtype=torch.float64)
    batch.weight = torch.tensor(train_grpo_lora.weights([3, 5, 2], loss_type, 8), dtype=torch.float64)[:, None]
    logprobs = ((old + 0.15 * torch.sin(torch.arange(15.0).reshape(3, 5))) * batch.mask).requires_grad_()
    args = train_grpo_lora.Args(
        loss_type=loss_type, kl_coef=0.1, clip_range=0.05, importance_mask=bound, importance="on"
    )
    weight, _ = importance(args, batch, old, batch, "sequence" if loss_type == "gspo" else "token")
    loss, _, _ = train_grpo_lora.grpo_loss(args, logprobs, old, batch, weight)

    mine, expected = logprobs.detach().clone().requires_grad_(), 0.0
    for row, sample in enumerate(batch.samples):
        tokens, whole = by_hand(batch, row, 2.0, bound)
        a, gap = batch.advantage[row, 0], (mine - old)[row, : sample.length]
        size = {"dr_grpo": 24, "cispo": 10}.get(loss_type, 3 * sample.length)
        for t in range(sample.length):
            rho = (gap.mean() if loss_type == "gspo" else gap[t]).exp()
            objective = torch.minimum(rho * a, rho.clamp(0.95, 1.05) * a)
            if loss_type == "cispo":
                objective = min(rho.item(), 5.0) * a * mine[row, t]
            log_ratio = batch.reference[row, t] - mine[row, t]
            k3 = log_ratio.exp() - 1 - log_ratio
            expected = expected - ((whole if loss_type == "gspo" else tokens[t]) * objective - 0.1 * k3) / size
    assert loss.item() == pytest.approx(expected.item())
    assert torch.allclose(gradient(loss, logprobs, batch), gradient(expected, mine, batch), atol=1e-14)


WORDS, LENGTH = 3, 2
PROBABILITIES = st.lists(st.floats(0.1, 1), min_size=12, max_size=12)


def policy(logits: torch.Tensor, y: tuple[int, ...]) -> torch.Tensor:
    """Log-probs of the tokens of y; the second token's distribution depends on the first. logits: (4, 3)."""
    return torch.stack([logits[0].log_softmax(0)[y[0]], logits[1 + y[0]].log_softmax(0)[y[1]]])


def expectation(logits: torch.Tensor, mu: torch.Tensor, level: str, cap: float = 0.0) -> torch.Tensor:
    """The gradient that samples of mu have in expectation, all completions taken, with weights of this level.

    The reward is another number for every completion. level "none": the samples are those of the policy itself.
    """
    loss = 0.0
    for number, y in enumerate(itertools.product(range(WORDS), repeat=LENGTH)):
        logprobs, told = policy(logits, y), policy(mu, y)
        if level == "none":
            weight, told = torch.ones(1, 1), logprobs
        else:
            weight = importance_weights((logprobs - told)[None].detach(), level, cap, 0.0)[0]
        loss = loss - told.sum().exp().detach() * (number % 4 - 1) * (weight[0] * logprobs).sum()
    return torch.autograd.grad(loss, logits)[0]


@given(PROBABILITIES, PROBABILITIES)
def test_without_truncation_the_weights_of_completions_are_unbiased(p, q):
    logits, mu = (torch.tensor(x, dtype=torch.float64).log().reshape(4, 3) for x in (p, q))
    logits.requires_grad_()
    exact = expectation(logits, mu, "none")
    assert torch.allclose(expectation(logits, mu, "sequence"), exact, atol=1e-12)


def of_the_first_token(logits: torch.Tensor, mu: torch.Tensor, weighted: bool, cap: float = 0.0) -> torch.Tensor:
    """`expectation` for completions of one token, where a token's weight is its completion's."""
    loss, rewards = 0.0, (1.0, -0.5, 0.2)
    for y, reward in enumerate(rewards):
        logprob, told = logits.log_softmax(0)[y], mu.log_softmax(0)[y]
        weight = importance_weights((logprob - told).detach().reshape(1, 1), "token", cap, 0.0)[0] if weighted else 1.0
        loss = loss - (told.exp() if weighted else logprob.exp().detach()) * reward * (weight * logprob).sum()
    return torch.autograd.grad(loss, logits)[0]


@given(st.lists(st.floats(0.1, 1), min_size=6, max_size=6))
def test_the_weights_of_tokens_are_unbiased_for_a_single_token(numbers):
    logits, mu = (torch.tensor(x, dtype=torch.float64).log() for x in (numbers[:3], numbers[3:]))
    logits.requires_grad_()
    exact = of_the_first_token(logits, mu, weighted=False)
    assert torch.allclose(of_the_first_token(logits, mu, weighted=True), exact, atol=1e-12)


def test_truncation_and_token_weights_are_biased_and_mostly_less_so_than_none():
    """What docs/methods/importance.md says of bias, over random policies."""
    rng = torch.Generator().manual_seed(0)
    truncated, of_tokens = [], []
    for _ in range(40):
        logits = torch.randn(4, 3, generator=rng, dtype=torch.float64).requires_grad_()
        mu = logits.detach() + 0.3 * torch.randn(4, 3, generator=rng, dtype=torch.float64)
        exact, ignored = expectation(logits, mu, "none"), 0.0
        for number, y in enumerate(itertools.product(range(WORDS), repeat=LENGTH)):
            ignored = ignored - policy(mu, y).sum().exp() * (number % 4 - 1) * policy(logits, y).sum()
        none = (torch.autograd.grad(ignored, logits)[0] - exact).norm()
        truncated.append(((expectation(logits, mu, "sequence", cap=1.2) - exact).norm() / none).item())
        of_tokens.append(((expectation(logits, mu, "token") - exact).norm() / none).item())
    assert min(truncated) >= 0 and min(of_tokens) > 0.01  # a part is left
    assert median(truncated) < 0.9 and median(of_tokens) < 0.9
    assert max(of_tokens) > 1  # not for every policy


@pytest.mark.parametrize("method", ["rl", "ppo", "grpo", "gspo"])
def test_equal_log_probs_change_no_bit(start, tasks_path, tmp_path, known_run, monkeypatch, method):
    script, ends, weights = LEARN.get(method, train_grpo_lora), [], []

    def as_sampled(args, batch, old, whole, level):
        """The trainer's log-probs in place of the sampler's, which round otherwise."""
        for sample, row in zip(batch.samples, old, strict=True):
            sample.rollout.logprobs = row[: sample.length].tolist()
        weights.append(importance(args, batch, old, whole, level))
        return weights[-1]

    monkeypatch.setattr(learner, "importance", as_sampled)
    for chosen in ("off", "on"):
        known_run()
        more = {"gspo": {"loss_type": "gspo", "num_iterations": 2}, "ppo": {"ratio_level": "token"}}.get(method, {})
        args = script.Args(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / chosen), max_length=384,
                           max_new_tokens=12, batch_size=2, num_samples=3, learning_rate=0.5, importance=chosen,
                           importance_mask=1.5, **more,
                           **{"num_updates" if method == "ppo" else "num_steps": 1})  # fmt: skip
        script.main(args)
        (log,) = [json.loads(line) for line in next((tmp_path / chosen).glob("*_train_log.jsonl")).open()]
        named = {name: log[name] for name in log if name.startswith("importance_")}
        shares = {"importance_mean": pytest.approx(1), "importance_truncated": 0, "importance_masked": 0}
        assert named == (shares if chosen == "on" else {})
        ends.append(load_file(tmp_path / chosen / "adapter_model.safetensors"))
    assert any(shares for _, shares in weights)
    assert all((weight == 1).all() for weight, shares in weights if shares)
    begun = load_file(f"{start}/adapter_model.safetensors")
    assert any(not torch.equal(ends[0][name], begun[name]) for name in begun)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in begun)


def test_a_sampler_at_another_temperature_is_weighted(start, tasks_path, tmp_path, monkeypatch, capsys):
    """Off, the gate refuses it; on, the run says how far it is, and the log has weights around 1."""
    real = sampler.generate
    monkeypatch.setattr(sampler, "generate", lambda *a, temperature, **how: real(*a, temperature=0.9, **how))
    args = dict(train_path=tasks_path, sft_model=start, max_length=384, max_new_tokens=24, num_steps=1, batch_size=4,
                num_samples=4, learning_rate=1e-4)  # fmt: skip
    with pytest.raises(InputError, match="differ from the trainer's"):
        train_rl_lora.main(train_rl_lora.Args(output_dir=str(tmp_path / "off"), **args))
    train_rl_lora.main(train_rl_lora.Args(output_dir=str(tmp_path / "on"), importance="on", importance_cap=1.1, **args))
    assert "bound 2.0e-01" in capsys.readouterr().out
    (log,) = [json.loads(line) for line in (tmp_path / "on" / "rl_train_log.jsonl").open()]
    assert log["importance_mean"] == pytest.approx(1, abs=0.05) and 0 < log["importance_truncated"] < 0.5
    assert log["sampler_mismatch"] > 0.01 and log["importance_masked"] == 0


def test_auto_is_on_where_the_engine_is_not_our_own():
    assert [is_on(settings(importance="auto", engine=engine)) for engine in ("local", "vllm")] == [False, True]
    assert is_on(settings()) and not is_on(settings(importance="off", engine="vllm"))
    assert not is_on(SimpleNamespace(engine="vllm"))  # RFT, which has no such flag
    assert importance(settings(importance="off"), None, None, None, "token") == (1.0, {})


def test_the_gate_with_weights_refuses_only_what_is_far(capsys):
    near, far = torch.tensor([0.0, 0.2, 0.3]), torch.tensor([0.1, 0.3, 0.4])
    with pytest.raises(InputError, match="by 0.3 a token .bound 0.001"):
        judge(near, floor=0.0)
    judge(near, floor=0.0, corrected=True)
    assert "1.7e-01 in the mean of 3" in capsys.readouterr().out
    with pytest.raises(InputError, match="by 0.267 a token in the mean of 3 .bound 0.2, with importance weights"):
        judge(far, floor=0.0, corrected=True)
    judge(far, floor=0.2, corrected=True)  # 1.5 times the rounding
    with pytest.raises(InputError, match="in the mean of 3 .bound 0.1"):  # one's own bound is for the mean, too
        judge(near, floor=0.0, bound=0.1, corrected=True)
    judge(far, floor=0.0, bound=0.3, corrected=True)  # the largest is 0.4
    with pytest.raises(InputError):
        judge(torch.tensor([float("nan")]), floor=0.0, corrected=True)
    assert parity.allowed_mean(0.01, False) == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"importance_cap": 0.5}, "--importance_cap 0.5: must be 1 or more"),
        ({"importance_cap": float("nan")}, "--importance_cap nan"),
        ({"importance_mask": 1.0}, "--importance_mask 1.0: must be above 1"),
        ({"importance_mask": -3.0}, "--importance_mask -3.0"),
    ],
)
@pytest.mark.parametrize("method", LEARN)
def test_bad_settings_are_refused(method, changed, says):
    LEARN[method].check(LEARN[method].Args())
    with pytest.raises(InputError, match=says):
        LEARN[method].check(LEARN[method].Args(**changed))


def test_the_defaults():
    assert ImportanceArgs() == ImportanceArgs("auto", 2.0, 0.0)
