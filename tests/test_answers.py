"""Which program of an answer in prose is judged."""

import time

import pytest

from judging.tasks import code_of, program, prose_of

TASK = {"task_id": "t", "prompt": "def f(x):\n", "entry_point": "f", "instruct": True}
RIGHT = "def f(x):\n    return 2 * x\n"
WRONG = "def f(x):\n    return 3 * x\n"
BLOCK = f"```python\n{RIGHT}```\n"
EXAMPLE = '    """Twice.\n\n    ```\n    f(2)\n    ```\n    """\n'


def indented(text, by="   "):
    return "".join(by + line for line in text.splitlines(keepends=True))


ANSWERS = {
    "plain": BLOCK,
    "not closed": BLOCK.removesuffix("```\n"),
    "CRLF": BLOCK.replace("\n", "\r\n"),
    "tildes": f"~~~\n{RIGHT}~~~\n",
    "tildes around backticks": f"~~~python\n{RIGHT}# ```\n```\n~~~\n".replace("```\n~~~", "~~~"),
    "four backticks": f"````python\n{RIGHT}# three:\n````\n",
    "a longer fence closes": f"```\n{RIGHT}`````\nIt doubles.\n",
    "py": f"```py\n{RIGHT}```\n",
    "python3": f"``` python3 \n{RIGHT}```\n",
    "title": f"```Python title=x.py\n{RIGHT}```\n",
    "braces": f"```{{.python .numberLines}}\n{RIGHT}```\n",
    "list item": f"1. The code:\n\n{indented(BLOCK)}",
    "list item in a list item": f"- One:\n  10. Two:\n\n{indented(BLOCK, '      ')}\nDone.\n",
    "on the line of its marker": f"- ```python\n{indented(RIGHT, '  ')}  ```\n",
    "the fence alone is indented": f"   ```python\n{RIGHT}   ```\n",
    "tab": f"-\n{indented(BLOCK, chr(9))}",
    "quote": indented(f"It is:\n{BLOCK}", "> ") + "So it is.\n",
    "quote that ends": indented(BLOCK.removesuffix("```\n"), "> ") + "So it is.\n",
    "shell first": f"```bash\npip install nothing\n```\n{BLOCK}",
    "shell after": f"{BLOCK}```sh\ndef f(x): return 1\n```\n",
    "wrong draft first": f"```python\n{WRONG}```\nNo:\n{BLOCK}",
    "usage after": f"{BLOCK}Use it:\n```python\nprint(f(2))\n```\nOutput:\n```\n4\n```\n",
    "imports first": f"```python\nimport math\n```\n{BLOCK}",
    "thought": f"<think>\n```python\n{WRONG}```\n</think>\n{BLOCK}",
    "thought after": f"{BLOCK}\n<think>\n```python\n{WRONG}```\n</think>\n",
    "thinking is not closed": f"{BLOCK}\n<think>\nOr this:\n```python\n{WRONG}```\n",
    "a block that was thought is not closed": f"<think>\n```python\n{WRONG}</think>\n{BLOCK}",
    "thinking begins in the prompt": f"Hm.\n```python\n{WRONG}```\n</think>\n{BLOCK}",
    "that, and its block is not closed": f"Hm.\n```python\n{WRONG}</think>\n{BLOCK}",
    "on one line": f"<think>Hm.</think>{BLOCK}",
    "spoken of": f"I do not `<think>` here.\n{BLOCK}",
    "tags in the program": f'```python\nTAGS = """\n<think>\n"""\n{RIGHT}```\n',
    "example in a docstring": f"```python\ndef f(x):\n{EXAMPLE}    return 2 * x\n```\n",
    "example at its margin": f"```python\ndef f(x):\n{EXAMPLE.replace('    ```', '```')}    return 2 * x\n```\nDone.\n",
    "that, not closed": f"```python\ndef f(x):\n{EXAMPLE.replace('    ```', '```')}    return 2 * x\n",
    "example with a language": f"```python\ndef f(x):\n{EXAMPLE.replace('```', '```python', 1)}    return 2 * x\n```\n",
    "two quotes": f"```python\nA = '''\n\"\"\"\n```\n'''  # '''\nB = '\"\"\"'  # it's\n{RIGHT}```\nIt's.\n",
    "a string that does not end": f'```python\ndef f(x):\n    """\n```\nNo:\n{BLOCK}',
    "a block that does not end": f"```python\n{WRONG}\nNo:\n{BLOCK}",
    "the closing fence is indented too far": f"```python\n{RIGHT}      ```\nIt doubles.\n",
    "that, and another block": f"```python\n{RIGHT}      ```\nUse it:\n```python\nprint(f(2))\n```\n",
    "inline code": f"I write ```x``` here.\n{BLOCK}",
    "a name that is bound": "```\nasync def g(): ...\nf: object = lambda x: 2 * x\n```\n```py\nf(1)\n```\n",
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_the_program_is_found(name):
    space = {}
    exec(code_of(TASK, ANSWERS[name]), space)
    assert space["f"](21) == 42


def test_what_is_taken_if_nothing_defines_the_function():
    cases = {
        "```\na\n```\n```python\nb\n```\n```\nc\n```\n```sh\nd\n```": "b\n",
        "```\na\n```\n```\nb\n```\n```sh\nc\n```": "b\n",
        "```sh\na\n```\n```c\nb\n```": "b\n",
        f"<think>{BLOCK}</think>So.": "",
        f"<think>{BLOCK}": "",
        RIGHT: "",
    }
    assert {text: code_of(TASK, text) for text in cases} == cases


def test_a_task_without_entry_point_goes_by_what_its_tests_call():
    task = {"instruct": True, "test_list": ["assert set(f (1)) == {2}"], "test_setup_code": ""}
    answer = f"{BLOCK}```python\ndef test():\n    f(2)\n```\n```\ng = f\n```\n"
    assert code_of(task, answer) == RIGHT


def test_of_verilog_the_block_that_has_the_top_module():
    task = {"instruct": True, "language": "verilog", "top_module": "pass", "prompt": "// y = a\nmodule pass (y);\n"}
    module = "module pass (output y);\n    /* so:\n```\n    */\n    assign y = 1'b1; // it's \"\nendmodule\n"
    bench = "```verilog\nmodule tb;\n    pass dut (y);\nendmodule\n```\n"
    thought = "<think>\n```verilog\nmodule pass;\n```\n</think>\n"
    text = f"{thought}It is 1.\n```sh\nls\n```\n```systemverilog\n{module}```\n{bench}"
    assert code_of(task, text) == module and prose_of(text, task) == prose_of(text) == "It is 1."
    assert code_of(task, "```sv\nassign y = 1;\n```\n```sh\nls\n```\n") == "assign y = 1;\n"


def test_the_explanation_is_what_stands_before_the_program():
    text = f"<think>\nHow?\n{BLOCK}</think>\nInstall:\n```sh\nls\n```\nIt doubles.\n\n{BLOCK}Use it:\n```\nf(1)\n```\n"
    assert prose_of(text, TASK) == "Install:\nIt doubles." and prose_of(text) == "Install:"
    assert prose_of(RIGHT) == prose_of("", TASK) == prose_of(f"So.\n<think>{BLOCK}") == ""
    blocks, chosen = program(TASK, text)
    assert [block.language for block in blocks] == ["sh", "python", ""] and chosen == 1


SIZE = 1 << 20
HOSTILE = {
    "backticks": "`" * SIZE,
    "fences": "```\n" * (SIZE // 4),
    "openings": "> ```py\n" * (SIZE // 8),
    "ever shorter": "\n".join("`" * k + "x\n    " + "`" * k for k in range(1000, 2, -1)),
    "strings": "```py\n'''\n```\n```py\n\"\"\"\n```\n" * (SIZE // 28),
    "comments": "```v\n/*\n```\n" * (SIZE // 12) + "*/",
    "quotes": "> " * SIZE,
    "thoughts": "<think></think>" * (SIZE // 15),
    "closing thoughts": "```\n</think>\n" * (SIZE // 13),
    "escapes": "```py\n" + "\\\"'" * (SIZE // 3),
    "apostrophes": "```py\n" + "'" * SIZE,
    "programs": "```\ndef g(x)\n```\n" * (SIZE // 17),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_takes_little_work(name):
    """A megabyte; work that grows with the square of the size would take minutes."""
    for task in (TASK, {"instruct": True, "language": "verilog", "top_module": "pass"}):
        started = time.process_time()
        code_of(task, HOSTILE[name])
        assert time.process_time() - started < 20
