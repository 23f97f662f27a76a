"""Tokenizers of every kind that models come with: text goes in and out as it is, or the run says why not."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from tokenizer_kinds import (
    KINDS,
    lossy,
    memorise,
    save_model,
    sentencepiece,
    with_tokens_that_the_model_has_not,
    without_end,
)
from transformers import AutoTokenizer, GenerationConfig

import eval_humaneval
import generate_dpo_data
import train_dpo_lora
import train_grpo_lora
import train_rl_lora
import train_sft_lora
from common import InputError
from judging.tasks import MBPP_STOP_STRINGS, STOP_STRINGS, read_tasks
from model.load import add_lora, load_policy, load_tokenizer, save_adapter
from model.sampling import Ends, encode_prompts, text_of
from model.tokens import check_round_trip, completion_ids, completion_text, prompt_ids
from reporting.rollouts import pieces

CPU = torch.device("cpu")
PIECES = [kind for kind in KINDS if "SentencePiece" in kind]
REAL = sorted(Path(os.environ["REAL_MODELS"]).iterdir()) if os.environ.get("REAL_MODELS") else []


@pytest.fixture(scope="session", params=[*KINDS, "deepseek", *(folder.name for folder in REAL)])
def tokenizer(request):
    """As `load_tokenizer` gives it; one without EOS has the generation config's."""
    if request.param in KINDS:
        made = KINDS[request.param]()
        made.eos_token = made.eos_token or "<|endoftext|>"
        return made
    if request.param == "deepseek":
        return AutoTokenizer.from_pretrained(request.getfixturevalue("deepseek"))
    (folder,) = [folder for folder in REAL if folder.name == request.param]
    return AutoTokenizer.from_pretrained(folder)


# text behind its prompt


def test_humanevals_references_come_back_as_they_are(tokenizer, humaneval):
    for task in humaneval:
        prompt = prompt_ids(tokenizer, task["prompt"])
        ids = completion_ids(tokenizer, prompt, task["canonical_solution"])
        assert completion_text(tokenizer, prompt, ids) == task["canonical_solution"]
    check_round_trip(tokenizer, humaneval, [prompt_ids(tokenizer, task["prompt"]) for task in humaneval])


def test_so_do_pockets_in_prose_and_out_of_it(tokenizer):
    for instruct in (False, True):
        for path in ("data/pocket_valid.jsonl", "data/pocket_verilog_valid.jsonl"):
            tasks = read_tasks(path, instruct=instruct)[:40]
            encode_prompts(tokenizer, tasks, 2000)  # raises if one does not


@pytest.mark.parametrize("kind", ["SentencePiece", "SentencePiece, legacy", "SentencePiece by a normaliser"])
def test_alone_a_body_loses_a_space_or_gets_one_more(kind):
    """What the tests above are about."""
    tokenizer, task = KINDS[kind](), read_tasks("data/pocket_train.jsonl")[0]
    prompt = prompt_ids(tokenizer, task["prompt"])
    ids = completion_ids(tokenizer, prompt, task["canonical_solution"])
    assert tokenizer.decode(ids) == task["canonical_solution"][1:]
    alone = tokenizer(task["canonical_solution"], add_special_tokens=False).input_ids
    more = " " * ("normaliser" in kind)
    assert completion_text(tokenizer, prompt, alone) == more + task["canonical_solution"]


def test_a_completion_in_unicode_and_one_that_begins_anywhere(tokenizer):
    for prompt in ("def f():\n", "def f(): return", "x = ", "x = '"):
        before = prompt_ids(tokenizer, prompt)
        for text in ("    return 'ä€😀'\n", " 1", "a'\n", "\n\n    x", "\tpass", "(", ""):
            assert completion_text(tokenizer, before, completion_ids(tokenizer, before, text)) == text


def test_spaces_before_punctuation_stay(tmp_path):
    """Some tokenizers are saved with a setting that takes them out when text is decoded."""
    made = AutoTokenizer.from_pretrained(ROOT / "data" / "pocket_coder", clean_up_tokenization_spaces=True)
    name = save_model(tmp_path / "model", made)
    tokenizer = load_tokenizer(name)
    prompt = prompt_ids(tokenizer, "x = ")
    assert completion_text(tokenizer, prompt, completion_ids(tokenizer, prompt, "[1 , 2 ] . n 't")) == "[1 , 2 ] . n 't"


def test_what_a_tokenizer_loses_stops_the_run_with_the_first_difference(tmp_path):
    tokenizer, task = lossy(), read_tasks("data/pocket_train.jsonl")[0]
    with pytest.raises(
        InputError, match=r"changes its solution: it is written '    .*' and read '.*'; use the tokenizer"
    ):
        encode_prompts(tokenizer, [task], 1000)
    with pytest.raises(InputError, match=f"{task['task_id']}: encoding and decoding changes"):
        train_sft_lora.encode(tokenizer, task, 1000)


