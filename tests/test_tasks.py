import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import InputError
from judging.tasks import MBPP_STOP_STRINGS, STOP_STRINGS, read_tasks, stop_strings, truncate_at_stop

TASK = {"task_id": "a", "prompt": "def f():\n", "canonical_solution": "    return 1\n",
        "test": "def check(c):\n    assert c() == 1\n", "entry_point": "f"}  # fmt: skip


def write(path, *tasks):
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path


def test_reads_what_was_written(tmp_path):
    assert read_tasks(write(tmp_path / "t.jsonl", TASK, TASK | {"task_id": "b"})) == [TASK, TASK | {"task_id": "b"}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no tasks"),
        ("\n\n", "has no tasks"),
        ("{\n", "t.jsonl:1: not JSON"),
        (json.dumps(TASK) + "\n[1]\n", "t.jsonl:2: wants a JSON object, not list"),
        (json.dumps({k: v for k, v in TASK.items() if k != "test"}), "t.jsonl:1: task has no text field 'test'"),
        (json.dumps(TASK | {"test": None}), "t.jsonl:1: task has no text field 'test'"),
        (json.dumps(TASK) + "\n\n" + json.dumps(TASK), "t.jsonl:3: task_id 'a' was already used at"),
        (json.dumps(TASK | {"test_setup_code": "", "test_list": []}), "test_list must be a list of asserts"),
        (json.dumps(TASK | {"test_list": ["assert f() == 1"]}), "task has no text field 'test_setup_code'"),
        (json.dumps(TASK | {"entry_point": "f; import os"}), "is not a Python name"),
        (json.dumps(TASK | {"prompt": "\ud800"}), "t.jsonl:1: prompt has a lone surrogate"),
        (json.dumps(TASK) + '\n{"n": ' + "9" * 5000 + "}", "t.jsonl:2: not JSON (Exceeds the limit"),
        (json.dumps(TASK) + "\n" + "[" * 100_000, "t.jsonl:2: not JSON (maximum recursion depth"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, text, says):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(InputError, match="t.jsonl") as error:
        read_tasks(tmp_path / "t.jsonl")
    assert says in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such task file"):
        read_tasks(tmp_path / "none.jsonl")


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b"\xff\xfe{}\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_tasks(tmp_path / "t.jsonl")


def test_a_mark_in_front_is_no_part_of_the_text(tmp_path):
    """Editors on Windows write one."""
    path = write(tmp_path / "t.jsonl", TASK, TASK | {"task_id": "b"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [task["task_id"] for task in read_tasks(path)] == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_one_clear_error(tmp_path, encoding):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(TASK) + "\n", encoding=encoding)
    with pytest.raises(InputError, match=r"t.jsonl: is not UTF-8 text$"):
        read_tasks(path)


PIECES = [*{*STOP_STRINGS, *MBPP_STOP_STRINGS}, "    x = 1", "\n", "    return 'def'", " "]


@given(st.lists(st.sampled_from(PIECES)).map("".join), st.sampled_from([STOP_STRINGS, MBPP_STOP_STRINGS]))
def test_cutting_leaves_a_prefix_without_stop_strings(completion, stops):
    cut = truncate_at_stop(completion, stops)
    assert completion.startswith(cut)
    assert not any(stop in cut for stop in stops)
    assert cut == completion or any(completion[len(cut) :].startswith(stop) for stop in stops)


def test_a_task_has_the_stop_strings_of_its_kind():
    """A model writes the body for HumanEval, after which a `def` is too much; for MBPP the functions themselves."""
    listed = {"test_list": ["assert f() == 1"]}
    assert (stop_strings(TASK), stop_strings(listed)) == (STOP_STRINGS, MBPP_STOP_STRINGS)
    assert stop_strings(TASK | {"test_list": []}) == STOP_STRINGS  # as the sandbox tells them apart
    whole = "import math\n\ndef f():\n    return g()\n\ndef g():\n    return 1\n"
    assert truncate_at_stop(whole + "\nassert f() == 1\n", stop_strings(listed)) == whole
