import gzip
import json
import sys

import pytest
from conftest import ROOT, SHARED

sys.path.insert(0, str(ROOT / "data"))

import prepare_humaneval
from prepare_humaneval import Args

from common import InputError
from judging.tasks import read_tasks


def test_the_split_is_the_documented_one(tmp_path, humaneval):
    prepare_humaneval.main(Args(source=str(SHARED / "HumanEval.jsonl.gz"), output_dir=str(tmp_path)))
    train, test = (read_tasks(tmp_path / f"humaneval_{part}.jsonl") for part in ("train", "test"))
    names = [{task["task_id"] for task in part} for part in (train, test)]
    assert (len(train), len(test)) == (131, 33) and not names[0] & names[1]
    assert names[0] | names[1] == {task["task_id"] for task in humaneval}
    assert read_tasks(tmp_path / "humaneval_all.jsonl") == humaneval  # in their own order


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([{"nothing": 1}], "s.jsonl:1: task has no text field"),
        (
            [
                {
                    "task_id": "Mbpp/1",
                    "prompt": "",
                    "canonical_solution": "",
                    "test_list": ["assert f()"],
                    "test_setup_code": "",
                }
            ],
            "s.jsonl:1: has no test, entry_point, which HumanEval's tasks have",
        ),
        (
            [{"task_id": "a", "prompt": "", "canonical_solution": "", "test": "", "entry_point": "f"}],
            "too few to split",
        ),
    ],
)
def test_a_bad_source_replaces_nothing(tmp_path, lines, says):
    (tmp_path / "humaneval_train.jsonl").write_text("precious")
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=says):
        prepare_humaneval.main(Args(source=str(tmp_path / "s.jsonl"), output_dir=str(tmp_path)))
    assert (tmp_path / "humaneval_train.jsonl").read_text() == "precious"


@pytest.mark.parametrize("end", [".jsonl", ".json", ".jsonl.gz"])
def test_a_mark_in_front_of_a_source_is_passed_over(tmp_path, end):
    text = '[{"task_id": "a"}]' if end == ".json" else '{"task_id": "a"}\n'
    raw = text.encode("utf-8-sig")
    (tmp_path / f"s{end}").write_bytes(gzip.compress(raw) if end.endswith("gz") else raw)
    assert prepare_humaneval.read_source(str(tmp_path / f"s{end}")) == [{"task_id": "a"}]
