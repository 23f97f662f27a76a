"""Verilog through the scripts that train and evaluate: nothing but the task file changes."""

import json
import shutil
from pathlib import Path

import pytest

import eval_humaneval
import train_grpo_lora
import train_sft_lora
from common import InputError
from judging.by_language import open_sandbox
from judging.instruct import answer
from judging.pool import Verdict
from judging.tasks import read_tasks

ROOT = Path(__file__).resolve().parents[1]
TRAIN, VALID = "data/pocket_verilog_train.jsonl", "data/pocket_verilog_valid.jsonl"
MODEL = "data/pocket_verilog_coder"
MISSING = [tool for tool in ("iverilog", "vvp", "yosys", "verilator") if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
LENGTHS = ["--max_length", "384", "--max_new_tokens", "96"]


@pytest.fixture(scope="module")
def few_tasks(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("tasks") / "few.jsonl"
    path.write_text("".join((ROOT / TRAIN).read_text().splitlines(keepends=True)[:4]))
    return str(path)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, few_tasks) -> str:
    """The fresh adapter, from which the model is as it was."""
    folder = str(tmp_path_factory.mktemp("sft") / "sft")
    train_sft_lora.main(train_sft_lora.Args(train_path=few_tasks, model_name=MODEL, output_dir=folder, max_length=384,
                                            max_steps=0, prompt_level="all"))  # fmt: skip
    return folder


@pytest.mark.slow
@needs_tools
def test_grpo_learns_from_the_parts_and_climbs_the_levels(tmp_path, few_tasks, adapter):
    args = train_grpo_lora.Args(
        train_path=few_tasks, sft_model=adapter, output_dir=str(tmp_path / "grpo"), max_length=384, max_new_tokens=96,
        num_steps=3, batch_size=2, num_samples=2, reward="parts", prompt_level="curriculum", curriculum_epochs=0.5,
        log_completions=1, learning_rate=1e-4,
    )  # fmt: skip
    train_grpo_lora.main(args)
    log = [json.loads(line) for line in open(tmp_path / "grpo" / "grpo_train_log.jsonl")]
    assert [step["epoch"] for step in log] == [0.5, 1.0, 1.5]
    assert [step["curriculum_level"] for step in log] == [0, 1, 2]
    rows = [json.loads(line) for line in open(tmp_path / "grpo" / "completions.jsonl")]
    for step in log:
        mine = [row for row in rows if row["step"] == step["step"]]
        for part in ("compilation", "functional", "synthesis", "quality"):
            assert step[part] == pytest.approx(sum(row["parts"][part] for row in mine) / len(mine))
        for row in mine:
            weighed = sum(w * row["parts"][p] for p, w in zip(row["parts"], (0.4, 0.5, 0.3, 0.5), strict=True)) / 1.7
            assert row["reward"] == pytest.approx(weighed - 0.01 * row["length"] / 100)
        assert step["reward"] == pytest.approx(sum(row["reward"] for row in mine) / len(mine))
    saved = json.loads((tmp_path / "grpo" / "run.json").read_text())
    assert saved["sandbox"]["seccomp"] and saved["args"]["prompt_level"] == "curriculum"


@needs_tools
def test_evaluation_gives_the_rates_of_the_parts(tmp_path, run_cli):
    tasks = read_tasks(VALID)[:6]
    rows = [{"task_id": t["task_id"], "completion": t["canonical_solution"] + "\nstray text"} for t in tasks[:3]]
    rows += [{"task_id": t["task_id"], "completion": "endmodule\n"} for t in tasks[3:]]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run_cli("eval_humaneval.py", "--data_path", VALID, "--limit", "6", "--exp_name", "v", "--samples",
                             str(tmp_path / "samples.jsonl"), "--results_dir", str(tmp_path))  # fmt: skip
    assert code == 0, err
    metrics = json.loads((tmp_path / "v_metrics.json").read_text())
    assert metrics["num_pass"] == 0 and metrics["num_pass_stopped"] == 3  # the cut is behind endmodule
    assert metrics["parts_stopped"]["compilation"] == 1.0 and metrics["parts"]["compilation"] == 0.5
    assert metrics["parts_stopped"]["functional"] < 0.8 and list(metrics["parts"])[-1] == "quality"
    assert "compilation 50.0%, functional" in out


@needs_tools
def test_answers_in_prose_are_judged_and_their_explanations_read(tmp_path, stub):
    """The whole module stands in a block; a judge model reads what stands before it, or is left out."""
    stub.answer = '{"score": 0.5}'
    tasks = read_tasks(VALID, instruct=True)[:3]
    rows = [{"task_id": task["task_id"], "completion": f"It works so.\n\n{answer(task)}\nDone."} for task in tasks]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = eval_humaneval.Args(
        data_path=VALID, limit=3, samples=str(tmp_path / "samples.jsonl"), exp_name="p", results_dir=str(tmp_path),
        instruct=True, judge_url=stub.url, judge_model="j",
    )  # fmt: skip
    eval_humaneval.main(args)
    metrics = json.loads((tmp_path / "p_metrics.json").read_text())
    assert metrics["pass_at_1"] == metrics["pass_at_1_stopped"] == 1.0 and metrics["parts"]["reasoning"] == 0.5
    asked = [request["messages"][1]["content"] for request in stub.requests]
    assert len(asked) == 3 and all(" explanation\nIt works so.\n=== " in text for text in asked)
    stub.answer = 500
    eval_humaneval.main(args)
    parts = json.loads((tmp_path / "p_metrics.json").read_text())["parts"]
    assert "reasoning" not in parts and parts["functional"] == 1.0


@pytest.mark.slow
@needs_tools
def test_reasoning_is_a_part_of_the_reward(tmp_path, few_tasks, adapter, stub):
    stub.answer = '{"score": 1.0}'
    args = train_grpo_lora.Args(
        train_path=few_tasks, sft_model=adapter, output_dir=str(tmp_path / "grpo"), max_length=384, max_new_tokens=64,
        num_steps=1, batch_size=1, num_samples=2, reward="parts", part_weights="0,0,0,1e-9,1", length_penalty_alpha=0,
        judge_url=stub.url, judge_model="j",
    )  # fmt: skip
    train_grpo_lora.main(args)
    (step,) = [json.loads(line) for line in open(tmp_path / "grpo" / "grpo_train_log.jsonl")]
    assert step["reward"] == pytest.approx(step["reasoning"], abs=1e-6)


REFUSED = {
    "shaped": (["--reward", "shaped"], "ruff reads Python, not Verilog"),
    "weights": (["--reward", "parts", "--part_weights", "0,0,0,0,1"], "the weights of the parts in use are all 0"),
    "judge": (["--judge_url", "http://x/v1"], "name the judge model too, with --judge_model"),
    "key": (["--judge_url", "http://me:key@x/v1", "--judge_model", "j"], "OPENAI_API_KEY is the key"),
    "query": (["--judge_url", "http://x/v1?key=1", "--judge_model", "j"], "leave out user, password, query"),
    "no numbers": (["--reward", "parts", "--part_weights", "a,b"], "want numbers with commas between"),
    "languages": (["--valid_path", "data/pocket_valid.jsonl"], "has tasks in python and verilog"),
    "curriculum": (["--prompt_level", "curriculum", "--curriculum_epochs", "0"], "must be positive"),
}


@pytest.mark.parametrize("flags, said", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_a_line(flags, said, capsys, monkeypatch, adapter, tmp_path):
    from common import run_script

    monkeypatch.setattr("sys.argv", ["train_grpo_lora.py", "--train_path", TRAIN, "--sft_model", adapter, *LENGTHS,
                                     "--output_dir", str(tmp_path / "out"), *flags])  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        run_script(train_grpo_lora.main, train_grpo_lora.Args, "")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_parts_and_judge_models_are_not_for_python():
    args = train_grpo_lora.Args(reward="parts")
    with pytest.raises(InputError, match="only verdicts on Verilog have parts"):
        train_grpo_lora.chosen_reward(args, "python")
    args = train_grpo_lora.Args(judge_url="http://localhost:1/v1")
    with pytest.raises(InputError, match="these tasks are in Python"), open_sandbox(args, [{"task_id": "a"}]):
        pass


@needs_tools
def test_a_sandbox_that_lets_a_module_cheat_stops_the_run(monkeypatch, own_sandbox):
    from concurrent.futures import Future

    from judging.verilog.pool import VerilogSandbox

    def fooled(self, task, completion, time_limit=None):
        done = Future()
        done.set_result(Verdict("pass", ""))
        return done

    monkeypatch.setattr(VerilogSandbox, "submit", fooled)
    tasks = read_tasks(VALID)[:1]
    with pytest.raises(InputError, match="a wrong answer: pass instead of fail"):
        with open_sandbox(train_grpo_lora.Args(), tasks):
            pass


@needs_tools
def test_the_self_test_passes_here():
    with open_sandbox(train_grpo_lora.Args(), read_tasks(VALID)[:1]) as box:
        assert "yosys" in box.versions()


def test_the_front_door_takes_the_parts_for_verilog():
    from judging.data_sets import evaluated_on, language
    from training.defaults import is_pocket, settings_for

    settings, lines = settings_for("grpo", "some/model-7b", 7_000_000_000, set(), "verilog")
    assert settings["reward"] == "parts" and "Verilog: reward parts, time_limit 10.0" in lines
    assert settings_for("grpo", "some/model-7b", 7_000_000_000, set())[0]["reward"] == "shaped"
    assert language("verilog") == "verilog" and language("pocket") == "python" and is_pocket(MODEL)
    assert evaluated_on("", "verilog", False) == {"verilog": "data/verilog_test.jsonl"}
    assert evaluated_on("", "pocket_verilog", True) == {"pocket_verilog": "data/pocket_verilog_test.jsonl"}


@needs_tools
@pytest.mark.slow
def test_the_front_door_trains_and_evaluates_on_verilog(tmp_path, run_cli):
    code, out, err = run_cli("train.py", "grpo", MODEL, "--debug", "--auto-eval", "--prompt-level", "curriculum",
                             "--checkpoints", str(tmp_path / "c"), "--results-dir", str(tmp_path / "r"))  # fmt: skip
    assert code == 0, err
    assert "grpo: data/pocket_verilog_coder on pocket_verilog" in out and "prompt_level: curriculum" in out
    (summary,) = (tmp_path / "r").glob("evaluation_results_*.json")
    assert list(json.loads(summary.read_text())["final_eval"]) == ["pocket_verilog"]
