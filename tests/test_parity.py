"""The gate before the first update: what cannot be right does not start. KL estimates against exact KL."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampled import sample

from benchmarks import bench_precision
from common import InputError
from judging.tasks import read_tasks
from model import parity
from model.load import load_policy, load_tokenizer, save_adapter, set_recomputing, trainable_parameters
from model.logprobs import completion_logprobs
from model.parity import MIN_TOKENS, check_ends, check_parity, judge
from model.reference import as_reference, kl_estimate, load_reference
from model.sampling import Rollout, encode_prompts


@pytest.fixture(scope="module")
def sampled(pocket_policy):
    model, tokenizer = pocket_policy
    prompts = encode_prompts(tokenizer, read_tasks("data/pocket_train.jsonl")[:4], 256)
    rollouts = sample(model, tokenizer, prompts, max_new_tokens=24, temperature=0.8, num_samples=2,
                      seeds=[(0, i) for i in range(4)])  # fmt: skip
    return model, rollouts


def test_a_right_sampler_is_let_through(sampled, capsys):
    model, rollouts = sampled
    assert check_parity(model, rollouts, 0.8) < 1e-3
    assert "sampler and trainer differ by" in capsys.readouterr().out


def test_dropout_left_on_is_caught_by_its_switch(sampled):
    model, rollouts = sampled
    set_recomputing(model, True)  # puts layers into training mode, whose dropouts stay off
    try:
        check_parity(model, rollouts, 0.8)
        model.train()
        with pytest.raises(InputError, match="dropout is on in the trainer"):
            check_parity(model, rollouts, 0.8)
    finally:
        model.eval()
        set_recomputing(model, False)


def test_a_wrong_temperature_is_caught(sampled):
    with pytest.raises(InputError, match="differ from the trainer's"):
        check_parity(*sampled, 1.0)


def test_a_shifted_log_prob_is_caught(sampled):
    model, rollouts = sampled
    shifted = [Rollout(**vars(r) | {"logprobs": r.logprobs[1:] + [0.0]}) for r in rollouts]
    with pytest.raises(InputError, match="differ from the trainer's"):
        check_parity(model, shifted, 0.8)


def test_a_log_prob_that_is_no_number_is_caught(sampled):
    model, rollouts = sampled
    broken = [Rollout(**vars(r) | {"logprobs": [float("nan")] * len(r.logprobs)}) for r in rollouts]
    with pytest.raises(InputError, match="differ from the trainer's"):
        check_parity(model, broken, 0.8)


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def in_16_bits(request):
    """What benchmarks/bench_precision.py tells of the pocket model: by bug the figures, and why it is refused."""
    args = bench_precision.Args(num_tasks=5, num_samples=4)
    model = bench_precision.random_policy(args.model_name, getattr(torch, request.param), args.adapter_std, args.seed)
    tokenizer = load_tokenizer(args.model_name)
    prompts = encode_prompts(tokenizer, read_tasks(args.data)[: args.num_tasks], 256)
    return {bug: found for bug, *found in bench_precision.gate_rows(model, tokenizer, prompts, args)}


def test_in_16_bits_a_right_sampler_is_let_through(in_16_bits):
    figures, why = in_16_bits.pop("none")
    assert why == "" and figures["tokens"] >= MIN_TOKENS
    assert 0.5 < figures["mean"] / figures["floor"] < 1.2


def test_in_16_bits_each_bug_is_refused(in_16_bits):
    causes = {"EOS not trained on": "ends without its EOS", "goes on after EOS": "goes on after an EOS",
              "dropout in the trainer": "dropout is on in the trainer"}  # fmt: skip
    for bug, (_, why) in in_16_bits.items():
        assert bug == "none" or causes.get(bug, "differ from the trainer's by") in why, bug


def test_an_end_that_is_said_to_be_none_is_caught():
    whole = Rollout(0, [5], [6, 7, 1], [0.0] * 3, True, "")
    check_ends([whole], {1}, stop_strings=False)
    check_ends([replace(whole, token_ids=[6, 7, 8])], {1}, stop_strings=True)  # at a stop string
    with pytest.raises(InputError, match="has an EOS and is said to be cut off"):
        check_ends([replace(whole, ended=False)], {1}, stop_strings=False)


def test_a_bound_of_ones_own_is_for_the_largest_difference(capsys):
    gaps = torch.tensor([0.1, 0.2, 1.5])
    judge(gaps, floor=0.5)
    assert "warning: sampler and trainer differ by 1.5 nats" in capsys.readouterr().out
    judge(gaps, floor=0.01, bound=2.0)
    with pytest.raises(InputError, match="by 1.5 a token .bound 1"):
        judge(gaps, floor=1.0, bound=1.0)
    with pytest.raises(InputError, match="0.6 a token in the mean of 3"):
        judge(gaps, floor=0.3)


@pytest.fixture
def with_reference(start):
    """A policy from `start`, its reference beside it, and rollouts of it."""
    model, tokenizer = load_policy(start, torch.device("cpu"), trainable=True), load_tokenizer(start)
    load_reference(model, start)
    model.eval()
    prompts = encode_prompts(tokenizer, read_tasks("data/pocket_train.jsonl")[:2], 256)

    def rollouts() -> list[Rollout]:
        return sample(model, tokenizer, prompts, max_new_tokens=16, temperature=1.0, num_samples=2)

    return model, rollouts


def move(model) -> None:
    with torch.no_grad():
        for parameter in trainable_parameters(model):
            parameter.add_(0.02)


def test_the_reference_is_the_start_also_after_the_policy_has_moved(with_reference, start, capsys):
    model, rollouts = with_reference
    check_parity(model, rollouts(), 1.0, start=start)
    out = capsys.readouterr().out
    assert f"KL({start}, reference) is 0.0e+00" in out and "KL(the policy, reference) is 0.0e+00" in out
    move(model)
    moved = [p.clone() for p in trainable_parameters(model)]
    check_parity(model, rollouts(), 1.0, start=start, fresh=False)
    out = capsys.readouterr().out
    assert f"KL({start}, reference) is 0.0e+00" in out and "the policy" not in out
    assert all(torch.equal(a, b) for a, b in zip(moved, trainable_parameters(model), strict=True))  # put back


def test_the_base_as_reference_is_caught(with_reference, start, monkeypatch):
    model, rollouts = with_reference
    monkeypatch.setattr(parity, "as_reference", lambda model: model.disable_adapter())
    with pytest.raises(InputError, match="the reference is not the adapter that the run started from"):
        check_parity(model, rollouts(), 1.0, start=start)


def test_a_reference_that_is_trained_along_is_caught_after_a_resume(with_reference, start):
    model, rollouts = with_reference
    move(model)
    for name, weight in model.named_parameters():
        if ".reference." in name:
            weight.data.add_(0.02)
    with pytest.raises(InputError, match="the reference is not the adapter"):
        check_parity(model, rollouts(), 1.0, start=start, fresh=False)


def test_a_policy_that_does_not_start_from_its_adapter_is_caught(with_reference, start):
    model, rollouts = with_reference
    move(model)
    with pytest.raises(InputError, match="differ from those of the policy"):
        check_parity(model, rollouts(), 1.0, start=start)


def test_the_reference_is_frozen_and_not_saved(with_reference, start, tmp_path):
    model, rollouts = with_reference
    batch = rollouts()
    prompts, completions = [r.prompt_ids for r in batch], [r.token_ids for r in batch]
    before = completion_logprobs(model, prompts, completions)[0].detach()
    move(model)
    with as_reference(model), torch.no_grad():
        assert torch.equal(completion_logprobs(model, prompts, completions)[0], before)
    assert not torch.equal(completion_logprobs(model, prompts, completions)[0], before)
    assert trainable_parameters(model) and not any(
        p.requires_grad for name, p in model.named_parameters() if ".reference." in name
    )
    save_adapter(model, load_tokenizer(start), tmp_path / "saved")
    assert not (tmp_path / "saved" / "reference").exists()


@given(st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)), min_size=2, max_size=6))
def test_kl_estimates_are_unbiased(pairs):
    """Their expectation over a toy distribution, all outcomes taken, is the exact KL; k3 is never negative."""
    p, q = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    p, q = p / p.sum(), q / q.sum()
    exact = (p * (p / q).log()).sum().item()
    for kind in ("k1", "k3"):
        assert (p * kl_estimate(p.log(), q.log(), kind)).sum().item() == pytest.approx(exact, abs=1e-12)
    assert (kl_estimate(p.log(), q.log(), "k3") >= -1e-15).all()
