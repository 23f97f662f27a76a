"""What trackers hold is read back from their own files: tensorboard's events, trackio's database, wandb's records."""

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

import train_rl_lora
import train_sft_lora
from common import InputError
from train_rl_lora import Args
from training.tracking import COLUMNS, Tracker, check_tracker

HOSTILE = "return 1\n```\n<script>alert(1)</script> ![](http://evil.example/x.png)\r\n\udc80 ````\n# big"
ROW = {"task_id": "t/1", "completion": HOSTILE, "status": "fail", "reason": "AssertionError: <b>no</b>", "reward": -0.5,
       "advantage": 0.25, "length": 40}  # fmt: skip
SETTINGS = {"learning_rate": 1e-3, "seed": 1, "shout": True, "name": "x", "nothing": None, "list": [1, 2]}


@pytest.fixture(scope="module", autouse=True)
def on_this_machine(tmp_path_factory):
    """Both read these when they are imported; this module alone imports them."""
    folder = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRACKIO_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(folder / name))
        patch.setenv("WANDB_MODE", "offline")
        yield folder
    if "trackio" in sys.modules:  # all runs are finished; else trackio finishes the last again at exit, and says so
        sys.modules["trackio"].context_vars.current_run.set(None)


def events(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalars(folder, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(folder).Scalars(name)]


def track(report_to, folder, name="a_run") -> None:
    """Steps 0 to 3; then on after step 1, as if killed, to step 4; then, when all is done, what an evaluation says."""
    tracker = Tracker(report_to, folder, SETTINGS, name)
    for step in range(4):
        tracker.log({"step": step, "loss": step / 8, "note": "no figure"})
        tracker.log_completions(step, [ROW])
    tracker.close()
    pause = 1.1 if report_to == "tensorboard" else 0  # it reads its files by their names: the second, a number as text
    time.sleep(pause)
    tracker = Tracker(report_to, folder, SETTINGS, f"{name}-later", after=1)  # train.py's names have the time in them
    for step in (2, 3, 4):
        tracker.log({"step": step, "loss": step / 8})
        tracker.log_completions(step, [ROW])
    tracker.close()
    time.sleep(pause)
    tracker = Tracker(report_to, folder, SETTINGS, name)
    tracker.log({"step": 4, "final_eval/mbpp_pass@1": 0.5})
    tracker.close()


def test_a_run_in_tensorboard_is_what_its_log_says(start, tasks_path, tmp_path, capsys):
    args = Args(train_path=tasks_path, sft_model=start, output_dir=str(tmp_path / "rl"), max_length=384,
                max_new_tokens=16, num_steps=3, batch_size=2, num_samples=2, baseline="rloo", valid_path=tasks_path,
                valid_every=2, report_to="tensorboard", run_name="first", log_completions=2,
                track_completions=2)  # fmt: skip
    train_rl_lora.main(args)
    log = [json.loads(line) for line in open(f"{args.output_dir}/rl_train_log.jsonl")]
    assert [record["step"] for record in log] == [0, 1, 2, 3]
    folder = tmp_path / "rl" / "tensorboard" / "first"
    tracked = events(folder)
    names = {name for record in log for name in record} - {"step"}
    assert set(tracked.Tags()["scalars"]) == names and "valid_pass_rate" in names and "base_reward" in names
    for name in names:
        logged = [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in log if name in r]
        assert [(event.step, event.value) for event in tracked.Scalars(name)] == logged, name

    rows = [json.loads(line) for line in open(f"{args.output_dir}/completions.jsonl")]
    assert len(rows) == 4 and {row["step"] for row in rows} == {2}
    assert set(rows[0]) == {"step", *COLUMNS, "ratio", "prompt", "token_ids", "logprobs"}
    assert all(len(row["token_ids"]) == len(row["logprobs"]) == row["length"] for row in rows)
    (text,) = tracked.Tensors("completions/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert text.step == 2 and all(row["completion"] in shown and row["task_id"] in shown for row in rows)
    record = next(r for r in log if r["step"] == 2)
    assert sum(row["reward"] for row in rows) / 4 == pytest.approx(record["reward"])
    assert sum(row["advantage"] for row in rows) / 4 == pytest.approx(record["advantage_mean"])

    Tracker("tensorboard", args.output_dir, vars(args), "first").log({"step": 3, "final_eval/mbpp_pass@1": 0.5})
    assert scalars(folder, "final_eval/mbpp_pass@1") == [(3, 0.5)]
    assert [step for step, _ in scalars(folder, "base_reward")] == [1, 2, 3]


def test_sft_in_tensorboard(pocket, tasks_path, tmp_path):
    out = tmp_path / "sft"
    train_sft_lora.main(
        train_sft_lora.Args(train_path=tasks_path, model_name=pocket, output_dir=str(out), max_steps=10, keep_every=10,
                            gradient_accumulation_steps=1, report_to="tensorboard")
    )  # fmt: skip
    log = [json.loads(line) for line in (out / "sft_train_log.jsonl").open()]
    assert scalars(out / "tensorboard" / "sft", "loss") == [(step, pytest.approx(log[i]["loss"]))
                                                            for i, step in enumerate((1, 10))]  # fmt: skip
    kept, last = ((out / name / "adapter_model.safetensors").read_bytes() for name in ("step_10", "."))
    assert kept == last


def test_tensorboard_goes_on_with_a_run(tmp_path):
    track("tensorboard", tmp_path)
    folder = tmp_path / "tensorboard" / "a_run"
    assert scalars(folder, "loss") == [(step, step / 8) for step in range(5)]
    assert scalars(folder, "final_eval/mbpp_pass@1") == [(4, 0.5)]
    assert {event.step for event in events(folder).Tensors("completions/text_summary")} == {0, 1, 2, 3, 4}
    assert len(list(folder.glob("*/hparams.yml"))) == 1


def test_what_a_model_wrote_is_text_in_tensorboard(tmp_path):
    tracker = Tracker("tensorboard", tmp_path, {}, "a_run")
    tracker.log_completions(1, [ROW])
    tracker.close()
    (text,) = events(tmp_path / "tensorboard" / "a_run").Tensors("completions/text_summary")
    html = markdown_to_safe_html(text.tensor_proto.string_val[0])
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ![](http://evil.example/x.png)" in html and "&lt;b&gt;no" in html
    assert not any(tag in html for tag in ("<script", "<img", "<b>", "<h1"))
    assert html.count("<pre>") == 2 and "reward -0.5, advantage 0.25, length 40" in html


def test_trackio_goes_on_with_a_run(tmp_path, on_this_machine):
    for name in ("a_run", "other"):  # the same name again, in another folder, is another run
        track("trackio", tmp_path / name, "a_run")
    base = sqlite3.connect(on_this_machine / "TRACKIO_DIR" / "rl-code-agent.db")
    runs = [run for (run,) in base.execute("select run_id from metrics group by run_id")]
    assert len(runs) == 2
    for run in runs:
        found = base.execute("select run_name, step, metrics from metrics where run_id = ? order by id", [run])
        rows = [(name, step, json.loads(metrics)) for name, step, metrics in found]
        assert {name for name, _, _ in rows} == {"a_run"}
        assert [(step, m["loss"]) for _, step, m in rows if "loss" in m] == [(step, step / 8) for step in range(5)]
        assert [(step, m) for _, step, m in rows if "final_eval/mbpp_pass@1" in m] == [
            (4, {"final_eval/mbpp_pass@1": 0.5})
        ]
        tables = [m["completions"]["_value"] for _, _, m in rows if "completions" in m]
        assert tables == [[ROW | {"completion": HOSTILE.replace("\udc80", "?")}]] * 5
        (config,) = base.execute("select config from configs where run_id = ?", [run]).fetchone()
        assert json.loads(config)["learning_rate"] == 1e-3 and json.loads(config)["nothing"] == "None"


def wandb_history(path) -> list[dict]:
    """The history of a .wandb file: records of a LevelDB log, in blocks of 32 KiB, each a protocol buffer."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, history = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a header: the rest of the block is padding
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                history.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return history


def test_wandb_offline_goes_on_with_a_run(tmp_path):
    from google.protobuf.message import DecodeError

    track("wandb", tmp_path)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1  # one id
    for _ in range(100):  # wandb's own process may still be writing
        history = []
        with contextlib.suppress(AssertionError, DecodeError):
            history = [row for file in files for row in wandb_history(file)]
        if any("final_eval/mbpp_pass@1" in row for row in history):
            break
        time.sleep(0.1)
    losses = [(row["_step"], row["loss"]) for row in history if "loss" in row]
    assert losses == [(step, step / 8) for step in (0, 1, 2, 3, 2, 3, 4)]  # offline it cannot know what it has
    assert [row["final_eval/mbpp_pass@1"] for row in history if "final_eval/mbpp_pass@1" in row] == [0.5]
    tables = [json.loads(path.read_text()) for path in tmp_path.glob("wandb/*/files/media/table/completions*.json")]
    assert len(tables) == 7 and tables[0]["columns"] == list(COLUMNS)
    assert tables[0]["data"] == [list((ROW | {"completion": HOSTILE.replace("\udc80", "?")}).values())]


def test_a_login_that_is_missing_is_said_in_a_line(tmp_path):
    asked = "types.SimpleNamespace(report_to='wandb', run_name='')"
    code = f"import types; from training import tracking; tracking.check_tracker({asked})"
    away = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_MODE": "online"}
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"} | away
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stderr.splitlines()[-1].endswith(
        "InputError: --report_to wandb: not logged in; `wandb login`, or WANDB_MODE=offline"
    )


def test_a_tracker_that_is_not_installed_is_said_in_a_line(start, tasks_path, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--report_to wandb: is not installed"):
        train_rl_lora.main(Args(train_path=tasks_path, sft_model=start, report_to="wandb"))
    with pytest.raises(InputError, match="--run_name a/b: want a plain name"):
        check_tracker(Args(report_to="tensorboard", run_name="a/b"))
