"""Run vLLM itself for tests/test_vllm_real.py, with an interpreter that has it.

    PYTHONPATH=. VLLM_CPU_KVCACHE_SPACE=1 vllm_env/bin/python tests/vllm_runner.py ADAPTER FOLDER

FOLDER/found.json gets what it found with an adapter of data/pocket_coder.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from judging.tasks import STOP_STRINGS, read_tasks
from model.load import load_policy, load_tokenizer, trainable_parameters
from model.logprobs import completion_logprobs
from model.parity import token_logprobs
from model.sampling import encode_prompts, generate, in_order
from model.sampling_vllm import VllmSampler, check_engine

TEMPERATURE, NEW_TOKENS = 0.8, 60


@torch.no_grad()
def tie(model, vllm, local) -> float:
    """Return the local model's gap between the two tokens at which two greedy completions part; 0 if they do not."""
    pairs = enumerate(zip(vllm.token_ids, local.token_ids, strict=False))
    place = next((at for at, (one, other) in pairs if one != other), None)
    if place is None:
        return 0.0 if len(vllm.token_ids) == len(local.token_ids) else 99.0
    begun = local.token_ids[:place]
    rows = [begun + [vllm.token_ids[place]], begun + [local.token_ids[place]]]
    logprobs, _ = completion_logprobs(model, [local.prompt_ids] * 2, rows)
    return (logprobs[0, place] - logprobs[1, place]).abs().item()


def main(adapter: str, folder: str) -> None:
    args = SimpleNamespace(engine="vllm", max_length=384, vllm_memory=0.2, seed=1, trust_remote_code=False, top_p=1.0,
                           temperature=TEMPERATURE, dtype="auto")  # fmt: skip
    check_engine(args)
    tokenizer = load_tokenizer(adapter)
    sampler = VllmSampler(adapter, tokenizer, args)
    model = load_policy(adapter, torch.device("cpu"), trainable=True).eval()
    prompts = encode_prompts(tokenizer, read_tasks("data/pocket_train.jsonl")[:56], 256)
    few = prompts[:6]

    def drawn(seed=0, **how):
        how = {"num_samples": 2, "temperature": TEMPERATURE, "max_new_tokens": NEW_TOKENS} | how
        rollouts = sampler.generate(model, tokenizer, few, seeds=[(seed, i) for i in range(len(few))], **how)
        return in_order(rollouts)

    def gap(rollouts) -> dict[str, float]:
        """How far vLLM's log-probabilities are from the trainer's, a token, in nats."""
        sampled = torch.tensor([logprob for r in rollouts for logprob in r.logprobs])
        gaps = (token_logprobs(model, rollouts, TEMPERATURE, 4) - sampled).abs()
        return {"tokens": len(gaps), "mean": gaps.mean().item(), "p99": gaps.quantile(0.99).item(),
                "largest": gaps.max().item()}  # fmt: skip

    first = drawn()
    found = {
        "gap": gap(first),
        "ends": [[r.ended, r.token_ids[-1] in sampler.ends, len(r.token_ids)] for r in first],
        "texts": [r.text == tokenizer.decode([i for i in r.token_ids if i not in sampler.ends]) for r in first],
        "again": [r.token_ids for r in drawn()] == [r.token_ids for r in first],
        "smaller_batches": [r.token_ids for r in drawn(batch_size=4)] == [r.token_ids for r in first],
        "samples_differ": first[0].token_ids != first[1].token_ids,
        "seeds_differ": [r.token_ids for r in drawn(seed=1)] != [r.token_ids for r in first],
    }
    greedy = dict(max_new_tokens=NEW_TOKENS, temperature=0.0)
    for name, stops in (("ties", None), ("ties_at_stops", [STOP_STRINGS] * len(few))):
        ours = in_order(generate(model, tokenizer, few, stops=stops, **greedy))
        theirs = in_order(sampler.generate(model, tokenizer, few, stops=stops, **greedy))
        same = [(a.text, a.ended) == (b.text, b.ended) or a.token_ids != b.token_ids
                for a, b in zip(theirs, ours, strict=True)]  # fmt: skip
        found[name] = [tie(model, a, b) if same[i] else 99.0 for i, (a, b) in enumerate(zip(theirs, ours, strict=True))]
    tokens = sum(map(len, prompts))  # more than vLLM reads in one step
    many = sampler.generate(model, tokenizer, prompts, seeds=[(2, i) for i in range(len(prompts))], max_new_tokens=2,
                            temperature=TEMPERATURE)  # fmt: skip
    found |= {"prompt_tokens": tokens, "gap_of_many": gap(list(many)), "versions": [sampler.version]}
    with torch.no_grad():
        for parameter in trainable_parameters(model):
            torch.nn.init.normal_(parameter, std=0.05)
    changed = drawn()
    found |= {"gap_of_changed": gap(changed), "versions": [*found["versions"], sampler.version],
              "changed": [r.token_ids for r in changed] != [r.token_ids for r in first]}  # fmt: skip
    (Path(folder) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
