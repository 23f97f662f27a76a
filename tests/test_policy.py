import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from common import InputError
from model import load as policy
from model.load import (
    add_lora,
    base_and_adapter,
    load_policy,
    load_tokenizer,
    pick_device,
    save_adapter,
    trainable_parameters,
)
from model.logprobs import completion_logprobs, pad
from model.merged_copy import drop_merged_copy, merged_copy

PROMPTS = [[0, 5, 6, 7], [0, 9], [0, 11, 12]]
COMPLETIONS = [[20, 21, 1], [22, 23, 24, 25, 1], [30]]


def test_logprobs_equal_those_of_each_sequence_alone(pocket_policy):
    model, _ = pocket_policy
    with torch.no_grad():
        logprobs, mask = completion_logprobs(model, PROMPTS, COMPLETIONS, temperature=0.7)
        for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            logits = model(torch.tensor([prompt + completion])).logits[0].double() / 0.7
            for t, token in enumerate(completion):
                at = logits[len(prompt) + t - 1]
                assert logprobs[row, t].item() == pytest.approx(
                    (at[token] - at.logsumexp(0)).item(), rel=2e-6, abs=1e-5
                )
    assert mask.sum(1).tolist() == [3, 5, 1]
    assert logprobs[mask == 0].abs().max() == 0


def test_padding_follows_lengths_not_ids():
    ids, mask = pad([[7, 2], [2]], 2, left=False, device=torch.device("cpu"))  # the pad id is also a token
    assert ids.tolist() == [[7, 2], [2, 2]] and mask.tolist() == [[1, 1], [1, 0]]
    ids, mask = pad([[7, 2], [2]], 2, left=True, device=torch.device("cpu"))
    assert ids.tolist() == [[7, 2], [2, 2]] and mask.tolist() == [[1, 1], [0, 1]]


def test_a_forward_without_gradients_leaves_gradients_as_they_were(pocket):
    """bitsandbytes repacks CPU weights in the first such forward, and then lets no gradient through."""
    torch.manual_seed(0)
    model = add_lora(load_policy(pocket, torch.device("cpu")), 4, 8, 0.0).eval()

    def gradient() -> torch.Tensor:
        model.zero_grad()
        logprobs, _ = completion_logprobs(model, PROMPTS, COMPLETIONS)
        logprobs.sum().backward()
        return torch.cat([p.grad.flatten() for p in trainable_parameters(model)])

    before = gradient()
    with torch.no_grad():
        completion_logprobs(model, PROMPTS, COMPLETIONS)
    assert before.norm() > 0
    assert torch.allclose(gradient(), before, rtol=1e-5, atol=1e-7)


def test_the_gradient_agrees_with_finite_differences(pocket_policy):
    model, _ = pocket_policy

    def loss() -> torch.Tensor:
        return completion_logprobs(model, PROMPTS, COMPLETIONS)[0].sum()

    model.zero_grad()
    loss().backward()
    checked = 0
    for parameter in trainable_parameters(model)[::5]:
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        direction /= direction.norm()
        with torch.no_grad():
            parameter.add_(direction, alpha=5e-3)
            above = loss().item()
            parameter.add_(direction, alpha=-1e-2)
            below = loss().item()
            parameter.add_(direction, alpha=5e-3)
        expected = (parameter.grad * direction).sum().item()
        assert (above - below) / 1e-2 == pytest.approx(expected, rel=0.05, abs=0.02)
        checked += 1
    assert checked > 5


def test_the_merged_copy_is_the_policy_and_follows_it(pocket_policy):
    model, _ = pocket_policy
    inputs = torch.tensor([PROMPTS[0] + COMPLETIONS[0]])
    parameter = trainable_parameters(model)[3]
    with torch.no_grad():
        first = model(inputs).logits
        assert torch.allclose(merged_copy(model)(inputs).logits, first, atol=1e-4)
        parameter.add_(0.05)
        assert not torch.allclose(model(inputs).logits, first, atol=1e-2)
        assert torch.allclose(merged_copy(model)(inputs).logits, model(inputs).logits, atol=1e-4)
        parameter.sub_(0.05)
    assert merged_copy(model) is merged_copy(model)


def test_in_16_bits_the_copy_rounds_as_the_policy_does(pocket, monkeypatch):
    """Merged into bfloat16 weights, an adapter like this one is mostly lost in their last bit."""
    monkeypatch.setattr(policy, "compute_dtype", lambda device: torch.bfloat16)
    torch.manual_seed(0)
    model = add_lora(load_policy(pocket, torch.device("cpu")), 8, 16, 0.0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1e-3)
    name = "model.layers.0.mlp.up_proj"
    lora, copied = model.get_base_model().get_submodule(name), merged_copy(model).get_submodule(name)
    x = torch.randn(512, lora.in_features).to(torch.bfloat16)
    with torch.no_grad():
        merged = F.linear(x, (copied.weight.float() + lora.get_delta_weight("default")).bfloat16())
        trained = lora(x)
    assert (copied(x) - trained).abs().float().mean() < 0.05 * (merged - trained).abs().float().mean()


def test_an_adapter_comes_back_as_it_was_saved(pocket_policy, tmp_path):
    model, tokenizer = pocket_policy
    save_adapter(model, tokenizer, tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("*.bin"))
    again = load_policy(str(tmp_path / "adapter"), torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(
            completion_logprobs(again.eval(), PROMPTS, COMPLETIONS)[0],
            completion_logprobs(model, PROMPTS, COMPLETIONS)[0],
        )


def test_what_cannot_be_loaded_is_said_in_a_line(tmp_path, pocket):
    with pytest.raises(InputError, match="no model here"):
        base_and_adapter(str(tmp_path))
    with pytest.raises(InputError, match="no model here"):
        load_tokenizer("checkpoints/never_trained")
    with pytest.raises(InputError, match="the hub cannot be reached"):
        load_tokenizer("somebody/some-model")
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "/gone/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="its base model '/gone/base' cannot be found"):
        base_and_adapter(str(tmp_path))
    for broken, says in (
        ("{", "adapter_config.json: cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "of type None"),
    ):
        (tmp_path / "adapter_config.json").write_text(broken)
        with pytest.raises(InputError, match=says):
            base_and_adapter(str(tmp_path))
    for lacks, says in (("r", "has no rank r"), ("base_model_name_or_path", "names no base_model_name_or_path")):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | {lacks: None}))
        with pytest.raises(InputError, match=says):
            base_and_adapter(str(tmp_path))
    shutil.copytree(pocket, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        load_policy(str(tmp_path / "broken"), torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")
def test_a_missing_gpu_is_said_in_a_line():
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InputError, match="no CUDA GPU"):
        pick_device("cuda")
    with pytest.raises(InputError, match="want auto, cpu"):
        pick_device("toaster")


def test_the_copy_shares_what_is_not_in_4_bits_and_gives_the_rest_back(pocket_policy):
    model, tokenizer = pocket_policy
    copy = merged_copy(model)
    assert copy.get_input_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    ids = torch.tensor([tokenizer("def f(x):").input_ids])
    with torch.no_grad():
        before = copy(ids).logits
        drop_merged_copy(model)
        quantised = sum(m.weight.numel() for m in copy.modules() if isinstance(m, torch.nn.Linear))
        assert quantised == copy.get_output_embeddings().weight.numel()  # of the blocks' linear layers nothing is left
        assert torch.equal(merged_copy(model)(ids).logits, before)
