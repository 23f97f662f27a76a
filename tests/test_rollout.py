from functools import partial
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, save_family
from sampled import sample
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig, MistralConfig

from common import InputError
from judging.tasks import read_tasks, stop_strings
from model import sampling
from model.load import add_lora, load_policy, load_tokenizer, trainable_parameters
from model.logprobs import base_of, completion_logprobs, completion_outputs, head_logprobs
from model.sampling import encode_prompts, generate, in_order
from model.sampling_graph import StaticDecoder, takes_graph


@pytest.fixture(scope="module")
def prompts(pocket_policy):
    return encode_prompts(pocket_policy[1], read_tasks("data/pocket_train.jsonl")[:6], 256)


def test_greedy_equals_transformers_generate(pocket_policy, prompts):
    model, tokenizer = pocket_policy
    ours = sample(model, tokenizer, prompts, max_new_tokens=24, temperature=0.0, batch_size=4)
    for rollout, prompt in zip(ours, prompts, strict=True):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False, pad_token_id=2)
        assert rollout.token_ids == theirs[0, len(prompt) :].tolist()
        assert rollout.ended == (rollout.token_ids[-1] == tokenizer.eos_token_id)


def test_the_sampler_scores_as_the_trainer_does(pocket_policy, prompts):
    model, tokenizer = pocket_policy
    rollouts = sample(model, tokenizer, prompts, max_new_tokens=40, temperature=0.8, num_samples=4, batch_size=8,
                      seeds=[(0, i) for i in range(6)])  # fmt: skip
    with torch.no_grad():
        logprobs, mask = completion_logprobs(
            model, [r.prompt_ids for r in rollouts], [r.token_ids for r in rollouts], temperature=0.8
        )
    for row, rollout in enumerate(rollouts):
        assert logprobs[row][mask[row] == 1].tolist() == pytest.approx(rollout.logprobs, abs=2e-4)
    assert len({len(r.token_ids) for r in rollouts}) > 1  # rows have left the batch at different times


def test_samples_come_in_the_order_of_the_prompts(pocket_policy, prompts):
    model, tokenizer = pocket_policy
    rollouts = sample(model, tokenizer, prompts, max_new_tokens=4, temperature=1.0, num_samples=3, batch_size=6)
    assert [r.prompt_index for r in rollouts] == [i for i in range(len(prompts)) for _ in range(3)]
    assert all(r.prompt_ids == prompts[r.prompt_index] for r in rollouts)


def test_a_seed_gives_the_same_samples(pocket_policy, prompts):
    model, tokenizer = pocket_policy

    def draw(seed):
        seeds = [(seed, i) for i in range(len(prompts))]
        rollouts = sample(model, tokenizer, prompts, max_new_tokens=12, temperature=1.0, seeds=seeds)
        return [r.token_ids for r in rollouts]

    assert draw(1) == draw(1) != draw(2)


def test_sampling_has_no_dropout_and_leaves_the_mode_alone(pocket_policy, prompts):
    model, tokenizer = pocket_policy
    expected = [r.token_ids for r in sample(model, tokenizer, prompts, max_new_tokens=12, temperature=0.0)]
    model.train()
    again = [r.token_ids for r in sample(model, tokenizer, prompts, max_new_tokens=12, temperature=0.0)]
    assert model.training
    model.eval()
    assert again == expected


def test_draws_follow_the_distribution_and_top_p_cuts_its_tail():
    from model.sampling import _draw

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(20000, 1)
    uniform = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token, logprob = _draw(logits, uniform, 1.0, 1.0)
    assert (token.bincount(minlength=4) / 20000).tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)
    assert torch.allclose(logprob, logits[0][token])
    token, _ = _draw(logits, uniform, 1.0, 0.75)
    assert (token.bincount(minlength=4) / 20000).tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.015)
    token, _ = _draw(logits, uniform, 0.5, 1.0)  # probabilities squared
    assert (token.bincount(minlength=4) / 20000).tolist() == pytest.approx([0.685, 0.247, 0.062, 0.007], abs=0.015)


