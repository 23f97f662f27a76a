"""The frame of benchmarks/gpu_check.py; its sections run in .ci/run, in their small form."""

import json
import time
from pathlib import Path

import pytest

from benchmarks import gpu_check
from common import InputError


@pytest.fixture
def section(tmp_path, monkeypatch):
    """Run a section whose program is given, with a limit of two seconds."""
    monkeypatch.setattr(gpu_check, "LIMITS", {"card": 2})

    def run(program: str) -> list[dict]:
        (tmp_path / "benchmarks").mkdir()
        (tmp_path / "benchmarks" / "gpu_check_sections.py").write_text(program)
        monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
        with (tmp_path / "out.jsonl").open("w") as out:
            found = gpu_check.run_section("card", tmp_path, False, out)
        assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == found
        return found

    return run


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


NOTE = 'import pathlib, sys, time\npathlib.Path(sys.argv[2], "card.jsonl").write_text(\'{"what": "a", "s": 1.0}\\n\')\n'


def test_what_a_section_found_is_kept_however_it_ends(section):
    found = section(NOTE)
    assert found[0] == {"section": "card", "what": "a", "s": 1.0} and set(found[1]) == {"section", "seconds"}


def test_a_section_that_fails_says_why(section):
    assert section(NOTE + 'raise SystemExit("out of paper")')[1:] == [{"section": "card", "failed": "out of paper"}]


def test_a_section_that_takes_too_long_is_ended(section):
    program = NOTE + "import subprocess\nsubprocess.run(['sleep', '61.25'])"
    assert section(program)[1:] == [{"section": "card", "unfinished": "stopped after 2 s"}]
    for _ in range(50):  # what it started ends too
        running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x0061.25" in read(path)]
        if not running:
            break
        time.sleep(0.1)
    assert not running


def test_the_table_has_a_column_for_each_thing_found():
    found = [{"section": "a", "what": "x", "ms": 1.23456}, {"section": "a", "what": "y", "ms": 2.0},
             {"section": "a", "other": "z"}, {"section": "a", "seconds": 3.0}]  # fmt: skip
    assert gpu_check.table(found) == (
        "**a** (seconds 3)\n\n| what | ms |\n|---|---|\n| x | 1.235 |\n| y | 2 |\n\n| other |\n|---|\n| z |\n"
    )


def test_a_card_that_is_too_small_runs_the_rest(tmp_path, monkeypatch, capsys):
    ran, machine = [], {"gpu": "RTX 3080", "cpu": "", "versions": {}, "commit": "0"}
    monkeypatch.setattr(gpu_check, "run_section", lambda name, *rest: ran.append(name) or [])
    monkeypatch.setattr(gpu_check, "look", lambda: (machine, int(9.5 * 2**30)))
    gpu_check.main(gpu_check.Args(out=str(tmp_path / "out.jsonl")))
    assert ran == ["card", "methods", "exact", "decoding", "step"]
    said = "RTX 3080: 9.5 GiB are free; left out: precision needs 10, memory needs 12"
    assert said in capsys.readouterr().out


def test_what_is_here_is_told_by_a_child():
    here, free = gpu_check.look()
    assert here["cores"] >= 1 and "torch" in here["versions"]
    assert (free is None) == (here["gpu"] is None)


def test_the_whole_stays_under_eight_minutes():
    assert sum(gpu_check.LIMITS.values()) <= 480


def test_an_unknown_section_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--only cards: want some of card, methods, exact"):
        gpu_check.main(gpu_check.Args(only=("cards",)))
