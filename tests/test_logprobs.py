"""The same log-probabilities whether completions share a prompt's row or stand alone."""

import pytest
import torch
from families import FAMILIES
from transformers import AutoConfig, AutoModelForCausalLM

from model import logprobs as logprobs_module
from model.load import load_policy
from model.logprobs import completion_outputs, head_logits, sharing_mask, takes_shared_prompts

PROMPTS = [[5, 6, 7, 8], [9, 3], [5, 6, 7, 8], [11, 12, 13], [9, 3], [5, 6, 7, 8]]
COMPLETIONS = [[20, 21, 1], [22, 23, 24, 25, 1], [30], [31, 32], [33, 1], [34, 35, 36, 1]]
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, pad_token_id=2)  # fmt: skip


def small(family: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL | FAMILIES[family])).eval()


@pytest.fixture(params=FAMILIES)
def model(request):
    model = small(request.param)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from uniform: a wrong position shows
    return model


def test_a_shared_prompt_changes_nothing(model):
    found = {}
    for share in (False, True):
        model.zero_grad()
        out = completion_outputs(model, PROMPTS, COMPLETIONS, 0.7, entropy=True, hidden=True, share_prompts=share)
        (out.logprobs.sum() + 0.1 * out.entropy.sum()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[share] = [out.logprobs.detach(), out.entropy.detach(), out.hidden.detach(), gradient, out.mask]
    for alone, shared in zip(found[False], found[True], strict=True):
        assert torch.allclose(alone, shared, rtol=1e-4, atol=1e-5 * alone.abs().max().clamp(min=1).item())
    assert takes_shared_prompts(model)


def test_each_sequence_alone_gives_the_same(model):
    out = completion_outputs(model, PROMPTS, COMPLETIONS, 0.7, entropy=True, share_prompts=True)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        logps = (model(torch.tensor([prompt + completion])).logits[0].double() / 0.7).log_softmax(-1)
        for t, token in enumerate(completion):
            at = logps[len(prompt) + t - 1]
            assert out.logprobs[row, t].item() == pytest.approx(at[token].item(), abs=1e-4)
            assert out.entropy[row, t].item() == pytest.approx(-(at.exp() * at).sum().item(), abs=1e-4)
    assert out.mask.sum(1).tolist() == [3, 5, 1, 2, 2, 4]
    assert out.logprobs[out.mask == 0].abs().max() == out.entropy[out.mask == 0].abs().max() == 0


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("size", [1, 3, 16, 1000])
def test_a_head_in_chunks_changes_nothing(model, size, frozen):
    head, states = model.get_output_embeddings(), torch.randn(16, 32, requires_grad=True)
    head.weight.requires_grad_(not frozen)
    ids = torch.randint(0, 64, (16,))
    logprobs, entropy = logprobs_module.head_logprobs(head, states, ids, 0.7, True, logits_at_once=size * 64)
    (gradient,) = torch.autograd.grad(logprobs.sum() + entropy.sum(), states)
    logps = (head(states) / 0.7).log_softmax(-1)
    expected, expected_entropy = logps[range(16), ids], -(logps.exp() * logps).sum(-1)
    (expected_gradient,) = torch.autograd.grad(expected.sum() + expected_entropy.sum(), states)
    assert torch.allclose(logprobs, expected, atol=1e-5) and torch.allclose(entropy, expected_entropy, atol=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-4)


def test_the_4_bit_policy_shares_prompts(pocket_policy):
    model, _ = pocket_policy
    with torch.no_grad():
        alone, shared = (
            completion_outputs(model, PROMPTS, COMPLETIONS, share_prompts=s).logprobs for s in (False, True)
        )
    assert torch.allclose(alone, shared, atol=1e-5) and takes_shared_prompts(model)


@pytest.mark.parametrize("window", [6, 64])
def test_a_prompt_is_not_shared_beyond_a_sliding_window(window):
    torch.manual_seed(0)
    settings = SMALL | {"num_key_value_heads": 2, "sliding_window": window}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **settings)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    calls = []
    model.get_decoder().register_forward_hook(lambda *call: calls.append(len(call[2].last_hidden_state)))
    with torch.no_grad():
        found = completion_outputs(model, PROMPTS, COMPLETIONS).logprobs
        assert calls[-1] == (6 if window == 6 else 3)  # rows
        alone = completion_outputs(model, PROMPTS, COMPLETIONS, share_prompts=False).logprobs
    assert torch.allclose(found, alone, atol=1e-4)