def test_stop_strings_end_generation_and_are_trained_on(pocket_policy, prompts):
    model, tokenizer = pocket_policy
    free = sample(model, tokenizer, prompts, max_new_tokens=100, temperature=0.0)
    kinds = [("\n    return", "\n    result"), ("\n    for ",), ()] * 2  # one batch, each prompt with its own
    held = sample(model, tokenizer, prompts, max_new_tokens=100, temperature=0.0, stops=kinds)
    ends = []
    for whole, rollout, stops in zip(free, held, kinds, strict=True):
        ends.append(any(stop in whole.text for stop in stops))
        assert whole.token_ids[: len(rollout.token_ids)] == rollout.token_ids
        if not ends[-1]:
            assert (rollout.token_ids, rollout.text, rollout.ended) == (whole.token_ids, whole.text, whole.ended)
            continue
        assert rollout.ended
        assert any(stop in tokenizer.decode(rollout.token_ids) for stop in stops)
        assert not any(stop in tokenizer.decode(rollout.token_ids[:-1]) for stop in stops)
        assert not any(stop in rollout.text for stop in stops)
    assert any(ends) and not all(ends)


def test_a_stop_string_of_many_tokens_is_seen(pocket_policy, prompts):
    """A token is a character at least, so that a stop string of n characters lies in the last n tokens."""
    model, tokenizer = pocket_policy
    free = sample(model, tokenizer, prompts[:1], max_new_tokens=40, temperature=0.0)[0]
    stop = free.text[5:65]
    assert stop.isascii() and len(tokenizer(stop).input_ids) > 16
    held = sample(model, tokenizer, prompts[:1], max_new_tokens=40, temperature=0.0, stops=[(stop,)])[0]
    assert held.ended and held.text == free.text[:5] and len(held.token_ids) < len(free.token_ids)


def test_every_eos_of_the_generation_config_counts(pocket_policy, prompts):
    model, tokenizer = pocket_policy
    first = sample(model, tokenizer, prompts[:1], max_new_tokens=8, temperature=0.0)[0].token_ids
    model.generation_config.eos_token_id = [1, first[3]]
    try:
        rollout = sample(model, tokenizer, prompts[:1], max_new_tokens=8, temperature=0.0)[0]
    finally:
        model.generation_config.eos_token_id = 1
    assert rollout.ended and rollout.token_ids == first[: first.index(first[3]) + 1]


def test_a_long_prompt_is_named(pocket_policy):
    task = {"task_id": "long/1", "prompt": "x = 1\n" * 200}
    with pytest.raises(InputError, match="long/1: its prompt has .* tokens, .* leaves 64"):
        encode_prompts(pocket_policy[1], [task], 64)


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, tmp_path_factory):
    """A random 4-bit policy of each architecture with an adapter that does something, and its tokenizer."""
    name = save_family(request.param, tmp_path_factory.mktemp(request.param))
    policy = add_lora(load_policy(name, torch.device("cpu")), 8, 16, 0.05)
    for parameter in trainable_parameters(policy):
        torch.nn.init.normal_(parameter, std=0.02)
    return policy.eval(), load_tokenizer(name)


def test_merged_compacted_packed_and_chunked_are_the_policy_itself(policy, prompts, monkeypatch):
    """Against `generate` of the unmerged policy, a prompt at a time; log-probs against its logits."""
    model, tokenizer = policy
    prompts = prompts[:4]
    theirs = [
        model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, pad_token_id=2)[0, len(prompt) :]
        for prompt in prompts
    ]
    for batch_size, unpack in ((1, True), (3, True), (64, True), (3, False)):
        ours = sample(
            model, tokenizer, prompts, max_new_tokens=16, temperature=0.0, batch_size=batch_size, unpack=unpack
        )
        assert [rollout.token_ids for rollout in ours] == [ids.tolist() for ids in theirs]

    seeds = [(7, i) for i in range(len(prompts))]
    rollouts = sample(model, tokenizer, prompts, max_new_tokens=16, temperature=1.0, num_samples=3, seeds=seeds)
    ids = [r.prompt_ids for r in rollouts], [r.token_ids for r in rollouts]
    with torch.no_grad():
        alone = [
            model(torch.tensor([p + c])).logits[0, len(p) - 1 : -1].log_softmax(-1)[range(len(c)), c]
            for p, c in zip(*ids, strict=True)
        ]
        whole = completion_logprobs(model, *ids)[0]
        monkeypatch.setattr("model.logprobs.head_logprobs", partial(head_logprobs, logits_at_once=5 * 1024))
        chunked = completion_outputs(model, *ids, share_prompts=False).logprobs
    for row, (rollout, expected) in enumerate(zip(rollouts, alone, strict=True)):
        length = len(expected)
        for found in (whole[row, :length], chunked[row, :length], torch.tensor(rollout.logprobs)):
            assert torch.allclose(found, expected, rtol=0, atol=1e-5)


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_batch(pocket_policy, prompts):
    model, tokenizer = pocket_policy
    seeds = [(7, i) for i in range(len(prompts))]

    def draw(chosen, batch_size):
        return [
            r.token_ids
            for r in sample(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens=40, temperature=1.0,
                            num_samples=3, batch_size=batch_size, seeds=[seeds[i] for i in chosen])
        ]  # fmt: skip

    whole = draw(range(6), 64)
    assert draw(range(6), 6) == whole and draw(range(2, 4), 64) == whole[6:12]


