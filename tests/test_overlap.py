"""Which test tasks a train file holds already."""

from overlap import overlap

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


def test_other_tasks_are_neither(run_cli):
    found = overlap([task("train/0", OTHER, "    return 0\n")], [task("test/0", DOC, "    return x + 1\n")])
    assert (found.exact, found.near, str(found)) == ([], [], "0 exact, 0 near, of 1 tasks")
    files = ["--train_path", "data/pocket_valid.jsonl", "--data_path", "data/pocket_valid.jsonl"]
    code, out, _ = run_cli("overlap.py", *files)
    assert code == 0 and "200 exact" in out
    code, _, err = run_cli("overlap.py", "--near", "0")
    assert code == 2 and "--near 0.0: must be in (0, 1]" in err and err.count("\n") == 1
