"""The pages for those who carry on the work name what is there, all of it, and nothing else."""

import re

import pytest
from conftest import ROOT

PAGES = ("docs/design.md", "CONTRIBUTING.md", "CHANGELOG.md")
PATH = re.compile(r"(?!-)[\w./*-]+(?:\.(?:py|sh|md|toml|txt|yaml|jsonl)|/)")
PLACEHOLDERS = {"FILE.py"}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def paths_in(text: str) -> set[str]:
    """Words in backticks, or in a fenced block, that look like a path of the project.

    >>> sorted(paths_in("`sh a.sh --slow` and `b/` and `c.py:f` and d.py"))
    ['a.sh', 'b/']
    """
    code = re.findall(r"```.*?```", text, re.DOTALL)
    for block in code:
        text = text.replace(block, "")
    code += re.findall(r"`([^`]+)`", text)
    return {word for part in code for word in part.split() if PATH.fullmatch(word)} - PLACEHOLDERS


def layout() -> str:
    return text_of("docs/design.md").partition("\n## Layout\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_is_there(page):
    found = paths_in(text_of(page))
    assert len(found) > 5
    assert sorted(path for path in found if not list(ROOT.glob(path))) == []


def test_every_script_and_module_stands_in_the_layout_once():
    named, folder = [], ""
    for line in layout().splitlines():
        words = line.split()
        if line.startswith("      ") and words[0].endswith(".py"):
            named.append(folder + words[0])
        elif line.startswith("    ") and words and words[0].endswith("/"):
            folder = words[0]
        elif line.startswith("    ") and words and re.fullmatch(r"\w+\.(py|sh)", words[0]):
            named.append(words[0])
        else:
            continue
        assert len(words) > 2, line  # and what it is for
    folders = ["", "training/", "model/", "reporting/", "judging/", "judging/python/", "judging/verilog/", "common/"]
    there = [path.relative_to(ROOT) for name in folders for path in (ROOT / name).glob("*.py")] + [*ROOT.glob("*.sh")]
    assert sorted(named) == sorted(path.name if path.is_absolute() else str(path) for path in there
                                   if path.name != "__init__.py")  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page))
    relative = [target for target in targets if "://" not in target]
    folder = (ROOT / page).parent
    lost = [target for target in relative if not (folder / target).exists()]
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page):
    assert [number for number, line in enumerate(text_of(page).splitlines(), start=1) if len(line) > 120] == []
