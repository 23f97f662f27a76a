"""Make the model with a fresh adapter, and the tasks, for the benchmarks of sampling and training.

Measuring speed needs no learned weights. A random model never ends a completion by itself, but the pocket model does.
To give all completions one length, the end-of-sequence token is set to one for which the model has no logit.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from common import require
from judging.tasks import read_tasks

# 1.3b and 7b are named like DeepSeek-Coder's models, by their size with the embeddings. "humaneval" has 4.7M parameters
# in the blocks and 2 x 8.2M in the embeddings and the head.
SHAPES = {
    "humaneval": dict(hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4),
    "1.3b": dict(hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=16),
    "7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32),
}
NEEDS_GPU = ("1.3b", "7b")
VOCABULARY = 32256  # DeepSeek-Coder's size, also for random models with the pocket tokenizer


def build(workload: str, folder: Path, tokenizer_folder: str = "", data: str = "", natural: bool = False) -> None:
    """Write folder/base (model and tokenizer), folder/adapter (new, so it changes nothing) and folder/tasks.jsonl.

    Args:
        workload: "pocket", or a name in `SHAPES`: a random Llama with the tokenizer in `tokenizer_folder`, or with the
            pocket tokenizer, filled up to a real one's size.
        data: task file, plain or .gz; "": the pocket tasks.
        natural: keep the end-of-sequence token; otherwise no completion ends before its limit.

    Raises:
        InputError: a file or a GPU is missing.
    """
    pocket = workload == "pocket"
    require(tokenizer_folder == "" or Path(tokenizer_folder, "tokenizer.json").is_file(),
            f"--tokenizer {tokenizer_folder}: has no tokenizer.json")  # fmt: skip
    require(pocket or not natural, f"--lengths natural: the random model of {workload} never ends; use pocket")
    write_tasks(data or str(ROOT / "data" / "pocket_train.jsonl"), folder / "tasks.jsonl")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from model.load import add_lora, load_policy, pick_device, save_adapter

    device = pick_device()
    require(
        workload not in NEEDS_GPU or device.type == "cuda", f"--workload {workload}: needs a CUDA GPU, none is here"
    )
    own = str(ROOT / "data" / "pocket_coder")
    source = own if pocket else tokenizer_folder or own
    tokenizer = AutoTokenizer.from_pretrained(source)
    if not pocket and not tokenizer_folder:
        tokenizer.add_tokens([f"<|{number}|>" for number in range(len(tokenizer), VOCABULARY)])
    torch.manual_seed(0)
    if pocket:
        model = AutoModelForCausalLM.from_pretrained(source)
    else:
        with device:
            model = random_llama(tokenizer, torch.bfloat16, **SHAPES[workload])
    if not natural:
        never_ends(model, tokenizer)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    del model
    # no dropout, because one side trains in train mode and the others do not
    save_adapter(add_lora(load_policy(str(folder / "base"), device), 8, 16, 0.0), tokenizer, folder / "adapter")


def random_llama(tokenizer, dtype, **shape: int):
    """Return a Llama of this shape with the tokenizer's vocabulary, and with transformers' random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=16384, tie_word_embeddings=False,
                         bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id, **shape)  # fmt: skip
    return LlamaForCausalLM._from_config(config, dtype=dtype)


def never_ends(model, tokenizer) -> None:
    """Set the end-of-sequence token to one that the model has no logit for, so every completion has full length."""
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    never = tokenizer.eos_token_id
    require(never >= model.config.vocab_size, f"the tokenizer has {never} tokens, the model more logits")
    model.generation_config.eos_token_id = never


def write_tasks(data: str, path: Path) -> None:
    """Write the tasks of a file, plain or .gz, as plain JSONL."""
    require(Path(data).is_file(), f"--data {data}: no such task file")
    opener = gzip.open if data.endswith(".gz") else open
    with opener(data, "rt", encoding="utf-8") as lines:
        path.write_text(lines.read(), encoding="utf-8")
    read_tasks(path)


if __name__ == "__main__":
    from common import InputError

    try:
        build(**json.loads(sys.argv[1]) | {"folder": Path(sys.argv[2])})
    except InputError as error:
        sys.exit(f"error: {error}")
