"""Pretrain data/pocket_verilog_coder, the embedded model for Verilog, from scratch.

    python data/make_pocket_verilog_coder.py

Architecture and training are those of `make_pocket_coder.py`. The corpus is code of the pocket Verilog world in many
styles: often subtly wrong, sometimes explained, and more than half of it continuing after the module. It holds no
circuit of the validation or test split, and none that computes the same.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the judge, for --slips

from make_pocket_coder import arguments, pretrain, save, train_tokenizer
from make_pocket_verilog_tasks import LEVELS, make_task, problem_of, split_circuits
from pocket_verilog_code import STYLES, sloppy_code, write_body
from pocket_verilog_grammar import MODULE, Circuit, describe
from verilog_testbench import header

RAMBLE_RATE = 0.55  # files that continue after the module
WORDY_RATE = 0.3


def corpus(pool: list[Circuit], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Yield files without end, each as a prompt and the text that follows it."""
    weights = list(accumulate(circuit.weight for circuit in pool))
    while True:
        (circuit,) = rng.choices(pool, cum_weights=weights)
        prompt, completion = module(circuit, rng)
        while rng.random() < RAMBLE_RATE:
            completion += ramble(rng.choices(pool, cum_weights=weights)[0], rng)
        yield prompt, completion


def module(circuit: Circuit, rng: random.Random) -> tuple[str, str]:
    """Write description and header, and a body in which any piece may be wrong."""
    body = write_body(circuit, sloppy_code(circuit, rng), rng.choice(list(STYLES)), rng.random() < WORDY_RATE)
    return describe(circuit, rng.choice(list(LEVELS.values()))) + header(problem_of(circuit, body)), body


def ramble(other: Circuit, rng: random.Random) -> str:
    """Write what people leave after a module: a testbench, a stray line, prose, or another module of the same name."""
    kind = rng.randrange(4)
    if kind == 0:
        return f'\nmodule tb;\n    {MODULE} dut ();\n    initial $display("done");\nendmodule\n'
    if kind == 1:
        return f"\n// end of {MODULE}\nendmodule\n"
    if kind == 2:
        return f"\n```\nThe module {MODULE} is done.\n"
    return "\n" + "".join(module(other, rng))


def share_of_wrong_bodies(pool: list[Circuit], rng: random.Random, count: int = 1000) -> float:
    from judging.verilog.pool import VerilogSandbox

    drawn = rng.choices(pool, [circuit.weight for circuit in pool], k=count)
    with VerilogSandbox() as sandbox:
        verdicts = sandbox.check_many((make_task(circuit, "", 0), module(circuit, rng)[1]) for circuit in drawn)
    return sum(not verdict.passed for verdict in verdicts) / count


def main() -> None:
    args = arguments(__doc__, "pocket_verilog_coder", 6_000_000)
    _, pool = split_circuits()
    rng = random.Random(args.seed)
    if args.slips:
        print(f"{share_of_wrong_bodies(pool, rng):.0%} of 1,000 bodies of the corpus are wrong")
        return
    files = corpus(pool, rng)
    tokenizer = train_tokenizer([next(files) for _ in range(6000)])
    save(pretrain(tokenizer, corpus(pool, random.Random(args.seed)), args), tokenizer, args)


if __name__ == "__main__":
    main()
