import json

import pytest
import torch
from sampled import sample

import train_sft_lora
from common import InputError
from judging.tasks import read_tasks
from model.load import load_policy, load_tokenizer
from model.sampling import encode_prompts
from train_sft_lora import Args, encode


@pytest.fixture(scope="module")
def few_tasks(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "few.jsonl"
    lines = open("data/pocket_train.jsonl").read().splitlines()[:4]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_only_the_solution_and_its_eos_carry_loss(pocket):
    tokenizer = load_tokenizer(pocket)
    task = read_tasks("data/pocket_train.jsonl")[0]
    example = encode(tokenizer, task, 384)
    prompt = tokenizer(task["prompt"]).input_ids
    assert example["input_ids"][: len(prompt)] == prompt  # the ids that sampling starts from
    assert example["labels"][: len(prompt)] == [-100] * len(prompt)
    assert example["labels"][len(prompt) :] == example["input_ids"][len(prompt) :]
    assert tokenizer.decode(example["labels"][len(prompt) : -1]) == task["canonical_solution"]
    assert example["labels"][-1] == tokenizer.eos_token_id
    with pytest.raises(InputError, match="more than --max_length 20"):
        encode(tokenizer, task, 20)


@pytest.mark.slow
def test_it_overfits_a_handful_to_the_canonical_solutions(pocket, few_tasks, tmp_path):
    out = tmp_path / "sft"
    train_sft_lora.main(
        Args(train_path=few_tasks, model_name=pocket, output_dir=str(out), num_train_epochs=60, learning_rate=5e-3,
             per_device_train_batch_size=4, gradient_accumulation_steps=1, lora_dropout=0.0)
    )  # fmt: skip
    log = [json.loads(line) for line in (out / "sft_train_log.jsonl").read_text().splitlines()]
    assert log[-2]["loss"] < 0.02
    tasks = read_tasks(few_tasks)
    tokenizer = load_tokenizer(str(out))
    model = load_policy(str(out), torch.device("cpu"))
    rollouts = sample(model, tokenizer, encode_prompts(tokenizer, tasks, 256), max_new_tokens=128, temperature=0.0)
    assert [r.text for r in rollouts] == [task["canonical_solution"] for task in tasks]
    assert all(r.ended for r in rollouts)
    assert json.loads((out / "run.json").read_text())["args"]["learning_rate"] == 5e-3


@pytest.mark.parametrize(("settings", "steps"), [({"num_train_epochs": 3}, 6), ({"max_steps": 1}, 1)])
def test_epochs_are_honoured_unless_steps_are_given(pocket, few_tasks, tmp_path, settings, steps):
    out = tmp_path / "sft"
    train_sft_lora.main(
        Args(train_path=few_tasks, model_name=pocket, output_dir=str(out), per_device_train_batch_size=1,
             gradient_accumulation_steps=2, **settings)
    )  # fmt: skip
    assert json.loads((out / "sft_train_log.jsonl").read_text().splitlines()[-1])["step"] == steps