def test_on_a_cpu_one_long_prompt_does_not_pad_the_others(pocket_policy, prompts, monkeypatch):
    model, tokenizer = pocket_policy
    long = (prompts[0] * 9)[:400]
    how = {"max_new_tokens": 4, "temperature": 1.0, "num_samples": 2}
    alone = sample(model, tokenizer, prompts, seeds=[(7, i) for i in range(6)], **how)
    shapes, prefill = [], sampling._prefill

    def noted(model, inputs, room):
        shapes.append((len(inputs), max(map(len, inputs))))
        return prefill(model, inputs, room)

    monkeypatch.setattr(sampling, "_prefill", noted)
    mixed = sample(model, tokenizer, [*prompts, long], seeds=[(7, i) for i in range(7)], **how)
    assert shapes == [(1, 400), (6, max(map(len, prompts)))]
    assert [r.token_ids for r in mixed[:12]] == [r.token_ids for r in alone]


def test_completions_are_handed_on_as_they_end(pocket_policy, prompts):
    model, tokenizer = pocket_policy
    seen = list(generate(model, tokenizer, prompts, max_new_tokens=60, temperature=1.0, num_samples=4,
                         seeds=[(1, i) for i in range(6)]))  # fmt: skip
    assert [(r.prompt_index, r.number) for r in in_order(seen)] == [(i, n) for i in range(6) for n in range(4)]
    lengths = [len(r.token_ids) for r in seen]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


@pytest.mark.parametrize("how", [{}, {"top_p": 0.9}, {"temperature": 0.0}, {"stops": True}, {"unpack": False}])
def test_fixed_places_change_no_token(pocket_policy, monkeypatch, how):
    """What a CUDA graph replays, made step by step here: tokens, ends and texts are those of eager decoding."""
    model, tokenizer = pocket_policy
    tasks = read_tasks("data/pocket_train.jsonl")[:11]
    prompts = encode_prompts(tokenizer, tasks, 256)
    how = dict(max_new_tokens=37, num_samples=3, batch_size=15, seeds=[(0, i) for i in range(11)],
               temperature=0.8) | how  # fmt: skip
    if "stops" in how:
        how["stops"] = [stop_strings(task) for task in tasks]
    eager = sample(model, tokenizer, prompts, **how)
    monkeypatch.setattr("model.sampling.takes_graph", lambda model: True)
    static = sample(model, tokenizer, prompts, **how)
    assert how["temperature"] == 0 or 0 < sum(r.ended for r in eager) < len(eager)
    for one, other in zip(eager, static, strict=True):
        assert (one.token_ids, one.ended, one.text) == (other.token_ids, other.ended, other.text)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_rows_move_together_when_half_of_them_have_ended(pocket_policy, monkeypatch):
    model, tokenizer = pocket_policy
    prompts = encode_prompts(tokenizer, read_tasks("data/pocket_train.jsonl")[:8], 256)
    sizes, advance = [], StaticDecoder.advance
    monkeypatch.setattr(StaticDecoder, "advance", lambda self, rows: (sizes.append(rows), advance(self, rows)))
    monkeypatch.setattr("model.sampling.takes_graph", lambda model: True)
    sample(
        model, tokenizer, prompts, max_new_tokens=64, temperature=1.0, num_samples=4, seeds=[(0, i) for i in range(8)]
    )
    assert sizes[0] == 32 and set(sizes) <= {32, 16, 8, 4} and len(set(sizes)) > 1
    assert sizes == sorted(sizes, reverse=True)


def test_no_graph_on_a_cpu_nor_with_sliding_windows(pocket_policy, monkeypatch):
    model, _ = pocket_policy
    assert not takes_graph(base_of(model))
    shape = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    cases = (
        (LlamaConfig(**shape), True),
        (LlamaConfig(**shape, rope_parameters=dynamic), False),
        (MistralConfig(sliding_window=8, **shape), False),
        (BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=64), False),
    )
    for config, takes in cases:
        plain = AutoModelForCausalLM.from_config(config)
        monkeypatch.setattr(plain, "get_input_embeddings", lambda: SimpleNamespace(
            weight=SimpleNamespace(device=torch.device("cuda"))))  # fmt: skip
        assert takes_graph(plain) is takes
