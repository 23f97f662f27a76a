import json

import pytest

import results_table
from common import InputError
from results_table import Args, insert, main, read_rows


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
    assert sft.interval == pytest.approx((0.4524, 0.6438), abs=1e-3)  # Wilson of 55 in 100, not of 110 in 200


def test_the_readme_gets_the_table_between_its_markers(results, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- yours:begin -->\nold\n<!-- yours:end -->\nafter\n")
    main(Args(results_dir=str(results), readme=str(readme)))
    text = readme.read_text()
    assert text.startswith("before\n<!-- yours:begin -->\n**pocket_test.jsonl, 100 tasks")
    assert text.endswith("<!-- yours:end -->\nafter\n") and "old" not in text
    assert "| pocket_sft | 55.0% | 110/200 | 40.0 | 55.0% | 45.2% to 64.4% | 2 (50.0% to 60.0%) | 3 s |" in text
    assert "a processor, 2 cores; torch 2.13.0" in text
    main(Args(results_dir=str(results), readme=str(readme)))
    assert readme.read_text() == text
    assert (results / "length_vs_pass.png").read_bytes().startswith(b"\x89PNG")


def test_other_task_files_stand_in_other_tables(results):
    other = metrics("deepseek_sft", 0.4, tasks=33, data="data/humaneval_test.jsonl", digest="1" * 64)
    (results / "deepseek_sft_metrics.json").write_text(json.dumps(other))
    table = results_table.markdown(read_rows(results))
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
    table = results_table.markdown(read_rows(tmp_path))
    assert "| seeds | compilation | functional | evaluation |" in table
    assert "2 (40.0% to 40.0%) | 100.0% | 75.0% | 3 s |" in table and "| 1 |  |  | 3 s |" in table
    assert "terse prompts, instruct, greedy" in table and table.count("| method |") == 2  # asked otherwise: apart


def test_two_rows_are_compared_task_by_task(results, capsys):
    def per_task(name, passed):
        lines = [{"task_id": f"t/{n}", "passed": n in passed} for n in range(4)]
        (results / f"{name}_per_task.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    per_task("pocket_sft", {0})
    per_task("pocket_sft_seed1", {0, 1})
    per_task("pocket_rl_alpha0.01", {1, 2, 3})
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
    with pytest.raises(InputError, match="no such per-task file"):
        main(Args(results_dir=str(results), compare=("pocket_base", "pocket_sft")))
