"""Learning curves: what is drawn, and what is refused."""

import json

import numpy as np
import pytest

import curves
from curves import Args, main
from reporting.plots import curve, read_log


def run_folder(folder, values, key="reward"):
    folder.mkdir(parents=True)
    lines = [{"step": 0, "valid_pass_rate": 0.5}]
    lines += [{"step": n + 1, "epoch": (n + 1) / 2, key: value} for n, value in enumerate(values)]
    (folder / "grpo_train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_mean_of_the_seeds_stands_in_a_band_from_lowest_to_highest(tmp_path):
    logs = [read_log(run_folder(tmp_path / name, [level] * 6)) for name, level in (("a", 1.0), ("b", 3.0), ("c", 5.0))]
    x, mean, low, high = curve(logs, "epoch", "reward", 3)
    assert (x[0], x[-1]) == (0.5, 3.0)
    assert np.allclose(mean, 3.0) and np.allclose(low, 1.0) and np.allclose(high, 5.0)
    assert curve(logs, "epoch", "entropy", 3) is None


def test_seeds_of_other_lengths_are_drawn_as_far_as_the_shortest(tmp_path):
    logs = [read_log(run_folder(tmp_path / "a", [0, 1, 2, 3])), read_log(run_folder(tmp_path / "b", [0, 1]))]
    x, mean, *_ = curve(logs, "step", "reward", 1)
    assert x[-1] == 2 and mean[-1] == 1


def test_seeds_of_a_method_are_one_line(tmp_path, monkeypatch, capsys):
    folders = [run_folder(tmp_path / name, [0.1, 0.2, 0.4]) for name in ("ppo", "ppo_seed1", "grpo")]
    (tmp_path / "ppo-merged").mkdir()
    folders += [tmp_path / "ppo-merged"]
    seen = {}
    real = curves.draw
    monkeypatch.setattr(curves, "draw", lambda groups, *rest: (seen.update(groups), real(groups, *rest)))
    output = tmp_path / "out" / "c.png"
    main(Args(tuple(map(str, folders)), figures=("reward", "reasoning"), output=str(output)))
    assert {name: len(logs) for name, logs in seen.items()} == {"ppo": 2, "grpo": 1}
    assert (
        output.read_bytes().startswith(b"\x89PNG") and "not logged by these runs: reasoning" in capsys.readouterr().out
    )
    assert sorted(path.name for path in output.parent.iterdir()) == ["c.png"]


def test_runs_of_one_name_in_two_folders_are_two_methods(tmp_path, monkeypatch):
    folders = [str(run_folder(tmp_path / name / "ppo", [0.1, 0.2])) for name in ("a", "b")]
    seen = []
    monkeypatch.setattr(curves, "draw", lambda groups, *_: seen.extend(groups))
    main(Args(tuple(folders), figures=("reward",)))
    assert seen == folders


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["nowhere"], "want folders of runs, with a training log each"),
        (["RUN", "--x", "time"], "invalid choice"),
        (["RUN", "--figures", "glory"], "none of these runs logged glory; they have epoch, reward, step"),
        (["RUN", "--output", "c.pdf"], "must end in .png"),
        (["RUN", "--smooth", "0"], "--smooth 0: must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(flags, says, tmp_path, run_cli):
    folder = str(run_folder(tmp_path / "run", [1.0]))
    code, _, err = run_cli("curves.py", *[folder if flag == "RUN" else flag for flag in flags])
    assert code == 2 and says in err and err.count("\n") == 1
