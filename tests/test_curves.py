"""Learning curves: what is drawn, and what is refused."""

import json

import numpy as np
import pytest

import curves
from common import InputError
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


def test_a_figure_that_few_steps_have_is_drawn_as_measured_from_the_start(tmp_path):
    """Smoothing nine of its points would average nine measurements, not nine steps."""
    logs = []
    for name, rates in (("a", (0.0, 0.6, 0.8)), ("b", (0.2, 0.8, 0.8))):
        (tmp_path / name).mkdir()
        lines = [{"step": n, "sampled_tokens": 100 * n, "reward": n % 2} for n in range(1, 41)]
        lines = [{"step": 0, "sampled_tokens": 0}, *lines]
        for line, rate in zip(lines[::20], rates, strict=True):
            line["curve_pass_rate"] = rate
        (tmp_path / name / "ppo_train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        logs.append(read_log(tmp_path / name))
    x, mean, low, high = curve(logs, "sampled_tokens", "curve_pass_rate", 9)
    assert (x[0], x[-1]) == (0, 4000)
    assert [mean[0], low[0], high[0], mean[-1]] == pytest.approx([0.1, 0.0, 0.2, 0.8])
    assert np.interp(1000, x, low) == pytest.approx(0.3)  # half way from 0.0 to 0.6
    assert curve(logs, "sampled_tokens", "reward", 9)[1].std() < 0.1  # of every step, so smoothed


def evaluation(folder, name, rates, **args):
    args = {"data_path": "t.jsonl", "temperature": 1.0, "top_p": 1.0, "n_samples": len(rates), "max_new_tokens": 9,
            "time_limit": 5.0} | args  # fmt: skip
    metrics = {"exp_name": name, "num_tasks": 3, "data_sha256": "0" * 64, "args": args, "pass_at_1_interval": [0, 1]}
    metrics |= {f"pass_at_{k}{end}": rate for k, rate in enumerate(rates, start=1) for end in ("", "_stopped")}
    (folder / f"{name}_metrics.json").write_text(json.dumps(metrics))
    return str(folder / f"{name}_metrics.json")


def test_pass_at_k_is_a_line_a_row_with_seeds_as_a_band(tmp_path, monkeypatch, capsys):
    files = [evaluation(tmp_path, name, rates) for name, rates in (("sft", (0.2, 0.3, 0.4)), ("ppo", (0.5, 0.5, 0.6)),
                                                                   ("ppo_seed1", (0.3, 0.5, 0.7)))]  # fmt: skip
    seen = {}
    real = curves.draw
    monkeypatch.setattr(curves, "draw", lambda groups, *rest: (seen.update(groups), real(groups, *rest)))
    main(Args((), pass_at_k=tuple(files), output=str(tmp_path / "k.png")))
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG") and '["sft", "ppo"]' in capsys.readouterr().out
    x, mean, low, high = curve(seen["ppo"], "k", "pass_at_k", 1)
    ends = [(row[0], row[-1]) for row in (x, mean, low, high)]
    assert ends == [(1, 3), pytest.approx((0.4, 0.65)), (0.3, 0.6), (0.5, 0.7)]


def test_evaluations_that_have_no_pass_at_k_or_differ_are_refused(tmp_path):
    good, greedy = (evaluation(tmp_path, f"n{len(rates)}", rates) for rates in ((0.2, 0.3), (0.2,)))
    other = evaluation(tmp_path, "other", (0.2, 0.3), max_new_tokens=5)
    (tmp_path / "x.json").write_text("[1]")
    for files, says in [
        ((good, greedy), "n1_metrics.json: has pass@1 only; evaluate with --n_samples 8 --temperature 1"),
        ((good, other), "cannot be compared: .*n2_metrics.json .*9 new tokens.*; .*other_metrics.json .*5 new tokens"),
        ((good, good), "n2_metrics.json: n2 has seed 42 twice"),
        ((str(tmp_path / "x.json"),), "x.json: not an evaluation's metrics"),
        (("nowhere.json",), "nowhere.json: not an evaluation's metrics"),
    ]:
        with pytest.raises(InputError, match=says):
            main(Args((), pass_at_k=files, output=str(tmp_path / "k.png")))
    with pytest.raises(InputError, match="neither runs nor --figures"):
        main(Args((str(tmp_path),), pass_at_k=(good,)))
    assert not (tmp_path / "k.png").exists()


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


def test_where_a_figure_first_reaches_a_value(tmp_path, capsys):
    runs = [run_folder(tmp_path / name, values) for name, values in
            (("a", [0.1, 0.9, 0.7, 0.9]), ("a_seed1", [0.1, 0.2, 0.3, 0.8]), ("b", [0.1, 0.7, 0.2, 0.79]))]  # fmt: skip
    settings = dict(figures=("reward",), x="step", smooth=1, output=str(tmp_path / "c.png"))
    main(Args(tuple(map(str, runs)), reach=0.8, **settings))
    out = capsys.readouterr().out
    assert "a: reward reaches 0.8 at step 2, 4\n" in out and "b: reward reaches 0.8 at step never\n" in out
    main(Args(tuple(map(str, runs)), **settings))
    assert "reaches" not in capsys.readouterr().out
