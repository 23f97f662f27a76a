"""Count the kernels, waits for the GPU and copies to it that decoding one token takes, on a simulated GPU.

    python tests/pretended_gpu.py benchmarks/count_kernels.py [LAYERS]

The model is a random Llama of 24 layers or LAYERS, with 8 rows; it is narrow, because the counts do not depend on
widths. The counts of one token are the difference between 48 and 16 tokens, divided by 32. Attention is counted as
torch's plain implementation; a real GPU has one kernel for it.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from types import SimpleNamespace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.load import add_lora, load_policy, trainable_parameters
from model.sampling import generate, in_order

counts = globals()["counts"]  # tests/pretended_gpu.py's
LAYERS = int(sys.argv[1]) if sys.argv[1:] else 24


def random_policy():
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=LAYERS, num_attention_heads=4,
                         vocab_size=512, eos_token_id=None)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        model = load_policy(folder, torch.device("cuda", 0))
    model = add_lora(model, 4, 8, 0.0)
    for parameter in trainable_parameters(model):
        torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def taken(model, tokens: int, stops: bool, **how: bool) -> Counter:
    tokenizer = SimpleNamespace(eos_token_id=None, decode=lambda ids: "", batch_decode=lambda rows: [""] * len(rows))
    before = Counter(vars(counts) | {"sites": 0})
    in_order(
        generate(
            model,
            tokenizer,
            [list(range(5, 37))],
            max_new_tokens=tokens,
            temperature=1.0,
            num_samples=8,
            seeds=[(0,)],
            stops=[("\n\n",)] if stops else None,
            **how,
        )
    )
    after = Counter(vars(counts) | {"sites": 0})
    return Counter({name: after[name] - before[name] for name in ("kernels", "syncs", "copies")})


def main() -> None:
    model = random_policy()
    print("| decoding | stop strings | kernels a token | waits | copies |\n|---|---|---|---|---|")
    for name, unpack, graph in ((f"{weights}, {way}", weights == "unpacked", way == "graph")
                                for way in ("eager", "graph") for weights in ("unpacked", "4-bit")):  # fmt: skip
        how = {"unpack": unpack, "graph": graph}
        for stops in (False, True):
            more = taken(model, 48, stops, **how)
            more.subtract(taken(model, 16, stops, **how))
            cells = [f"{more[kind] / 32:.2f}".removesuffix(".00") for kind in ("kernels", "syncs", "copies")]
            print(f"| {name} | {'yes' if stops else 'no'} | " + " | ".join(cells) + " |", flush=True)


main()
