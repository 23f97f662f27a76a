import csv
import json
import os
import re

import pytest
from conftest import ROOT

from common import InputError, sha256
from reporting.comparisons import pairs
from reporting.rows import load_rows, mixed_settings, read_metrics, read_rows
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
    # logit 0.2007 +- 12.706 (t of one degree of freedom) * 0.05 / (0.55 * 0.45)
    assert sft.seeds == pytest.approx((0.0858, 0.9409), abs=1e-3)
    assert sft.tasks_and_seeds is None  # the per-task files are missing; one seed needs none
    assert rows[0].tasks_and_seeds == rows[0].interval
    assert sft.interval == pytest.approx((0.4524, 0.6438), abs=1e-3)  # Wilson of 55 in 100, not of 110 in 200


def test_the_readme_gets_the_table_between_its_markers(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- yours:begin -->\nold\n<!-- yours:end -->\nafter\n")
    main(Args(results_dir=str(results), readme=str(readme)))
    text = readme.read_text()
    assert text.startswith("before\n<!-- yours:begin -->\n**pocket_test.jsonl, 100 tasks")
    assert text.endswith("<!-- yours:end -->\nafter\n") and "old" not in text
    assert "| pocket_sft | 55.0% |  | 8.6 to 94.1% | 110/200 | 55.0% | 40.0 |  |  |  |  |" in text
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
    assert "| avg length | compilation | functional | adapters against SFT, 95% |" in table
    assert "| 40.0 | 100.0% | 75.0% |" in table and "| 40.0 |  |  |" in table
    assert "terse prompts, instruct, greedy" in table and table.count("| method |") == 2  # asked otherwise: apart


def per_task(folder, name, passed, tasks=100):
    lines = [{"task_id": f"t/{n}", "passed": n in passed} for n in range(tasks)]
    (folder / f"{name}_per_task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = folder / f"{name}_metrics.json"
    counts = {"num_tasks": tasks, "num_samples": tasks, "num_pass": sum(line["passed"] for line in lines)}
    path.write_text(json.dumps(json.loads(path.read_text()) | counts))


def test_the_difference_to_sft_is_paired_over_the_tasks(results):
    per_task(results, "pocket_sft", range(50))
    per_task(results, "pocket_sft_seed1", range(60))
    per_task(results, "pocket_rl_alpha0.01", range(30, 100))
    rows = {row.name: row for row in read_rows(results)}
    against = rows["pocket_rl_alpha0.01"].against_sft
    difference, (low, high), p = against.shown
    assert (against.methods, against.num_seeds) == (None, 1) and against.shown == against.adapters
    assert against.holm == p
    # 0.7 less the 0.5 of seed 42, in which both were trained, not less the 0.55 of both seeds; 50 won, 30 lost
    assert difference == pytest.approx(0.2) and low < 0.2 < high and 0.01 < p < 0.1
    assert rows["pocket_sft"].against_sft is None and rows["pocket_base"].against_sft is None  # it has no per-task file


def test_what_training_took_stands_in_the_table_and_in_the_csv(results):
    spent = {"sampled_tokens_since_sft": 60123, "seconds_since_sft": 75.0}
    record = metrics("pocket_ppo", 0.8) | {"commit": "abc1234", "command": "python eval_humaneval.py"}
    record["training"] = {"commit": "def5678", "command": "python train_ppo_lora.py", "spent": spent,
                          "pairs_command": "python generate_dpo_data.py"}  # fmt: skip
    (results / "pocket_ppo_metrics.json").write_text(json.dumps(record))
    (page := results / "docs" / "page.md").parent.mkdir()
    page.write_text("<!-- yours:begin --><!-- yours:end -->")
    main(Args(results_dir=str(results), readme=str(page)))
    table, short = (results / "table.md").read_text(), page.read_text()
    assert "| 60,123 | 1 min 15 s |" in table and "| 60,123 | 1 min 15 s |" in short
    assert "Commits and commands: [table.md](../table.md)." in short and "train_ppo_lora" not in short
    commands = ["python generate_dpo_data.py", "python train_ppo_lora.py", "python eval_humaneval.py"]  # in this order
    assert "\n  ".join(["pocket_ppo (abc1234, def5678):", *commands]) in table
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


@pytest.mark.parametrize(
    "name, value",
    [("allow_weak_tests", True), ("packages", "numpy"), ("base_weights", {"model.safetensors": "ff"})],
)
def test_what_decides_a_verdict_or_a_model_is_a_setting(name, value, results, capsys):
    """A comparison in words says it as the tables do."""
    (results / "pocket_sft_seed1_metrics.json").unlink()
    one, other = metrics("pocket_sft", 0.5), metrics("pocket_ppo", 0.8)
    one["args"] |= {"allow_weak_tests": False, "packages": ""}
    one |= {"base_model": "m", "precision": "NF4", "base_weights": {"model.safetensors": "00"}}
    other = one | other | {"args": one["args"] | {name: value}}
    if name == "base_weights":
        other[name] = value
    for record in (one, other):
        (results / f"{record['exp_name']}_metrics.json").write_text(json.dumps(record))
        per_task(results, record["exp_name"], range(50))
    main(Args(results_dir=str(results), readme=""))
    said = f"rows on pocket_test.jsonl were evaluated with different {name}: "
    assert f"warning: {said}" in capsys.readouterr().out and f"Warning: {said}" in (results / "table.md").read_text()
    for way in ({"compare": ("pocket_sft", "pocket_ppo")}, {"pairs": True}):
        main(Args(results_dir=str(results), **way))
        assert f"warning: {said}" in capsys.readouterr().out
        with pytest.raises(InputError, match=f"--strict: {said}"):
            main(Args(results_dir=str(results), strict=True, **way))


def test_completions_without_a_verdict_or_with_a_weak_one_are_said_under_the_table(results):
    record = metrics("pocket_sft", 0.5) | {"unjudged": 30, "weak": 2}
    (results / "pocket_sft_metrics.json").write_text(json.dumps(record))
    text = table_of(results)
    assert "pocket_sft: 30 completions could not be judged and count as failed. " in text
    assert "pocket_sft: 2 completions were judged in their own process (--allow_weak_tests). " in text


def test_per_task_files_of_another_evaluation_are_refused(results):
    per_task(results, "pocket_base", range(30))
    load_rows(results)
    path = results / "pocket_base_per_task.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    failed = [line.replace("true", "false") for line in lines]
    for text, says in ((lines[:-1], "num_tasks 99, its metrics file 100"),
                       (lines + lines[-1:], "num_samples 101, its metrics file 100"),
                       (failed, "num_pass 0, its metrics file 30")):  # fmt: skip
        path.write_text("".join(text))
        with pytest.raises(InputError, match=f"pocket_base_per_task.jsonl: has {says}: they are not of one evaluation"):
            load_rows(results)


@pytest.mark.parametrize(
    "change",
    [{"num_tasks": 0}, {"pass_at_1": float("nan")}, {"pass_at_1_stopped": 1.5}, {"temperature": "hot"}, b"\xff"],
)
def test_a_file_that_holds_no_figures_is_named_in_a_line(change, results):
    record = metrics("bad", 0.5)
    if change == {"temperature": "hot"}:
        record["args"] |= change
    elif isinstance(change, dict):
        record |= change
    (results / "bad_metrics.json").write_bytes(change if isinstance(change, bytes) else json.dumps(record).encode())
    with pytest.raises(InputError, match="bad_metrics.json: not an evaluation's metrics"):
        read_metrics(results)


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
    assert "pocket_sft: 57.0%, committed 55.0%, predicted -55.0% to 165.0% (2 and 1 seeds): within" in said
    assert re.search(r"pocket_rl_alpha0.01: 90.0%, committed 70.0%, predicted 5\d.\d% to .* tasks\): OUTSIDE", said)
    assert (
        "1 of 2 rows reproduced (0.1 outside by chance alone)" in said and "not among these runs: pocket_base" in said
    )
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
    found = {row.name: row.against_sft and row.against_sft.adapters[0] for row in read_rows(results)}
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
    per_task(results, "pocket_base", {0}, 4)
    per_task(results, "pocket_sft", {0}, 4)
    per_task(results, "pocket_sft_seed1", {0, 1}, 4)
    per_task(results, "pocket_rl_alpha0.01", {1, 2, 3}, 4)
    main(Args(results_dir=str(results), compare=("pocket_sft", "pocket_rl_alpha0.01")))
    first, adapters, methods, won, lost = capsys.readouterr().out.splitlines()
    assert first == "pocket_rl_alpha0.01 less pocket_sft, points with 95%"
    assert adapters.startswith("these adapters differ: +50.0 (") and "(4 tasks, randomisation test; other" in adapters
    assert methods == "these methods differ: one seed: no test of methods"  # SFT's other seed has no partner
    assert won == "won 3: t/1 0% to 100%, t/2 0% to 100%, t/3 0% to 100%" and lost == "lost 1: t/0 100% to 0%"
    main(Args(results_dir=str(results), compare=("pocket_base", "pocket_sft")))  # the mean of both seeds
    _, adapters, _, won, lost = capsys.readouterr().out.splitlines()
    assert adapters.startswith("these adapters differ: +12.5 (") and (won, lost) == ("won 1: t/1 0% to 50%", "lost 0: ")
    assert not (results / "table.md").exists()


def test_what_was_evaluated_otherwise_is_not_compared(results):
    other = metrics("other", 0.4, data="data/pocket_valid.jsonl")
    (results / "other_metrics.json").write_text(json.dumps(other))
    for name in ("other", "pocket_base"):
        per_task(results, name, {0}, 1)
    with pytest.raises(InputError, match="cannot be compared: .*pocket_test.jsonl.*; .*pocket_valid.jsonl"):
        main(Args(results_dir=str(results), compare=("pocket_base", "other")))
    with pytest.raises(InputError, match="has no row of that name"):
        main(Args(results_dir=str(results), compare=("pocket_base", "nobody")))
    with pytest.raises(InputError, match="want the names of two rows"):
        main(Args(results_dir=str(results), compare=("pocket_base",)))
    with pytest.raises(InputError, match="a per-task file of its runs is missing"):
        main(Args(results_dir=str(results), compare=("pocket_base", "pocket_sft")))


@pytest.fixture
def seeded(tmp_path):
    """A base, an SFT start and two methods of three seeds; one method of one seed. SFT's differences: 10, 20, 30."""
    areas = {"m_ppo": (0.5, 0.52, 0.51), "m_rl": (0.4, 0.41, 0.42)}
    rates = {
        "m_base": (0.2,),
        "m_sft": (0.5, 0.4, 0.3),
        "m_rl": (0.6, 0.6, 0.6),
        "m_ppo": (0.7, 0.61, 0.5),
        "m_dpo": (0.55,),
    }
    for name, of_seeds in rates.items():
        for number, rate in enumerate(of_seeds):
            full = name + f"_seed{number}" * bool(number)
            record = metrics(full, rate)
            if name in areas:
                record["training"] = {"spent": {"area": areas[name][number]}}
            (tmp_path / f"{full}_metrics.json").write_text(json.dumps(record))
            per_task(tmp_path, full, range(round(100 * rate)))
    return tmp_path


def test_methods_are_compared_by_seed_and_adapters_over_tasks(seeded):
    rows = {row.name: row for row in read_rows(seeded)}
    difference, (low, high), p = rows["m_rl"].against_sft.methods
    spread = 4.302653 * 0.1 / 3**0.5  # differences 0.1, 0.2, 0.3
    assert (difference, low, high) == pytest.approx((0.2, 0.2 - spread, 0.2 + spread)) and p == pytest.approx(
        0.0742, abs=1e-4
    )
    assert rows["m_rl"].against_sft.adapters[0] == pytest.approx(0.2)
    assert rows["m_rl"].against_sft.adapters[2] < 0.001  # these adapters differ, without a doubt
    dpo = rows["m_dpo"].against_sft
    assert (dpo.methods, dpo.num_seeds, dpo.shown) == (None, 1, dpo.adapters)
    assert dpo.adapters[0] == pytest.approx(0.05)  # 0.55 less SFT's 0.5 in that seed
    assert rows["m_dpo"].against_base.adapters[0] == pytest.approx(0.35)
    low, high = rows["m_rl"].tasks_and_seeds
    assert low < rows["m_rl"].interval[0] + 0.02 and 0.49 < low < 0.6 < high < 0.7


def test_a_base_row_stands_for_every_seed(seeded):
    rows = {row.name: row for row in read_rows(seeded)}
    against = rows["m_sft"].against_base  # differences 0.3, 0.2, 0.1
    assert against.num_seeds == 3 and against.methods[:1] == (pytest.approx(0.2),)
    assert rows["m_base"].untrained and not rows["m_sft"].untrained
    assert rows["m_base"].against_sft.methods[0] == pytest.approx(-0.2)


def test_a_table_says_which_sentence_its_columns_make(seeded):
    table = table_of(seeded)
    assert "| 95% over tasks and seeds | over seeds | area, 95% over seeds |" in table
    assert "| methods against SFT, 95% | p (Holm) |" in table
    rl, dpo = (next(line for line in table.splitlines() if line.startswith(f"| {name} ")) for name in ("m_rl", "m_dpo"))
    assert "| +20.0 (-4.8 to +44.8) | 0.192 |" in rl and "41.0% (38.5 to 43.5%)" in rl  # dpo's 0.064, second of four
    assert ", these adapters |" in dpo
    assert "the difference of the methods on these tasks, paired by seed (Student's t); with \"these" in table
    for path in seeded.glob("*_seed*"):
        path.unlink()
    table = table_of(seeded)
    assert "| adapters against SFT, 95% | p (Holm) |" in table and "| 95% over tasks | area" in table
    assert "fewer than 3 seeds are too few to test methods" in table and "over seeds |" not in table.replace(
        "95% over seeds", ""
    )


def test_the_csv_has_both_statements(seeded, capsys):
    main(Args(results_dir=str(seeded), readme=""))
    rows = {row["method"]: row for row in csv.DictReader((seeded / "table.csv").open())}
    numbers = ("against_sft", "methods_against_sft", "p_value", "methods_p_value", "p_value_holm", "area")
    rl = {name: float(rows["m_rl"][name]) for name in numbers}
    assert rl["against_sft"] == pytest.approx(0.2) == rl["methods_against_sft"]
    assert rl["p_value"] < 0.001 < 0.07 < rl["methods_p_value"] < rl["p_value_holm"] and rl["area"] == pytest.approx(
        0.41
    )
    assert rows["m_dpo"]["methods_against_sft"] == "" != rows["m_dpo"]["against_sft"]
    assert r"\% Seeds" not in (seeded / "table.tex").read_text()
    assert r"methods against SFT, 95\% & p (Holm)" in (seeded / "table.tex").read_text()


def test_every_pair_of_methods_is_tested_by_seed_with_the_area_as_a_second_outcome(seeded, capsys):
    main(Args(results_dir=str(seeded), pairs=True))
    said = capsys.readouterr().out
    assert "| m_rl, m_ppo | 3 | -0.3 (-25.2 to +24.5) | 0.959 | 0.959 |" in said
    assert "pass@1: 0 of 1 pairs told apart at 5% after Holm's correction (0 before it); 2 with fewer than 3" in said
    assert "| m_rl, m_ppo | 3 | -10.0 (-12.5 to -7.5) | 0.003 | 0.003 |" in said and "area: 1 of 1 pairs told" in said
    assert "m_sft" not in said and "m_base" not in said and not (seeded / "table.md").exists()
    main(Args(results_dir=str(seeded), compare=("m_rl", "m_ppo")))
    said = capsys.readouterr().out
    assert "these methods differ, area: +10.0 (+7.5 to +12.5), p = 0.0033 (3 seeds, paired t)" in said
    for path in seeded.glob("m_ppo*"):
        path.unlink()
    for path in seeded.glob("m_dpo*"):
        path.unlink()
    assert "pass@1: fewer than two methods, no pairs" in pairs(load_rows(seeded))


def test_two_runs_of_one_seed_are_refused(seeded):
    (seeded / "m_rl_seed42_metrics.json").write_text(json.dumps(metrics("m_rl_seed42", 0.5)))
    with pytest.raises(InputError, match="m_rl: two runs of the same seed"):
        read_rows(seeded)


def test_an_evaluation_of_the_same_adapter_reproduces_itself_and_another_one_does_not(seeded, tmp_path, capsys):
    again = tmp_path / "again"
    again.mkdir()
    for name, rate in (("m_dpo", 0.55), ("m_base", 0.26), ("m_rl", 0.6), ("m_rl_seed1", 0.6), ("m_rl_seed2", 0.61)):
        (again / f"{name}_metrics.json").write_text(json.dumps(metrics(name, rate)))
        per_task(again, name, range(round(100 * rate)))
    main(Args(results_dir=str(again), readme="", reproduces=str(seeded)))
    said = capsys.readouterr().out
    assert re.search(
        r"m_dpo: 55.0%, committed 55.0%, predicted 5\d.\d% to 5\d.\d% \(one seed, over tasks\): within", said
    )
    assert re.search(r"m_base: 26.0%, committed 20.0%, .*: OUTSIDE", said)  # six tasks more, none less
    # all three committed seeds have 60%: the variance is that of 60, 60 and 61 and of none, so 1/6 of a task squared
    assert "m_rl: 60.3%, committed 60.0%, predicted 59.1% to 60.9% (3 and 3 seeds): within" in said
    assert "2 of 3 rows reproduced (" in said and "to be seen, a row had to move by" in said