def test_completions_do_not_see_one_another():
    owner, seen = torch.tensor([[0, 0, 0, 1, 1, 2]]), torch.tensor([[0, 1, 1, 1, 1, 1]])  # one column of padding
    sees = sharing_mask(owner, seen, torch.float32)[0, 0] == 0
    assert sees.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 0, 0, 1],
    ]


def test_a_model_that_sees_across_completions_gets_a_row_each(capsys, monkeypatch):
    model = small("llama")
    monkeypatch.setattr(
        logprobs_module, "sharing_mask", lambda owner, mask, dtype: sharing_mask(owner * 0, mask, dtype)
    )
    assert not takes_shared_prompts(model)
    assert "each completion gets its own row" in capsys.readouterr().out
    monkeypatch.undo()
    alone = completion_outputs(model, PROMPTS, COMPLETIONS, share_prompts=False).logprobs
    assert torch.equal(completion_outputs(model, PROMPTS, COMPLETIONS).logprobs, alone)


def test_a_frozen_head_keeps_no_logits(model):
    head, kept = model.get_output_embeddings().requires_grad_(False), []
    states = torch.randn(16, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        logprobs_module.head_logprobs(head, states, torch.randint(0, 64, (16,)), 1.0, False, logits_at_once=8 * 64)
    assert sum(kept) == 16 * 32  # a state for each token, not V logits


def test_gradients_are_the_same_every_time_with_two_threads(pocket_policy):
    """The completions of a prompt share its last state: its gradient is a sum, which had no fixed order."""
    model, _ = pocket_policy
    prompts, completions = [[5] * 40] * 12, [[6 + i] * 30 for i in range(12)]
    threads, found = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        for _ in range(6):
            model.zero_grad()
            completion_outputs(model, prompts, completions, share_prompts=True).logprobs.sum().backward()
            found.add(b"".join(p.grad.numpy().tobytes() for p in model.parameters() if p.grad is not None))
    finally:
        torch.set_num_threads(threads)
        model.zero_grad()
    assert len(found) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_are_not_rounded_to_16_bits(dtype):
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 5000).to(dtype).requires_grad_(False)
    states = (20 * torch.randn(7, 64)).to(dtype)
    exact = states.double() @ head.weight.double().t() + head.bias.double()
    logits = head_logits(head, states)
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 1e-4 < (head(states) - exact).abs().max()


def test_rows_of_the_mask_are_aligned():
    owner = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2]])
    mask = sharing_mask(owner, torch.ones_like(owner), torch.bfloat16)
    assert mask.shape == (1, 1, 9, 9) and mask.stride(-2) % 8 == 0
    assert (mask[0, 0, 7] == 0).tolist() == [True, True, True, False, False, True, True, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_shared_prompts_are_decided_by_means(pocket, monkeypatch, dtype):
    """A right model is never turned down by chance; one that reads other completions is, by far."""
    torch.manual_seed(0)
    model = load_policy(pocket, torch.device("cpu"), dtype=dtype)
    prompts, completions = [list(range(5, 60))] * 4, [list(range(9 + i, 40 + i)) for i in range(4)]
    assert takes_shared_prompts(model, prompts, completions)
    logprobs_module._takes.pop(model)
    monkeypatch.setattr(logprobs_module, "sharing_mask", lambda owner, mask, dtype: (
        torch.full((owner.shape[1],) * 2, torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]))  # fmt: skip
    assert not takes_shared_prompts(model, prompts, completions)
    logprobs_module._takes.pop(model)