# stop strings


@pytest.mark.parametrize("kind", PIECES)
def test_a_stop_string_ends_a_completion_where_the_cut_text_does(kind):
    tokenizer = KINDS[kind]()
    prompt = prompt_ids(tokenizer, "def f(x):\n")
    for text, stops in (("    return x\n\nprint(f(1))\n", STOP_STRINGS), ("    return x\ndef g():\n", STOP_STRINGS),
                        ("def f(x):\n    return x\n\n\nassert f(1)", MBPP_STOP_STRINGS)):  # fmt: skip
        ids = completion_ids(tokenizer, prompt, text)
        ends = Ends(tokenizer, {2}, [prompt], [stops])
        length = next(n for n in range(1, len(ids) + 1) if ends.length(0, ids[:n], n - 1))
        cut = text_of(tokenizer, prompt, ids[:length], {2}, stops)
        assert cut == text_of(tokenizer, prompt, ids, {2}, stops) and text.startswith(cut) and cut != text
        assert not any(stop in completion_text(tokenizer, prompt, ids[: length - 1]) for stop in stops)


def test_a_prompts_own_end_is_no_stop_string():
    tokenizer = sentencepiece()
    prompt = prompt_ids(tokenizer, "import re\n")
    ids = completion_ids(tokenizer, prompt, "def f():\n    return 1\n")
    ends = Ends(tokenizer, {2}, [prompt], [STOP_STRINGS])  # "\ndef" is one, and begins in the prompt
    assert not any(ends.length(0, ids[:n], n - 1) for n in range(1, len(ids) + 1))


def test_the_report_shows_a_completion_as_it_is(tokenizer):
    prompt = prompt_ids(tokenizer, "def f(x):\n")
    text = "    y = 'ä'\n    return y\n"
    ids = completion_ids(tokenizer, prompt, text)
    context = prompt[-8:]
    found = pieces(lambda some: tokenizer.decode(list(some)), [*context, *ids])[len(context) :]
    assert "".join(found) == text and len(found) == len(ids)


# special tokens


@pytest.mark.parametrize("kind", PIECES)
def test_a_prompt_has_what_stands_before_it_and_nothing_behind(kind):
    tokenizer = KINDS[kind]()
    ids = prompt_ids(tokenizer, "def f():\n")
    assert (tokenizer("x").input_ids[-1] == tokenizer.eos_token_id) == ("EOS" in kind)
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids
    task = read_tasks("data/pocket_train.jsonl")[0]
    example = train_sft_lora.encode(tokenizer, task, 2000)
    assert example["input_ids"].count(tokenizer.eos_token_id) == 1 == example["input_ids"].count(tokenizer.bos_token_id)
    assert example["input_ids"][-1] == tokenizer.eos_token_id
    prompt = prompt_ids(tokenizer, task["prompt"])
    assert example["labels"][: len(prompt) + 1] == [-100] * len(prompt) + [example["input_ids"][len(prompt)]]
    assert encode_prompts(tokenizer, [task], 2000) == [prompt]


def test_the_generation_config_may_name_the_eos(tmp_path):
    name = save_model(tmp_path / "model", without_end(), eos_id=None)
    with pytest.raises(InputError, match="no EOS: neither its tokenizer nor its generation config .* eos_token in"):
        load_tokenizer(name)
    GenerationConfig(eos_token_id=[1, 2]).save_pretrained(name)
    tokenizer = load_tokenizer(name)
    assert tokenizer.eos_token_id == 1 == tokenizer.pad_token_id


# the model and the tokenizer


@pytest.fixture(scope="module")
def mismatched(tmp_path_factory, pocket) -> str:
    """An adapter over a model with fewer embeddings than its tokenizer has tokens."""
    folder = tmp_path_factory.mktemp("models")
    base = save_model(folder / "base", with_tokens_that_the_model_has_not(), max_position_embeddings=200)
    save_adapter(add_lora(load_policy(base, CPU), 4, 8, 0.0), AutoTokenizer.from_pretrained(base), folder / "adapter")
    return str(folder / "adapter")


