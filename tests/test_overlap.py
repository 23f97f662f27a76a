"""Which test tasks a train file holds already."""

from overlap import function_name, overlap

WORDS = [f"word{n}" for n in range(40)]
DOC = 'def f(x):\n    """' + " ".join(WORDS) + '"""\n'
OTHER = 'def f(x):\n    """' + " ".join(reversed(WORDS)) + '"""\n'


def task(name, prompt, solution, entry="f"):
    return {"task_id": name, "prompt": prompt, "canonical_solution": solution, "entry_point": entry}


def test_a_renamed_and_reindented_copy_is_exact():
    train = [task("train/0", DOC, "    return x + 1\n")]
    copy = task("test/0", DOC.replace("def f", "def g").replace("    ", "\t"), "    return 1 + x\n", "g")
    same_body = task("test/1", OTHER, "    return x  +  1\n")
    assert overlap(train, [copy, same_body]).exact == [("test/0", "train/0"), ("test/1", "train/0")]


def test_a_copy_with_a_word_changed_is_near_and_the_likest_is_named():
    train = [task("train/0", OTHER, "    return 0\n"), task("train/1", DOC, "    return x + 1\n")]
    changed = task("test/0", DOC.replace("word20", "another"), "    return x + 2\n")
    found = overlap(train, [changed])
    ((test, likest, share),) = found.near
    assert (test, likest) == ("test/0", "train/1") and 0.7 <= share < 1 and not found.exact
    assert not overlap(train, [changed], near=share + 0.01).near


def in_mbpp_s_form(name, prompt, function):
    solution = f"def helper(n):\n    return n\n\ndef {function}(n):\n    return helper(n) + 1\n"
    return {"task_id": name, "prompt": f'"""\n{prompt}\nassert {function}(1) == 2\n"""\n', "test_setup_code": "",
            "canonical_solution": solution, "test_list": [f"assert {function}(1) == 2"]}  # fmt: skip


def test_the_function_s_name_does_not_count_in_mbpp_s_form_either():
    renamed = in_mbpp_s_form("test/0", "Add one.", "increase")
    assert overlap([in_mbpp_s_form("train/0", "Add one.", "f")], [renamed]).exact == [("test/0", "train/0")]
    solution = in_mbpp_s_form("", "", "g")["canonical_solution"]
    for name in ("g", "increase"):  # one side in HumanEval's form, with the same solution
        other = task("train/0", DOC, solution.replace("g(", f"{name}("), name)
        assert overlap([other], [renamed]).exact == [("test/0", "train/0")]
        assert overlap([renamed], [other]).exact == [("train/0", "test/0")]
    if_called = renamed | {"test_list": ["assert max(diff(1), 2) == 2"], "canonical_solution": "def f(n):\n    pass\n"}
    assert function_name(if_called) == ""


def test_imports_that_many_tasks_share_do_not_count():
    stars = "".join(f"from {word} import *\n" for word in WORDS)
    with_them = task("test/0", stars + DOC, "    return x + 1\n")
    assert overlap([task("train/0", DOC, "    return x + 1\n")], [with_them]).exact == [("test/0", "train/0")]
    short, other = 'def f(x):\n    """Count."""\n', 'def f(x):\n    """Add one to x."""\n'
    found = overlap(
        [task("train/0", stars + short, "    return 0\n")], [task("test/0", stars + other, "    return x\n")]
    )
    assert (found.exact, found.near) == ([], [])


def test_empty_solutions_are_not_the_same():
    assert overlap([task("train/0", DOC, "")], [task("test/0", OTHER, "")]).exact == []
    assert overlap([task("train/0", DOC, "")], [task("test/0", DOC, "")]).exact == [("test/0", "train/0")]


def test_other_tasks_are_neither(run_cli):
    found = overlap([task("train/0", OTHER, "    return 0\n")], [task("test/0", DOC, "    return x + 1\n")])
    assert (found.exact, found.near, str(found)) == ([], [], "0 exact, 0 near, of 1 tasks")
    files = ["--train_path", "data/pocket_valid.jsonl", "--data_path", "data/pocket_valid.jsonl"]
    code, out, _ = run_cli("overlap.py", *files)
    assert code == 0 and "200 exact" in out
    code, _, err = run_cli("overlap.py", "--near", "0")
    assert code == 2 and "--near 0.0: must be in (0, 1]" in err and err.count("\n") == 1
