"""A run's folder made up for the tests and the benchmark of report.py: no model, known figures."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"learning_rate": 1e-3, "num_steps": 200, "batch_size": 2, "num_samples": 8, "sft_model": "sft", "seed": 42}

HOSTILE = '</script><!-- <script>alert("1")</script><img src=x onerror=alert(2)>\u2028\u202e\x1b[31m\x00\ud800&lt;'
ROW = {"step": 1, "task_id": "t/1", "completion": "return 1", "status": "pass"}
LOG = [{"step": n, "reward": n / 10, "gen_len": 5} for n in range(1, 11)]


def write_run(folder: Path, log: list[dict], rows: list[dict] | None, method: str = "grpo", **settings) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"args": SETTINGS | settings, "command": f"python train_{method}_lora.py", "versions": {"python": "3.11"}}
    (folder / "run.json").write_text(json.dumps(record))
    for name, lines in ((f"{method}_train_log.jsonl", log), ("completions.jsonl", rows)):
        if lines is not None:
            (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def hostile_run(folder: Path) -> Path:
    names = ("task_id", "completion", "prompt", "status", "reason")
    rows = [ROW | dict.fromkeys(names, HOSTILE) | {"parts": {HOSTILE: 1}} for _ in range(2)]
    return write_run(folder, [line | {HOSTILE: 1} for line in LOG], rows, run_name=HOSTILE, sft_model=HOSTILE)


def synthetic_run(folder: Path, num_rollouts: int = 2000, group: int = 8, num_tasks: int = 60) -> Path:
    """Two groups a step, of the tokens of the pocket tasks' solutions, some cut, some changed; as recorded today."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data" / "pocket_coder")
    tasks = [json.loads(line) for line in (ROOT / "data" / "pocket_train.jsonl").open()][:num_tasks]
    solutions = [tokenizer(task["canonical_solution"], add_special_tokens=False).input_ids for task in tasks]
    chance = random.Random(0)
    steps, rows = -(-num_rollouts // (2 * group)), []
    log = [{"step": 0, "valid_pass_rate": 0.3}]
    for step in range(1, steps + 1):
        skill = step / steps
        log.append({"step": step, "base_reward": skill, "reward": skill - 0.01, "gen_len": 100 - 40 * skill,
                    "entropy": 0.3 - 0.2 * skill, "kl_reference": 0.1 * skill, "cut_off": 0.2 * (1 - skill),
                    "grad_norm": chance.random(), "tied_groups": 0.5})  # fmt: skip
        for n in range(2 * group):
            number = (2 * step + n // group) % num_tasks
            ids = solutions[number] + [chance.randrange(3, 1000) for _ in range(chance.randrange(20, 60))]
            good = chance.random() < skill
            ids = [*(solutions[number] if good else ids), tokenizer.eos_token_id]
            rows.append({
                "step": step, "task_id": tasks[number]["task_id"], "prompt": tasks[number]["prompt"],
                "completion": tokenizer.decode(ids[:-1]), "status": "pass" if good else "fail",
                "reason": "" if good else "AssertionError", "reward": float(good) - len(ids) / 1e4,
                "advantage": chance.gauss(0, 1), "ratio": chance.gauss(1, 0.05), "length": len(ids), "token_ids": ids,
                "logprobs": [-chance.expovariate(3) for _ in ids],
            })  # fmt: skip
    shutil.copy(ROOT / "data" / "pocket_coder" / "tokenizer.json", write_run(folder, log, rows[:num_rollouts]))
    shutil.copy(ROOT / "data" / "pocket_coder" / "tokenizer_config.json", folder)
    return folder
