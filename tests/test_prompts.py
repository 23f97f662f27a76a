"""Levels of prompts and answers in prose, for tasks of either language."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampled import sample

import train_grpo_lora
from common import InputError
from eval_humaneval import stored_sample
from generate_dpo_data import pair_line
from judging.instruct import answer
from judging.pool import Sandbox, Verdict
from judging.quality import quality_measure
from judging.tasks import (
    CURRICULUM,
    VERILOG_STOP_STRINGS,
    candidate_source,
    code_of,
    prompt_variants,
    prose_of,
    read_tasks,
    stop_strings,
    truncate_at_stop,
)
from model.load import load_config, load_tokenizer
from model.sampling import Rollout, encode_prompts
from train_dpo_lora import encode_pairs, read_pairs
from train_sft_lora import encode
from training.sampler import Sampler
from training.samples import Sample

PYTHON = {"task_id": "p", "prompt": 'def add(a, b):\n    """The sum."""\n', "canonical_solution": "    return a + b\n",
          "test": "def check(c):\n    assert c(1, 2) == 3\n", "entry_point": "add",
          "prompt_terse": 'def add(a, b):\n    """+"""\n',
          "prompt_detailed": 'def add(a, b):\n    """Return a + b, a number."""\n'}  # fmt: skip
VERILOG = {"task_id": "v", "language": "verilog", "prompt": "// y = a\nmodule pass (\n    input a,\n    output y\n);\n",
           "canonical_solution": "    assign y = a;\nendmodule\n", "test": "module tb; endmodule",
           "top_module": "pass"}  # fmt: skip
RIGHT = "It adds both.\n\n```python\ndef add(a, b):\n    return a + b\n```\nThat is all. ```not this```\n"


def write(path: Path, *tasks) -> str:
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return str(path)


def test_a_level_is_the_prompt_of_that_name(tmp_path):
    path = write(tmp_path / "t.jsonl", PYTHON)
    assert read_tasks(path)[0]["prompt"] == read_tasks(path, "curriculum")[0]["prompt"] == PYTHON["prompt"]
    assert read_tasks(path, "terse")[0]["prompt"] == PYTHON["prompt_terse"]
    path = write(tmp_path / "u.jsonl", VERILOG)
    for level in ("terse", "curriculum"):
        with pytest.raises(InputError, match=rf"u.jsonl:1: task has no text field 'prompt_\w+', .* {level} needs"):
            read_tasks(path, level)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (VERILOG | {"language": "vhdl"}, "language 'vhdl': want python or verilog"),
        (VERILOG | {"explanation": None}, "explanation is not text"),
        (VERILOG | {"top_module": "a; b"}, "is no module's name"),
        ({k: v for k, v in VERILOG.items() if k != "top_module"}, "has no text field 'top_module'"),
        (PYTHON | {"task_id": "q"}, "has tasks in python and verilog; make a file of each"),
    ],
)
def test_what_is_no_verilog_task_is_refused(tmp_path, task, says):
    with pytest.raises(InputError, match="t.jsonl") as error:
        read_tasks(write(tmp_path / "t.jsonl", VERILOG, task | {"task_id": "other"}))
    assert says in str(error.value)


@given(st.integers(1, 30), st.floats(0.1, 5), st.integers(0, 400))
def test_a_curriculum_goes_through_its_levels_once(count, epochs, number):
    sampler = Sampler.__new__(Sampler)
    sampler.tasks = [PYTHON] * count
    sampler.variants = prompt_variants(sampler.tasks, "curriculum")
    sampler.args = train_grpo_lora.Args(curriculum_epochs=epochs)
    assert [task["prompt"] for task in sampler.variants[::count]] == [
        PYTHON["prompt_detailed"], PYTHON["prompt"], PYTHON["prompt_terse"]
    ]  # fmt: skip
    level = sampler.level(number)
    assert 0 <= level <= sampler.level(number + 1) <= len(CURRICULUM) - 1
    assert level == len(CURRICULUM) - 1 or level <= number / (count * epochs) < level + 1
    sampler.variants = prompt_variants(sampler.tasks, "normal")
    assert sampler.level(number) == 0 and sampler.variants == sampler.tasks


@pytest.mark.parametrize("style", ["template", "headings"])
def test_a_question_is_put_in_the_chat_template_or_under_headings(pocket, style):
    tokenizer = load_tokenizer(pocket)
    if style == "template":
        tokenizer.chat_template = (
            "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"
        )
    (ids,) = encode_prompts(tokenizer, [PYTHON | {"instruct": True}], 500)
    text = tokenizer.decode(ids)
    assert ids.count(tokenizer.bos_token_id) == 1 and f"```python\n{PYTHON['prompt'].rstrip()}\n```" in text
    assert text.endswith("<answer>" if style == "template" else "### Response:\n")
    assert "Complete this Verilog module" in tokenizer.decode(
        encode_prompts(tokenizer, [VERILOG | {"instruct": True}], 500)[0]
    )


def test_what_is_learnt_is_explanation_block_and_eos(pocket):
    tokenizer = load_tokenizer(pocket)
    task = PYTHON | {"instruct": True, "explanation": "It adds."}
    example = encode(tokenizer, task, 500)
    solution = [label for label in example["labels"] if label != -100]
    assert solution[-1] == tokenizer.eos_token_id
    text = tokenizer.decode(solution[:-1])
    assert text == 'It adds.\n\n```python\ndef add(a, b):\n    """The sum."""\n    return a + b\n```'
    assert prose_of(text) == "It adds." and code_of(task, text) in text
    assert answer(PYTHON) == PYTHON["canonical_solution"]


def test_the_block_is_what_is_judged():
    task = PYTHON | {"instruct": True}
    with Sandbox(num_workers=1) as sandbox:
        assert sandbox.check(task, RIGHT).passed
        assert sandbox.check(task, answer(task)).passed
        assert not sandbox.check(task, RIGHT.replace("a + b", "a - b")).passed
        assert not sandbox.check(task, "    return a + b\n").passed  # no block, no program
        assert not sandbox.check(PYTHON, RIGHT).passed
        assert sandbox.check(task, RIGHT.partition("\n```\nThat")[0]).passed  # cut off before the fence


@given(st.text(), st.text(alphabet="abc \n"), st.text())
def test_a_fenced_program_is_found_whatever_stands_around_it(before, program, after):
    text = before.replace("`", "'") + "\n```verilog\n" + program + "\n```\n" + after
    assert code_of({"instruct": True}, text) == program + "\n"
    assert code_of({}, text) == text


def test_the_flag_says_whether_answers_are_in_prose_and_not_the_file(tmp_path):
    path = write(tmp_path / "t.jsonl", PYTHON | {"instruct": "no"})
    assert "instruct" not in read_tasks(path)[0] and read_tasks(path, instruct=True)[0]["instruct"] is True
    fences = "I write ```x``` here.\n" + RIGHT
    assert code_of({"instruct": True}, fences) == code_of({"instruct": True}, RIGHT)


GOOD = "def add(a, b):\n    return a + b"
FENCES = {
    "behind prose": f"Here is the code: ```python\n{GOOD}\n```\nThis returns the sum.",
    "closed in the last line of code": f"```python\n{GOOD}```\nIt adds one to the other.",
    "both": f"Sure. ~~~py\n{GOOD}~~~\nDone.",
    "a stub after it": f"```python\n{GOOD}\n```\nIts form is\n```python\ndef add(a, b): ...\n```",
    "a stub with a docstring": f"```python\n{GOOD}\n```\n```python\ndef add(a, b):\n    \"The sum.\"\n    pass\n```",
    "postponed annotations": "```python\nfrom __future__ import annotations\n\n\ndef add(a: int, b) -> int:\n"
                             "    return a + b\n```",
}  # fmt: skip


@pytest.mark.parametrize("text", FENCES.values(), ids=FENCES)
def test_a_right_program_is_found_in_what_chat_models_write(text):
    task = PYTHON | {"instruct": True, "prompt": "import math\n\n\n" + PYTHON["prompt"]}
    with Sandbox(num_workers=1) as sandbox:
        assert sandbox.check(task, text).passed


@pytest.mark.parametrize("code", ["x = '```'\n", "# ends with ```\n", 's = """\n```\n"""\n'])
def test_a_fence_in_a_string_or_a_comment_closes_nothing(code):
    code += GOOD + "\n"
    assert code_of({"instruct": True, "entry_point": "add"}, f"```python\n{code}```\n") == code


def test_a_block_with_the_most_of_the_functions_that_are_called_is_the_program():
    task = {"instruct": True, "prompt": "", "test_list": ["assert chain([Pair(5, 24)], 1) == 1"]}
    whole = "class Pair: pass\ndef chain(a, n): return n\n"
    text = f"```python\n{whole}```\nwhere\n```python\nclass Pair: pass\n```\n"
    assert code_of(task, text) == whole


def test_a_whole_program_is_as_clean_as_its_lines():
    """An answer defines the prompt's function again, and imports again: it was asked to."""
    task = PYTHON | {"prompt": "import math\n\n" + PYTHON["prompt"]}
    code = "import math\n\n\ndef add(a, b):\n    return math.floor(a + b)\n"
    measure = quality_measure()
    assert measure([(task | {"instruct": True}, code)]) == [1.0] and measure([(task, code)])[0] < 1.0


def test_a_whole_module_stands_for_itself():
    whole = VERILOG["prompt"] + VERILOG["canonical_solution"]
    assert candidate_source(VERILOG, whole) == whole
    body = VERILOG["canonical_solution"]
    assert candidate_source(VERILOG, body) == VERILOG["prompt"] + body
    cut = VERILOG | {"prompt": VERILOG["prompt"].rstrip() + " // in a line"}
    assert candidate_source(cut, body) == cut["prompt"] + "\n" + body
    for header in ("(* keep *) module pass(", "module\n  pass (", "module /* mine */ pass("):
        assert candidate_source(VERILOG, f"{header}input a, output y);\n{body}").startswith(header)
    assert candidate_source(VERILOG, "// module pass\n" + body).startswith(VERILOG["prompt"])
    other = body + "module passing; endmodule\n"
    assert candidate_source(VERILOG, other).startswith(VERILOG["prompt"])


HEADERS = ['def add(a, b):\n    """The sum."""\n', 'def add(a, b):\n    """The sum."""', "def add(a, b):\n",
           "def add(a, b):\n    ", "def add(a, b): ", "@cache\ndef add(\n    a, b"]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
def test_a_whole_function_follows_any_prompt(header):
    """It uses what stands above the header. As a stored program it follows any prompt but one cut off in brackets."""
    task = PYTHON | {"instruct": True, "prompt": "from functools import cache\n\nZERO = 0\n\n\n" + header}
    whole = "```python\ndef add(a, b):\n    return a + b + ZERO\n```"
    with Sandbox(num_workers=1) as sandbox:
        assert sandbox.check(task, whole).passed
        assert "(line 2 of the completion)" in sandbox.check(task, whole.replace("ZERO", "[]")).reason
        own = {name: value for name, value in task.items() if name != "instruct"}
        assert sandbox.check(own, stored_sample(task, whole)["completion"]).passed == (not header.endswith("a, b"))
        if header.endswith("\n"):
            assert sandbox.check(task, "```\n    return a + b\n```").passed  # its body alone


def test_verilog_is_cut_behind_endmodule_and_prose_nowhere():
    assert stop_strings(VERILOG) == VERILOG_STOP_STRINGS and stop_strings(VERILOG | {"instruct": True}) == ()
    body = "    assign y = a;\nendmodule"
    assert truncate_at_stop(body + "\nmodule tb; endmodule", VERILOG_STOP_STRINGS) == body
    assert truncate_at_stop(RIGHT, ()) == RIGHT


def test_endmodule_ends_a_completion_and_is_trained_on(pocket_policy, monkeypatch):
    """With --stop_at_strings; the tokens up to it are kept, and the text has it."""
    model, tokenizer = pocket_policy
    wanted = tokenizer("    assign y = a;\nendmodule\nmodule", add_special_tokens=False).input_ids
    steps = iter(wanted)
    monkeypatch.setattr(
        "model.sampling._draw", lambda logits, *_, **__: (torch.tensor([next(steps)]), torch.tensor([-1.0]))
    )
    (rollout,) = sample(model, tokenizer, [[0, 5]], max_new_tokens=len(wanted), temperature=1.0,
                        stops=[VERILOG_STOP_STRINGS])  # fmt: skip
    assert rollout.ended and rollout.text == "    assign y = a;\nendmodule"
    assert rollout.token_ids == wanted[: len(rollout.token_ids)]


def test_grpo_in_prose_on_python(tmp_path, start, pocket):
    """The prompts are questions; the model, which never saw one, earns nothing and nothing breaks."""
    path = write(tmp_path / "t.jsonl", PYTHON, PYTHON | {"task_id": "q"})
    args = train_grpo_lora.Args(train_path=path, sft_model=start, output_dir=str(tmp_path / "o"), max_length=300,
                                max_new_tokens=8, num_steps=1, batch_size=2, num_samples=2, instruct=True,
                                prompt_level="terse")  # fmt: skip
    train_grpo_lora.main(args)
    (step,) = [json.loads(line) for line in open(tmp_path / "o" / "grpo_train_log.jsonl")]
    assert step["base_reward"] == 0 and step["epoch"] == 1.0


def test_pairs_of_questions_can_be_trained_on(tmp_path, pocket):
    """Their prompt's ids are of the chat template; the task's own text would give others."""
    tokenizer, task = load_tokenizer(pocket), PYTHON | {"instruct": True}
    (prompt_ids,) = encode_prompts(tokenizer, [task], 500)
    right, wrong = (
        Sample(task, 0, Rollout(0, prompt_ids, ids, [-1.0] * len(ids), True, "text"), Verdict(status, ""))
        for ids, status in (([5, 6, 1], "pass"), ([5, 7, 1], "fail"))
    )
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair_line(right, wrong, "failing")) + "\n")
    pairs = read_pairs(path)
    encode_pairs(pairs, tokenizer, load_config(pocket))
    assert (pairs[0].prompt_ids, pairs[0].chosen_ids, pairs[0].rejected_ids) == (prompt_ids, [5, 6, 1], [5, 7, 1])
