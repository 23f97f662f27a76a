"""Pretrain data/pocket_coder, the embedded default model, from scratch.

    python data/make_pocket_coder.py

The corpus is code of the pocket world in many styles, most of it wrong: most pieces of the grammar have a misconception
that is written more often than the right piece (`pocket_code.py`). Some of it is wordy, and a tenth continues after the
function. So the model starts out knowing how to write, and wrong about most pieces. The corpus holds no composition of
the validation or test split, and none that behaves like one.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from make_pocket_tasks import right_function, split_compositions, write_prompt
from pocket_code import call, compile_body, sloppy_code, write_body
from pocket_grammar import Composition, draw_arguments
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 1024
CONTEXT = 384  # tokens in a training row; the longest prompt takes about 130
EXAMPLES_RATE = 0.6  # docstrings that keep their doctest examples
RAMBLE_RATE = 0.1  # files that continue after the function
STYLE_WEIGHTS = {"short": 3, "loop": 4, "collect": 3, "steps": 2}
WORDY_RATE = 0.3


def write_file(pool: list[Composition], rng: random.Random) -> tuple[str, str]:
    """Write one file of the corpus, as a prompt and the text that follows it."""
    composition = rng.choice(pool)
    completion = _sloppy_body(composition, rng)
    while rng.random() < RAMBLE_RATE:
        completion += _ramble(composition, pool, rng)
    return _prompt(composition, rng), completion


def _prompt(composition: Composition, rng: random.Random) -> str:
    prompt = write_prompt(composition, rng)
    if rng.random() < EXAMPLES_RATE:
        return prompt
    return prompt[: prompt.index("\n\n    >>>")] + '"""\n'


def _sloppy_body(composition: Composition, rng: random.Random) -> str:
    style = rng.choices(composition.styles, [STYLE_WEIGHTS[style] for style in composition.styles])[0]
    return write_body(composition, sloppy_code(composition, rng), style, rng.random() < WORDY_RATE)


def _ramble(composition: Composition, pool: list[Composition], rng: random.Random) -> str:
    calls = "".join(
        f"print({composition.function_name}({', '.join(map(repr, draw_arguments(composition.source, rng)))}))\n"
        for _ in range(rng.randint(1, 3))
    )
    kind = rng.randrange(4)
    if kind == 0:
        return f"\n\n{calls}"
    if kind == 1:
        return f"\n\n# Test the function\n{calls}"
    if kind == 2:
        return f"\n\nif __name__ == '__main__':\n    {calls.splitlines()[0]}\n"
    other = rng.choice(pool)
    return f"\n\n{_prompt(other, rng)}{_sloppy_body(other, rng)}"


def share_of_wrong_bodies(pool: list[Composition], rng: random.Random, count: int = 2000) -> float:
    wrong = 0
    for composition in rng.choices(pool, k=count):
        function = compile_body(composition, _sloppy_body(composition, rng))
        inputs = [*composition.source.edges, *(draw_arguments(composition.source, rng) for _ in range(20))]
        right = right_function(composition)
        wrong += any(call(function, arguments) != call(right, arguments) for arguments in inputs)
    return wrong / count


def train_tokenizer(files: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which each digit is a token, and a text begins with BOS, as in DeepSeek's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for file in files for text in file), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>"
    )


def corpus(pool: list[Composition], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield files of the corpus without end."""
    while True:
        yield write_file(pool, rng)


def token_rows(files: Iterator[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """Yield rows of CONTEXT token ids, with files joined end to end.

    Prompt and completion are tokenised separately, as in later training.
    """
    buffer: list[int] = []
    for prompt, completion in files:
        buffer += tokenizer(prompt).input_ids
        buffer += tokenizer(completion, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        while len(buffer) >= CONTEXT:
            yield buffer[:CONTEXT]
            buffer = buffer[CONTEXT:]


def pretrain(
    tokenizer: PreTrainedTokenizerFast, files: Iterator[tuple[str, str]], args: argparse.Namespace
) -> LlamaForCausalLM:
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    rows = token_rows(files, tokenizer)
    num_steps = args.tokens // (args.batch_size * CONTEXT)
    started = time.perf_counter()
    for step in range(num_steps):
        warm = min(1.0, (step + 1) / 50)
        cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
        optimizer.param_groups[0]["lr"] = args.learning_rate * warm * (0.05 + 0.95 * cosine)
        batch = torch.tensor([next(rows) for _ in range(args.batch_size)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == num_steps - 1:
            seen = (step + 1) * args.batch_size * CONTEXT
            rate = seen / (time.perf_counter() - started)
            print(f"step {step + 1}/{num_steps}  loss {loss.item():.3f}  {rate:,.0f} tokens/s", flush=True)
    return model


def arguments(description: str | None, output_dir: str, tokens: int) -> argparse.Namespace:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=here / output_dir, help="folder to write the model to")
    parser.add_argument("--tokens", type=int, default=tokens, help="tokens to train on")
    parser.add_argument("--batch_size", type=int, default=16, help="rows per step")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="peak of the cosine schedule")
    parser.add_argument("--seed", type=int, default=42, help="seed of weights and corpus")
    parser.add_argument(
        "--slips", action="store_true", help="print the share of wrong bodies in the corpus, train nothing"
    )
    return parser.parse_args()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> None:
    model.to(torch.bfloat16).save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    settings = {key: value for key, value in vars(args).items() if key not in ("output_dir", "slips")}
    record = {**settings, "parameters": model.num_parameters(), "torch": torch.__version__}
    (args.output_dir / "pretraining.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{args.output_dir}: {model.num_parameters():,} parameters")


def main() -> None:
    args = arguments(__doc__, "pocket_coder", 16_000_000)
    _, pool = split_compositions()
    rng = random.Random(args.seed)
    if args.slips:
        print(f"{share_of_wrong_bodies(pool, rng):.0%} of 2,000 bodies of the corpus are wrong on some input")
        return
    tokenizer = train_tokenizer([write_file(pool, rng) for _ in range(6000)])
    save(pretrain(tokenizer, corpus(pool, random.Random(args.seed)), args), tokenizer, args)


if __name__ == "__main__":
    main()
