"""docs/flags.md is what docs/make_flags.py writes of the scripts as they are."""

import importlib.util
import re
import subprocess
import sys

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("make_flags", ROOT / "docs" / "make_flags.py")
make_flags = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_flags)


def row(page: str, flag: str) -> list[str]:
    """The cells of a flag's row, the flag itself left out."""
    [line] = [line for line in page.splitlines() if line.startswith(f"| `{flag}` |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]


def test_the_page_is_not_stale():
    check = [sys.executable, "-S", "docs/make_flags.py", "--check"]  # -S: it takes no installed package
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_known_rows():
    page = make_flags.page(ROOT)
    assert row(page, "--clip_range_high") == [
        "number",
        "`0.0`",
        "how far it may rise; 0 takes --clip_range, or 4 for cispo (DAPO: 0.28)",
        "grpo",
    ]
    assert row(page, "--baseline")[:2] == ["`none`, `mean`, `rloo`", "`none`"]
    assert row(page, "--early_stopping")[:2] == ["switch", "on"]
    assert row(page, "RUNS …")[:2] == ["words", "must be given"]
    assert row(page, "--preflight")[3] == "policy"  # whose Args are in model/memory.py
    assert row(page, "--eval_on")[2].startswith("data sets or task files")
    kind, default, meaning, scripts = row(page, "--max_grad_norm")
    assert (default, scripts) == ("`1.0` (dpo, grpo, ppo, rft)<br>`0.0` (rl)", "dpo, grpo, ppo, rft, rl")
    assert meaning == "clip the gradient's norm to this; 0 turns clipping off"


def test_every_field_of_every_script_is_there():
    import curves
    import eval_humaneval
    import generate_dpo_data
    import merge_adapter
    import results_table
    import train
    import train_dpo_lora
    import train_grpo_lora
    import train_ppo_lora
    import train_rft_lora
    import train_rl_lora
    import train_sft_lora
    from model import memory

    modules = [curves, eval_humaneval, generate_dpo_data, memory, merge_adapter, results_table, train, train_dpo_lora]
    modules += [train_grpo_lora, train_ppo_lora, train_rft_lora, train_rl_lora, train_sft_lora]
    page, found = make_flags.page(ROOT), make_flags.all_flags(ROOT)
    for module in modules:
        script = {"model.memory": "policy"}.get(module.__name__, re.sub("^train_|_lora$", "", module.__name__))
        names = [flag.name.lstrip("-").split(" ")[0].lower() for flag in found if flag.script == script]
        assert sorted(names) == sorted(module.Args.__dataclass_fields__), script
    assert len(re.findall(r"^\| `", page, re.MULTILINE)) == len({flag.name for flag in found})


def test_a_field_and_its_comment_stand_on_one_line():
    """The parser does not see a comment inside parentheses, so a field that the formatter breaks has no help."""
    files = [*ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "data").glob("*.py")]
    files += [ROOT / "common" / "run_args.py", ROOT / "model" / "memory.py"]
    broken = re.compile(r"^    (\w+): [^=\n]+ = \(\n.*#", re.MULTILINE)
    assert {file.name: broken.findall(file.read_text()) for file in files if broken.search(file.read_text())} == {}
    assert broken.findall('    readme: str = (\n        "a"  # that file\n    )\n') == ["readme"]


def test_scripts_that_are_added_and_ones_that_borrow(tmp_path):
    body = 'class Args:\n    {}\n\n\nif __name__ == "__main__":\n    run_script(main, Args, __doc__)\n'
    (tmp_path / "report.py").write_text(body.format("seed: int | None = 7  # of | <what> is *drawn*"))
    (tmp_path / "part.py").write_text("class Args:\n    size: int = 1  # of no script\n")
    (tmp_path / "mine.py").write_text("from report import Args\n\nrun_script(main, Args, __doc__)\n")
    [flag] = make_flags.all_flags(tmp_path)
    assert flag == ("report", "--seed", "`int | None`", "`7`", r"of | &lt;what> is \*drawn\*")
    assert row(make_flags.page(tmp_path), "--seed")[:3:2] == [r"`int \| None`", r"of \| &lt;what> is \*drawn\*"]
    (tmp_path / "report.py").write_text(body.format("seed: int = 7"))
    with pytest.raises(SystemExit, match="report.py:2: seed has no comment"):
        make_flags.all_flags(tmp_path)


def test_a_stale_page_is_one_line(tmp_path):
    (tmp_path / "docs").mkdir()
    script = tmp_path / "docs" / "make_flags.py"
    script.write_text((ROOT / "docs" / "make_flags.py").read_text())
    (tmp_path / "a.py").write_text("class Args:\n    seed: int = 7  # of it\n\n\nrun_script(main, Args, '')\n")

    def call(*flags: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
        return done.returncode, done.stderr

    stale = (1, "error: docs/flags.md is stale: run python docs/make_flags.py to write it again\n")
    assert call("--check") == stale
    assert call() == (0, "") and call("--check") == (0, "")
    (tmp_path / "a.py").write_text("class Args:\n    seed: int = 8  # of it\n\n\nrun_script(main, Args, '')\n")
    assert call("--check") == stale
    assert call("--chekc") == (1, "error: want no option, or --check\n")
