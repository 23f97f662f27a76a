"""The pages of docs/methods say what the scripts do: their lines, flags, commands, figures and links exist."""

import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from common import parse_args
from judging.rewards import chosen_reward

FOLDER = Path("docs/methods")
PAGES = {
    "sft.md": ["train_sft_lora.py"],
    "reinforce.md": ["train_rl_lora.py"],
    "ppo.md": ["train_ppo_lora.py"],
    "grpo.md": ["train_grpo_lora.py"],
    "dpo.md": ["generate_dpo_data.py", "train_dpo_lora.py"],
    "rft.md": ["train_rft_lora.py"],
}
TRAINING = sorted({script for scripts in PAGES.values() for script in scripts})
EVERY = ["README.md", *PAGES]


def text_of(page: str) -> str:
    return (FOLDER / page).read_text(encoding="utf-8")


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """What stands in single backticks, outside the fences."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def scripts_of(page: str) -> list[str]:
    """The scripts that a page names under its title; of the front page, every one that trains."""
    named = re.findall(r"^Scripts?: .*?\n\n", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\(\.\./\.\./(\w+\.py)\)", named[0]) if named else TRAINING


def arguments(script: str) -> type:
    return importlib.import_module(script.removesuffix(".py")).Args


def flags(scripts: list[str]) -> set[str]:
    known = [field for script in scripts for field in fields(arguments(script))]
    return {f"--{field.name}" for field in known} | {f"--no_{field.name}" for field in known if field.type == "bool"}


def commands(text: str) -> list[list[str]]:
    """The words of each command in the sh fences."""
    lines = "".join(fences(text, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_its_scripts_and_quotes_their_lines(page):
    assert scripts_of(page) == PAGES[page]
    lines = {line.strip() for script in PAGES[page] for line in Path(script).read_text(encoding="utf-8").splitlines()}
    quoted = [line.strip() for fence in fences(text_of(page), "python") for line in fence.splitlines()]
    assert quoted, "quotes no line"
    assert [line for line in quoted if line not in lines] == []


@pytest.mark.parametrize("page", EVERY)
def test_flags_exist(page):
    known = flags(scripts_of(page))
    for span in spans(text_of(page)):
        if span.startswith("--"):
            assert span.split()[0] in known, span
            if " " in span:  # its value too
                assert any(fits(script, span.split()) for script in scripts_of(page)), span


def fits(script: str, words: list[str]) -> bool:
    return words[0] in flags([script]) and bool(parse_args(arguments(script), words))


@pytest.mark.parametrize("page", EVERY)
def test_commands_would_run(page):
    """They parse, pass the script's own checks, and read task files and models that ship with the repository."""
    found = commands(text_of(page))
    assert found, "has no command"
    for python, script, *words in found:
        assert python == "python" and script in [*TRAINING, "eval_humaneval.py"], script
        args = parse_args(arguments(script), words)
        getattr(importlib.import_module(script.removesuffix(".py")), "check", lambda args: None)(args)
        if hasattr(args, "reward"):
            chosen_reward(args)
        for name in ("train_path", "data_path", "model_name"):
            path = getattr(args, name, "checkpoints/")
            assert path.startswith("checkpoints/") or Path(path).exists(), f"{script} --{name} {path}"


@pytest.mark.parametrize("page", PAGES)
def test_figures_to_watch_are_explained(page):
    metrics = Path("docs/metrics.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]+) \|", metrics, flags=re.MULTILINE)  # the first of each row
    explained = {*spans("\n".join(cells)), *spans(section(metrics, "SFT")), *spans(section(metrics, "After training"))}
    watched = [span for span in spans(section(text_of(page), "What to watch")) if not span.startswith("--")]
    assert len(watched) >= 5
    assert [name for name in watched if name not in explained] == []


@pytest.mark.parametrize("page", EVERY)
def test_relative_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = FOLDER / path if path else FOLDER / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_its_parts(page):
    text = text_of(page)
    assert 80 <= len(text.splitlines()) <= 160
    for heading in ("The objective", "What to watch", "Variants", "When to take it", "References"):
        assert section(text, heading).strip(), heading
    assert page in text_of("README.md")
    math = re.findall(r"^\$\$\n(.*?)^\$\$$", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in math for line in block.splitlines()]
    assert lines and not [line for line in lines if line[:1] in "-+=#|"]  # to Markdown a list, or a heading
