"""What a task with `instruct` asks a chat model for, and the reference answer in the same form."""

from __future__ import annotations

from judging.tasks import Task, is_program, is_verilog


def instruction(task: Task) -> str:
    """Return the request that an `instruct` task makes to the model: write only the program.

    Verilog tasks and tasks with an `explanation` ask for an explanation first, because it is scored or learnt there.
    The others do not, because a small model has no tokens to spare for it.
    """
    what, fence = ("Verilog module", "verilog") if is_verilog(task) else ("Python function", "python")
    if is_program(task):
        asked = "Solve this with a Python program that reads standard input and prints to standard output."
        return f"{asked} {wanted_form(task)}\n\n{task['prompt'].rstrip()}"
    return f"Complete this {what}. {wanted_form(task)}\n\n```{fence}\n{task['prompt'].rstrip()}\n```"


def wanted_form(task: Task) -> str:
    """Return the sentence that asks for the program in a fenced block."""
    if is_verilog(task) or task.get("explanation"):
        return "First explain in a few sentences how it works, then write the whole of it in one fenced block."
    return "Write the whole of it in one fenced block, and nothing else."


def answer(task: Task) -> str:
    """Return the reference answer to the task in the form that the prompt asks for; SFT trains on it.

    For an `instruct` task this is the `explanation`, if it has one, and the whole program in a fenced block.
    """
    if not task.get("instruct"):
        return task["canonical_solution"]
    fence = "verilog" if is_verilog(task) else "python"
    told = task.get("explanation", "").strip()
    program = task["canonical_solution"].strip("\n")
    if not is_program(task):
        program = task["prompt"].rstrip() + "\n" + program
    return (f"{told}\n\n" if told else "") + f"```{fence}\n{program}\n```"
