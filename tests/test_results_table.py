import csv
import json
import os
import re

import pytest
from conftest import ROOT

from common import InputError, sha256
from reporting.rows import mixed_settings, read_metrics, read_rows
from reporting.table_formats import insert, markdown
from results_table import Args, main, overlaps


def table_of(folder, link=""):
    return markdown(read_rows(folder), overlaps(read_metrics(folder)), link)


def metrics(name, rate, length=40.0, tasks=100, data="data/pocket_test.jsonl", digest="0" * 64):
    return {"exp_name": name, "num_tasks": tasks, "num_pass": round(rate * tasks), "pass_at_1": rate,
            "pass_at_1_stopped": rate, "avg_gen_len": length, "data_sha256": digest, "seconds": 3.0, "gpu": None,
            "cpu": "a processor", "cores": 2, "versions": {"torch": "2.13.0"},
            "num_samples": tasks,
            "args": {"data_path": data, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 128,
                     "time_limit": 5.0}}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    for name, rate in (
        ("pocket_rl_alpha0.01", 0.7),
        ("pocket_sft", 0.5),
        ("pocket_sft_seed1", 0.6),
        ("pocket_base", 0.3),
    ):
        (tmp_path / f"{name}_metrics.json").write_text(json.dumps(metrics(name, rate)))
    return tmp_path


def test_seeds_are_one_row_and_rows_tell_the_story(results):
    rows = read_rows(results)
    assert [row.name for row in rows] == ["pocket_base", "pocket_sft", "pocket_rl_alpha0.01"]
    sft = rows[1]
    assert (sft.num_seeds, sft.num_pass, sft.rate, sft.spread) == (2, 110, pytest.approx(0.55), (0.5, 0.6))
    assert sft.seeds == pytest.approx((0.55 - 0.6353, 0.55 + 0.6353), abs=1e-3)  # t of one degree of freedom: 12.706
    assert sft.interval == pytest.approx((0.4524, 0.6438), abs=1e-3)  # Wilson of 55 in 100, not of 110 in 200


