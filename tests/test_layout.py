"""Imports point one way, nothing imports itself around a corner, a run needs only what its file of requirements lists,
and no file is longer than a sitting."""

import ast
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("common", "judging", "model", "reporting", "training")
MAY_IMPORT = {  # a package: those that it may import, beside itself; the root may import all of them
    "common": set(),
    "judging": {"common"},
    "model": {"common", "judging"},
    "reporting": {"common", "judging"},
    "training": {"common", "judging", "model", "reporting"},
}
LONGEST = 400


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    paths = [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports() -> dict[str, set[str]]:
    """What each module imports of the project, wherever in the file."""
    known, found = modules(), {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & known.keys()
            elif isinstance(node, ast.ImportFrom) and node.module:
                parts = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
                whole = {node.module} & known.keys()
                found[name] |= parts or whole
    return found


def package_of(name: str) -> str:
    first = name.partition(".")[0]
    return first if first in PACKAGES else "root"


def test_imports_point_one_way():
    wrong = [
        (name, imported)
        for name, found in imports().items()
        for imported in found
        if (package := package_of(name)) != "root" and package_of(imported) not in MAY_IMPORT[package] | {package}
    ]
    assert wrong == []


def test_there_is_no_circle():
    arrows, done = imports(), set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for imported in arrows[name]:
                walk(imported, (*way, name))
            done.add(name)

    for name in arrows:
        walk(name, ())


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_file_can_be_read_at_one_sitting(name):
    path = modules()[name]
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST


def test_a_script_depends_on_what_it_imports_but_not_on_the_report():
    from common.dependencies import files_of

    found = {str(path.relative_to(ROOT)) for path in files_of("train_rl_lora.py")}
    assert {"train_rl_lora.py", "training/run.py", "model/sampling.py", "judging/python/judge.py", "common/files.py",
            "judging/python/runner.py"} <= found  # fmt: skip
    assert not [name for name in found if name.startswith("reporting/") or "screen" in name or "train_ppo" in name]


WITH_THEM = {"huggingface_hub", "safetensors", "tokenizers"}  # packages that transformers and peft bring
WHEN_ASKED = {"openai", "vllm", "wandb", "trackio"}  # a flag asks for them; an error names the pip line


def required(name: str) -> set[str]:
    """The packages that a file of requirements lists, each with a version, as they are imported."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("-r ")]
    assert [line for line in lines if not re.fullmatch(r"[\w-]+==[\d.]+", line)] == []
    return {line.partition("==")[0].lower().replace("pyyaml", "yaml") for line in lines}


def imported() -> set[str]:
    """The packages that the scripts, their modules and the scripts in `data/` import, wherever in the file."""
    found, data = set(), list(ROOT.glob("data/*.py"))
    for path in (*modules().values(), *data):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return (
        found - sys.stdlib_module_names - {name.partition(".")[0] for name in modules()} - {path.stem for path in data}
    )


def test_a_run_needs_only_what_its_requirements_list():
    run, tests = required("requirements.txt"), required("requirements-tests.txt")
    assert run & tests == set()
    assert imported() - WITH_THEM - WHEN_ASKED == run
    assert WHEN_ASKED - {"vllm"} <= tests
