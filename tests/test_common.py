import json
import sys
import tracemalloc
from dataclasses import dataclass, field

import pytest

import train_rl_lora
from common import InputError, command, parse_args, replace_folder, write_jsonl, write_text


@dataclass
class Args:
    """An example."""

    learning_rate: float = 5e-5  # step size
    train_path: str = "a.jsonl"  # tasks
    shout: bool = False  # print loudly
    seed: int = 42  # of it all
    seeds: tuple[int, ...] = ()  # of several
    config: str = ""  # YAML


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\nshout: true\n")
    args = parse_args(Args, ["--config", str(tmp_path / "c.yaml"), "--learning_rate", "2e-4"])
    assert (args.learning_rate, args.shout, args.train_path) == (2e-4, True, "a.jsonl")
    assert parse_args(Args, ["--config", str(tmp_path / "c.yaml"), "--no_shout"]).shout is False
    assert parse_args(Args, ["--config", str(tmp_path / "c.yaml")]).learning_rate == 1e-3  # YAML reads 1e-3 as text


def test_a_mark_in_front_of_a_config_is_passed_over(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\n", encoding="utf-8-sig")
    assert parse_args(Args, ["--config", str(tmp_path / "c.yaml")]).learning_rate == 1e-3
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"^--config \S+c.yaml: not YAML \([^\n]*\)$"):
        parse_args(Args, ["--config", str(tmp_path / "c.yaml")])


@pytest.mark.parametrize(
    ("argv", "yaml", "says"),
    [
        (["--learning_rat", "1"], None, "unknown option '--learning_rat'; did you mean --learning_rate?"),
        (["--zzz"], None, "unknown option '--zzz'; --help lists them all"),
        (["--learning_rate", "fast"], None, "could not convert string to float: 'fast'"),
        (["--learning_rate", "inf"], None, "--learning_rate inf: must be a finite number"),
        (["--learning_rate", "nan"], None, "--learning_rate nan: must be a finite number"),
        (["--seed", "-1"], None, "--seed -1: must be in [0, 4294967296)"),
        (["--seeds", "1", "4294967296"], None, "--seeds 4294967296: must be in"),
        (["--config", "none.yaml"], None, "none.yaml: No such file"),
        ([], "trainpath: b\n", "unknown key 'trainpath'; did you mean train_path?"),
        ([], "- 1\n", "must hold lines of 'name: value'"),
        ([], "a: [\n", "not YAML"),
        ([], "learning_rate: fast\n", "could not convert string to float: 'fast'"),
    ],
)
def test_a_bad_argument_is_one_clear_line(tmp_path, argv, yaml, says):
    if yaml is not None:
        (tmp_path / "c.yaml").write_text(yaml)
        argv = ["--config", str(tmp_path / "c.yaml")]
    with pytest.raises(InputError) as error:
        parse_args(Args, argv)
    assert says in str(error.value)


def test_a_folder_is_replaced_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "run.json").touch()
    with pytest.raises(RuntimeError), replace_folder(target) as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["run.json"]
    with replace_folder(target) as folder:
        (folder / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").touch()
    for name in (tmp_path, "/"):
        with pytest.raises(InputError), replace_folder(name):
            pytest.fail("the block ran")
    assert (tmp_path / "thesis.txt").exists()


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), replace_folder(tmp_path / "file" / "out"):
        pytest.fail("the block ran")
    with pytest.raises(InputError, match="is a file"), replace_folder(tmp_path / "file"):
        pytest.fail("the block ran")
    assert (tmp_path / "file").is_file()


def test_files_are_written_whole(tmp_path):
    write_jsonl(tmp_path / "deep" / "a.jsonl", [{"a": 1}, {"a": "\n"}])
    assert [json.loads(line) for line in (tmp_path / "deep" / "a.jsonl").read_text().splitlines()] == [
        {"a": 1},
        {"a": "\n"},
    ]
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "deep" / "a.jsonl" / "b", "")
    assert len(list((tmp_path / "deep").iterdir())) == 1
    with pytest.raises(TypeError):  # in the middle of the file
        write_jsonl(tmp_path / "deep" / "a.jsonl", [{"a": 2}, {"a": {1}}])
    assert (tmp_path / "deep" / "a.jsonl").read_text() == '{"a": 1}\n{"a": "\\n"}\n'
    assert len(list((tmp_path / "deep").iterdir())) == 1


def test_a_file_of_lines_is_written_line_by_line(tmp_path):
    records = [{"text": str(n) * 1_000_000} for n in range(10)]
    tracemalloc.start()
    write_jsonl(tmp_path / "a.jsonl", records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000  # a line is held a few times, not all ten
    assert (tmp_path / "a.jsonl").read_text() == "".join(json.dumps(record) + "\n" for record in records)


def test_the_command_can_be_pasted_and_holds_no_secret(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/eval.py", "--name", "a b", "--server=http://me:secret@h:1/v1"])
    assert command("http://me:secret@h:1/v1", "http://h:1/v1") == "python eval.py --name 'a b' --server=http://h:1/v1"
    assert command() == "python eval.py --name 'a b' --server=http://me:secret@h:1/v1"


@dataclass
class Settings:
    """What every script has."""

    kept: float = 0.5  # stays as it is
    shared: int = 1  # is given another default
    config: str = ""  # YAML


@dataclass
class Longer(Settings):
    """A script's settings that inherit: one more, another default, a default that is made anew."""

    # sampling
    shared: int = 7  # a default of its own
    names: list[str] = field(default_factory=lambda: ["a"])  # made anew


@dataclass
class Longest(Longer):
    shared: int  # declared again, with the default that it inherits
    needed: str = field(kw_only=True)  # has no default


def test_inherited_settings_are_flat_flags_in_groups(capsys, tmp_path):
    assert parse_args(Longer, []) == Longer() and Longer().shared == 7
    assert parse_args(Longer, ["--shared", "3", "--kept", "1.5", "--names", "x", "y"]) == Longer(
        kept=1.5, shared=3, names=["x", "y"]
    )
    (tmp_path / "c.yaml").write_text("kept: 2.5\n")
    assert parse_args(Longer, ["--config", str(tmp_path / "c.yaml")]).kept == 2.5
    assert parse_args(Longest, ["--needed", "yes"]) == Longest(needed="yes")
    with pytest.raises(InputError, match="--needed"):
        parse_args(Longest, [])
    with pytest.raises(InputError, match="unknown option '--kepd'; did you mean --kept"):
        parse_args(Longer, ["--kepd", "1"])
    with pytest.raises(SystemExit) as stop:
        parse_args(Longer, ["--help"])
    shown = capsys.readouterr().out.partition("show this help")[2]
    assert stop.value.code == 0
    places = [shown.index(text) for text in ("longer options", "--shared", "a default of its own", "settings options")]
    assert places == sorted(places) and "What every script has" in shown and shown.count("--shared") == 1


def test_a_class_that_inherits_from_one_of_the_same_name():
    class Args(train_rl_lora.Args):
        pass

    Args.__annotations__ = {"mine": "int"}
    Args.mine = 3
    args = parse_args(dataclass(Args), ["--mine", "4", "--num_steps", "9"])
    assert (args.mine, args.num_steps, args.time_limit) == (4, 9, 5.0)