def test_the_readme_gets_the_table_between_its_markers(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- yours:begin -->\nold\n<!-- yours:end -->\nafter\n")
    main(Args(results_dir=str(results), readme=str(readme)))
    text = readme.read_text()
    assert text.startswith("before\n<!-- yours:begin -->\n**pocket_test.jsonl, 100 tasks")
    assert text.endswith("<!-- yours:end -->\nafter\n") and "old" not in text
    assert "| pocket_sft | 55.0% | 45.2 to 64.4% | 0.0 to 100.0% | 110/200 | 55.0% | 40.0 |  |  |  |  |" in text
    assert "Seeds: 2 (pocket_sft), 1 (the rest)." in text
    assert "a processor, 2 cores; torch 2.13.0" in text
    main(Args(results_dir=str(results), readme=str(readme)))
    assert readme.read_text() == text
    assert (results / "length_vs_pass.png").read_bytes().startswith(b"\x89PNG")


def test_other_task_files_stand_in_other_tables(results):
    other = metrics("deepseek_sft", 0.4, tasks=33, data="data/humaneval_test.jsonl", digest="1" * 64)
    (results / "deepseek_sft_metrics.json").write_text(json.dumps(other))
    table = table_of(results)
    assert table.count("| method |") == 2 and table.index("humaneval_test.jsonl") < table.index("pocket_test.jsonl")


def test_what_is_missing_is_said(results, tmp_path):
    with pytest.raises(InputError, match="no \\*_metrics.json"):
        read_rows(tmp_path / "none")
    with pytest.raises(InputError, match="has no <!-- yours:begin -->"):
        insert("nothing here", "yours", "x")
    (results / "bad_metrics.json").write_text("{}")
    with pytest.raises(InputError, match="bad_metrics.json: not an evaluation"):
        read_rows(results)


def test_verilog_has_a_column_for_each_part(tmp_path):
    for seed, share in (("", 0.5), ("_seed1", 1.0)):
        record = metrics(f"v_sft{seed}", 0.4) | {"parts": {"compilation": 1.0, "functional": share}}
        (tmp_path / f"v_sft{seed}_metrics.json").write_text(json.dumps(record))
    (tmp_path / "v_base_metrics.json").write_text(json.dumps(metrics("v_base", 0.1)))
    terse = metrics("v_terse", 0.2)
    terse["args"] |= {"prompt_level": "terse", "instruct": True}
    (tmp_path / "v_terse_metrics.json").write_text(json.dumps(terse))
    table = table_of(tmp_path)
    assert "| avg length | compilation | functional | against SFT, 95% |" in table
    assert "| 40.0 | 100.0% | 75.0% |" in table and "| 40.0 |  |  |" in table
    assert "terse prompts, instruct, greedy" in table and table.count("| method |") == 2  # asked otherwise: apart


def per_task(folder, name, passed, tasks=100):
    lines = [{"task_id": f"t/{n}", "passed": n in passed} for n in range(tasks)]
    (folder / f"{name}_per_task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_difference_to_sft_is_paired_over_the_tasks(results):
    per_task(results, "pocket_sft", range(50))
    per_task(results, "pocket_sft_seed1", range(60))
    per_task(results, "pocket_rl_alpha0.01", range(30, 100))
    rows = {row.name: row for row in read_rows(results)}
    difference, (low, high), p = rows["pocket_rl_alpha0.01"].against_sft
    assert difference == pytest.approx(0.15) and low < 0.15 < high and 0.01 < p < 0.2
    assert rows["pocket_sft"].against_sft is None and rows["pocket_base"].against_sft is None  # it has no per-task file


def test_what_training_took_stands_in_the_table_and_in_the_csv(results):
    spent = {"sampled_tokens_since_sft": 60123, "seconds_since_sft": 75.0}
    record = metrics("pocket_ppo", 0.8) | {"commit": "abc1234", "command": "python eval_humaneval.py"}
    record["training"] = {"commit": "def5678", "command": "python train_ppo_lora.py", "spent": spent}
    (results / "pocket_ppo_metrics.json").write_text(json.dumps(record))
    (page := results / "docs" / "page.md").parent.mkdir()
    page.write_text("<!-- yours:begin --><!-- yours:end -->")
    main(Args(results_dir=str(results), readme=str(page)))
    table, short = (results / "table.md").read_text(), page.read_text()
    assert "| 60,123 | 1 min 15 s |" in table and "| 60,123 | 1 min 15 s |" in short
    assert "Commits and commands: [table.md](../table.md)." in short and "train_ppo_lora" not in short
    assert "pocket_ppo (abc1234, def5678):\n  python train_ppo_lora.py\n  python eval_humaneval.py" in table
    rows = list(csv.DictReader((results / "table.csv").open()))
    ppo = next(row for row in rows if row["method"] == "pocket_ppo")
    assert (ppo["sampled_tokens"], ppo["training_seconds"], ppo["pass_at_1"]) == ("60123", "75.0", "0.8")
    assert r"pocket\_ppo & 80.0\% & 71.1 to 86.7\%" in (results / "table.tex").read_text()


def test_rows_evaluated_differently_are_warned_of_and_strictly_refused(results, capsys):
    other = metrics("pocket_ppo", 0.8) | {"precision": "16-bit"}
    other["args"] |= {"time_limit": 60.0}
    (results / "pocket_ppo_metrics.json").write_text(json.dumps(other))
    (results / "pocket_sft_metrics.json").write_text(json.dumps(metrics("pocket_sft", 0.5) | {"precision": "4-bit"}))
    main(Args(results_dir=str(results), readme=""))
    said = sorted(line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: "))
    assert len(said) == 2 and "different precision:" in said[0] and "different time_limit:" in said[1]
    assert '"4-bit" (pocket_sft)' in said[0] and '"16-bit" (pocket_ppo)' in said[0] and "60.0 (pocket_ppo)" in said[1]
    (results / "table.md").unlink()
    with pytest.raises(InputError, match="--strict: rows on pocket_test.jsonl were evaluated with different"):
        main(Args(results_dir=str(results), readme="", strict=True))
    assert not (results / "table.md").exists()


def test_another_way_to_sample_is_no_mistake(results, capsys):
    sampled = metrics("pocket_sft_sampled", 0.5)
    sampled["args"] |= {"temperature": 0.2, "top_p": 0.95}
    (results / "pocket_sft_sampled_metrics.json").write_text(json.dumps(sampled))
    main(Args(results_dir=str(results), readme="", strict=True))
    assert "warning" not in capsys.readouterr().out


def test_the_overlap_of_the_task_files_is_reported(results):
    train, test = ROOT / "data" / "pocket_train.jsonl", ROOT / "data" / "pocket_test.jsonl"
    record = metrics("pocket_ppo", 0.8, data=str(test), digest=sha256(test))
    record["training"] = {"task_files": {str(train): sha256(train), "zz_gone.jsonl": "0"}}
    (results / "pocket_ppo_metrics.json").write_text(json.dumps(record))
    table = table_of(results)
    assert (
        f"Train/test overlap: {train}: 0 exact, 0 near, of 250 tasks; zz_gone.jsonl: not checked, zz_gone.jsonl is"
        in table
    )


def test_a_reproduction_is_held_against_the_committed_intervals(results, tmp_path, capsys):
    again = tmp_path / "again"
    again.mkdir()
    for name, rate in (("pocket_sft", 0.57), ("pocket_rl_alpha0.01", 0.9), ("pocket_new", 0.1)):
        (again / f"{name}_metrics.json").write_text(json.dumps(metrics(name, rate)))
    main(Args(results_dir=str(again), readme="", reproduces=str(results)))
    said = capsys.readouterr().out
    assert "pocket_sft: 57.0%, committed 55.0% (45.2% to 64.4%, 0.0% to 100.0%): within" in said
    assert "pocket_rl_alpha0.01: 90.0%, committed 70.0% (60.4% to 78.1%): OUTSIDE" in said
    assert "1 of 2 rows within the committed intervals" in said and "not among these runs: pocket_base" in said
    other = metrics("pocket_sft", 0.5, data="data/other.jsonl")
    for path in again.glob("*.json"):
        path.unlink()
    (again / "pocket_sft_metrics.json").write_text(json.dumps(other))
    main(Args(results_dir=str(again), readme="", reproduces=str(results)))
    assert "nothing to compare" in capsys.readouterr().out


def test_a_row_is_held_against_the_sft_of_its_own_kind(results):
    for name in ("mine_sft", "mine_ppo"):
        (results / f"{name}_metrics.json").write_text(json.dumps(metrics(name, 0.1)))
    per_task(results, "pocket_sft", range(50))
    per_task(results, "pocket_sft_seed1", range(50))
    per_task(results, "pocket_rl_alpha0.01", range(70))
    per_task(results, "mine_sft", range(10))
    per_task(results, "mine_ppo", range(30))
    found = {row.name: row.against_sft and row.against_sft[0] for row in read_rows(results)}
    assert found["pocket_rl_alpha0.01"] == pytest.approx(0.2) and found["mine_ppo"] == pytest.approx(0.2)


def test_odd_names_and_files_cost_no_table(results):
    record = metrics("a|b$x", 0.8, digest="0" * 64)
    record["training"] = {"task_files": {str(ROOT / "README.md"): sha256(ROOT / "README.md")}}
    (results / "odd_metrics.json").write_text(json.dumps(record))
    main(Args(results_dir=str(results), readme=""))
    assert "| a&#124;b$x |" in (results / "table.md").read_text()
    assert r"a|b\$x &" in (results / "table.tex").read_text()
    short = {key: value for key, value in metrics("c", 0.1).items() if key != "pass_at_1_stopped"}
    (results / "c_metrics.json").write_text(json.dumps(short))
    with pytest.raises(InputError, match="c_metrics.json: not an evaluation's"):
        read_rows(results)


@pytest.mark.parametrize(
    ("page", "section", "folder"),
    [
        ("README.md", "published", "published"),
        ("README.md", "real", "real"),
        ("docs/verilog.md", "verilog", "published_verilog"),
        ("docs/verilog.md", "verilogeval", "real/verilog"),
    ]
    + [("docs/ablations.md", path.name, f"ablations/{path.name}") for path in (ROOT / "results/ablations").glob("*/")],
)
def test_what_is_published_is_what_the_files_say(page, section, folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    link = os.path.relpath(ROOT / "results" / folder / "table.md", (ROOT / page).parent)
    text, table = (ROOT / page).read_text(encoding="utf-8"), table_of(ROOT / "results" / folder, link)
    # task files that a run made or downloaded: whether they are here is not the page's affair
    elsewhere = r"checkpoints/\S+: [^;]*; |data/(mbpp|humaneval)_\w+\.jsonl: .*?(?=; |\. )"
    assert re.sub(elsewhere, "", insert(text, section, table)) == re.sub(elsewhere, "", text)


@pytest.mark.parametrize("folder", ["published", "real", "real/verilog", "published_verilog"])
def test_published_rows_were_evaluated_alike(folder):
    assert mixed_settings(read_metrics(ROOT / "results" / folder)) == []


def test_two_rows_are_compared_task_by_task(results, capsys):
    per_task(results, "pocket_sft", {0}, 4)
    per_task(results, "pocket_sft_seed1", {0, 1}, 4)
    per_task(results, "pocket_rl_alpha0.01", {1, 2, 3}, 4)
    main(Args(results_dir=str(results), compare=("pocket_sft", "pocket_rl_alpha0.01")))
    first, won, lost = capsys.readouterr().out.splitlines()
    assert first.startswith("pocket_rl_alpha0.01 less pocket_sft: +37.5% (") and first.endswith(", 4 tasks")
    assert won == "won 3: t/2 0% to 100%, t/3 0% to 100%, t/1 50% to 100%" and lost == "lost 1: t/0 100% to 0%"
    assert not (results / "table.md").exists()


def test_what_was_evaluated_otherwise_is_not_compared(results):
    other = metrics("other", 0.4, data="data/pocket_valid.jsonl")
    (results / "other_metrics.json").write_text(json.dumps(other))
    for name in ("other", "pocket_base"):
        (results / f"{name}_per_task.jsonl").write_text(json.dumps({"task_id": "t", "passed": True}) + "\n")
    with pytest.raises(InputError, match="cannot be compared: .*pocket_test.jsonl.*; .*pocket_valid.jsonl"):
        main(Args(results_dir=str(results), compare=("pocket_base", "other")))
    with pytest.raises(InputError, match="has no row of that name"):
        main(Args(results_dir=str(results), compare=("pocket_base", "nobody")))
    with pytest.raises(InputError, match="want the names of two rows"):
        main(Args(results_dir=str(results), compare=("pocket_base",)))
    with pytest.raises(InputError, match="a per-task file of its runs is missing"):
        main(Args(results_dir=str(results), compare=("pocket_base", "pocket_sft")))