def scripts(tmp_path, model, path, **sizes):
    """Every script that reads tasks or pairs, by name."""
    common = {"train_path": path, "output_dir": str(tmp_path / "out")}
    sizes = {"max_length": 384, "max_new_tokens": 8} | sizes
    pairs = tmp_path / "pairs.jsonl"
    (task, *_) = read_tasks(path)
    pair = {"prompt": task["prompt"], "chosen": task["canonical_solution"], "rejected": "    pass\n"}
    pairs.write_text(json.dumps(pair) + "\n")
    base = json.loads((Path(model) / "adapter_config.json").read_text())["base_model_name_or_path"]
    results = str(tmp_path / "results")
    return {
        "sft": lambda: train_sft_lora.main(train_sft_lora.Args(**common, model_name=base, max_length=900, max_steps=1)),
        "rl": lambda: train_rl_lora.main(train_rl_lora.Args(**common, **sizes, sft_model=model, num_steps=1)),
        "grpo": lambda: train_grpo_lora.main(train_grpo_lora.Args(**common, **sizes, sft_model=model, num_steps=1)),
        "pairs": lambda: generate_dpo_data.main(generate_dpo_data.Args(
            train_path=path, sft_model=model, output_path=str(tmp_path / "made.jsonl"), **sizes)),
        "dpo": lambda: train_dpo_lora.main(train_dpo_lora.Args(**common | {"train_path": str(pairs)}, sft_model=model)),
        "eval": lambda: eval_humaneval.main(eval_humaneval.Args(
            data_path=path, model_path=model, exp_name="x", results_dir=results, **sizes)),
    }  # fmt: skip


@pytest.fixture
def no_weights(monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))


@pytest.mark.parametrize("script", ["sft", "rl", "grpo", "pairs", "dpo", "eval"])
def test_ids_beyond_the_embedding_are_one_line_at_the_start(mismatched, tmp_path, no_weights, script):
    task = json.loads((ROOT / "data" / "pocket_train.jsonl").read_text().splitlines()[0])
    task["prompt"] = task["prompt"].replace('"""', '"""<extra_3> ', 1)
    (tmp_path / "t.jsonl").write_text(json.dumps(task) + "\n")
    with pytest.raises(InputError, match="token id 1027, and the model has 1024 embeddings"):
        scripts(tmp_path, mismatched, str(tmp_path / "t.jsonl"))[script]()


@pytest.mark.parametrize("script", ["sft", "rl", "grpo", "pairs", "dpo", "eval"])
def test_positions_beyond_the_model_are_one_line_at_the_start(mismatched, tmp_path, no_weights, script):
    task = json.loads((ROOT / "data" / "pocket_train.jsonl").read_text().splitlines()[0])
    task["canonical_solution"] = "    x = 1\n" * 60 + task["canonical_solution"]
    (tmp_path / "t.jsonl").write_text(json.dumps(task) + "\n")
    run = scripts(tmp_path, mismatched, str(tmp_path / "t.jsonl"), max_length=900, max_new_tokens=180)[script]
    with pytest.raises(InputError, match="tokens, and the model has 200 positions; lower"):
        run()


def test_tokens_that_no_task_uses_do_no_harm(mismatched, tmp_path, tasks_path):
    scripts(tmp_path, mismatched, tasks_path, max_length=150)["eval"]()


# chat templates


def test_the_adapters_own_template_is_asked_by(tmp_path, mismatched, capsys):
    task = read_tasks("data/pocket_train.jsonl", instruct=True)[0]
    (Path(mismatched) / "chat_template.jinja").write_text("<Q>{{ messages[0]['content'] }}<A>")
    try:
        tokenizer = load_tokenizer(mismatched)
        (ids,) = encode_prompts(tokenizer, [task], 2000)
        text = tokenizer.decode(ids)
        assert (
            text.startswith("<Q>")
            and text.endswith("<A>")
            and f"chat template: {mismatched}" in capsys.readouterr().out
        )
    finally:
        (Path(mismatched) / "chat_template.jinja").unlink()
    (ids,) = encode_prompts(load_tokenizer(mismatched), [task], 2000)
    assert "<Q>" not in tokenizer.decode(ids)


# the whole way


@pytest.mark.parametrize("kind", ["SentencePiece by a normaliser",
                                  pytest.param("SentencePiece with EOS", marks=pytest.mark.slow)])  # fmt: skip
def test_a_memorised_model_solves_what_it_was_told(kind, tmp_path, pocket):
    """The evaluation of a model whose tokenizer drops a first space: 4 of 4, where it was 0 of 4."""
    tokenizer, tasks = KINDS[kind](), read_tasks("data/pocket_train.jsonl")[:4]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    name = save_model(tmp_path / "model", tokenizer)
    rows = []
    for task in tasks:
        prompt = prompt_ids(tokenizer, task["prompt"])
        rows.append((prompt, [*completion_ids(tokenizer, prompt, task["canonical_solution"]), tokenizer.eos_token_id]))
    memorise(name, rows)
    eval_humaneval.main(eval_humaneval.Args(data_path=str(tmp_path / "t.jsonl"), model_path=name, exp_name="memorised",
                                            results_dir=str(tmp_path), max_length=400, max_new_tokens=150))  # fmt: skip
    metrics = json.loads((tmp_path / "memorised_metrics.json").read_text())
    assert metrics["num_pass"] == 4 and metrics["cut_off"] == 0
