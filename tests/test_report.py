"""report.py without a browser: what it reads, how tokens are cut, what it refuses, how it escapes."""

import base64
import functools
import hashlib
import json
import re

import pytest
from conftest import ROOT, SHARED
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from synthetic_run import HOSTILE, LOG, ROW, hostile_run, write_run

import report
import train_grpo_lora
from common import InputError, printable
from report import Args, content, figures, find_run, main, render
from reporting.rollouts import pieces, pieces_by_prefix, read_rollouts, thinned


def written(folder, **how) -> str:
    main(Args(str(folder), **how))
    return (folder / "report.html").read_text()


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


# what is read


def test_a_figure_has_its_points_its_line_and_its_means_at_both_ends():
    log = {step: {"step": step, "reward": float(step), "note": "x"} for step in range(1, 21)}
    log[3]["valid"] = 0.5
    log[4]["valid"] = float("nan")
    found = figures(log, 3)
    assert list(found) == ["reward", "valid"]
    assert (found["reward"]["first"], found["reward"]["last"]) == (1.5, 19.5)  # of two of twenty steps
    assert found["reward"]["line"] == [1.5, *range(2, 20), 19.5]
    assert found["valid"] == {"x": (3,), "y": (0.5,), "line": [0.5], "first": 0.5, "last": 0.5}


def test_settings_that_differ_from_the_scripts_defaults_stand_first():
    rows = report.settings({"args": {"seed": 42, "batch_size": 3, "learning_rate": 0.5, "forgotten": None}}, "grpo")
    assert [(row["name"], row["value"], row["differs"]) for row in rows] == [
        ("batch_size", "3", True), ("learning_rate", "0.5", True), ("seed", "42", False), ("forgotten", "none", False),
    ]  # fmt: skip
    assert rows[0]["default"] == str(train_grpo_lora.Args.batch_size)
    assert rows[3]["default"] is None


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_run_without_sampling_has_its_curves_alone(method, tmp_path):
    log = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5}, {"step": 2, "train_runtime": 3.0}]
    page = data_of(written(write_run(tmp_path / "run", log, None, method)))
    assert page["main"] == ["loss"] and page["figures"]["loss"]["y"] == [0.7, 0.5] and page["notes"] == []
    assert "train_runtime" in page["figures"] and "rollouts" not in page


def test_a_run_without_rollouts_says_how_to_record_them(tmp_path, capsys):
    page = data_of(written(write_run(tmp_path / "run", LOG, None)))
    assert page["notes"] == [
        "No rollouts were recorded. Training with --log_completions 1 records those of every step."
    ]
    assert "--log_completions 1" in capsys.readouterr().out


def test_a_run_that_is_going_is_read_as_far_as_it_is_written(tmp_path):
    folder = write_run(tmp_path / "run.partial", LOG, [ROW, ROW | {"step": 2}])
    for name in ("grpo_train_log.jsonl", "completions.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"step": 11, "rew')
    assert find_run(str(tmp_path / "run")) == (folder, "grpo")
    main(Args(str(tmp_path / "run")))
    page = data_of((folder / "report.html").read_text())
    assert page["name"] == "run" and page["going"] and page["steps"] == 10 and len(page["rollouts"]) == 2
    assert not (tmp_path / "run").exists()  # training would find it in its way
    folder.rename(tmp_path / "run")
    with pytest.raises(InputError, match=r"grpo_train_log.jsonl:11: not JSON"):
        main(Args(str(tmp_path / "run")))


def test_older_rows_are_shown_as_text(tmp_path):
    rows = [ROW | {"reason": "", "reward": 0.5, "advantage": float("nan"), "length": 3, "parts": {"synthesis": 1.0}}]
    page = content(write_run(tmp_path / "run", LOG, rows), "grpo", 9, 9)
    assert page["rollouts"] == [{"step": 1, "task": 0, "status": "pass", "reward": 0.5, "advantage": None, "length": 3,
                                 "parts": {"synthesis": 1.0}, "completion": "return 1"}]  # fmt: skip
    assert page["tasks"] == ["t/1"] and page["prompts"] == [] and "no tokens" in page["notes"][0]


def test_tokens_come_with_their_log_probabilities(pocket, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pocket)
    ids = [*tokenizer("    return 1\n", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    row = ROW | {"completion": "    return 1\n", "prompt": "def f():\n", "token_ids": ids,
                 "logprobs": [-0.25] * len(ids), "token_advantages": [0.5] * len(ids)}  # fmt: skip
    cut = row | {"completion": "    return"}  # at a stop string
    other = row | {"completion": "pass"}  # of another tokenizer
    page = content(write_run(tmp_path / "run", LOG, [row, cut, other], sft_model=pocket), "grpo", 9, 9)
    first, second, third = page["rollouts"]
    spelt = [page["tokens"][number] for number in first["tokens"]]
    assert "".join(piece for _, piece, _ in spelt[:-1]) == "    return 1\n" and [i for i, _, _ in spelt] == ids
    assert [special for _, _, special in spelt] == [0] * (len(ids) - 1) + [1]
    assert first["logprobs"] == [-2500] * len(ids) and first["token_advantages"] == [0.5] * len(ids)
    assert "completion" not in first and second["tokens"] and second["completion"] == "    return"
    assert "tokens" not in third and third["completion"] == "pass"
    assert "The tokens of 1 rollouts decode to other text" in page["notes"][0]


def test_without_a_tokenizer_there_is_text_and_a_word_about_it(tmp_path):
    row = ROW | {"token_ids": [1, 2], "logprobs": [-1, -2]}
    page = content(write_run(tmp_path / "run", LOG, [row], sft_model=str(tmp_path / "gone")), "grpo", 9, 9)
    assert page["rollouts"][0]["completion"] == "return 1" and "no tokenizer that loads" in page["notes"][0]


def test_of_too_many_rollouts_whole_steps_are_kept_evenly(tmp_path):
    rows = [{"step": step} for step in range(1, 101) for _ in range(8)]
    kept = thinned(rows, 100)
    steps = sorted({row["step"] for row in kept})
    assert len(kept) == 96 and len(steps) == 12 and (steps[0], steps[-1]) == (1, 100)
    assert {b - a for a, b in zip(steps, steps[1:], strict=False)} == {9}
    assert thinned(rows, 800) == rows and len(thinned(rows, 3)) == 3
    page = content(write_run(tmp_path / "run", LOG, [ROW | {"step": n} for n in range(10)]), "grpo", 5, 9)
    assert len(page["rollouts"]) == 5 and "5 of 10 recorded rollouts, those of 5 of 10 steps" in page["notes"][0]


# tokens


@functools.cache
def decoder(name: str):
    from transformers import AutoTokenizer

    if name == "sentencepiece":
        tokenizer = sentencepiece()
    else:
        source = SHARED / "deepseek_coder_tokenizer" if name == "deepseek" else ROOT / "data" / "pocket_coder"
        if not source.is_dir():
            pytest.skip("DeepSeek's tokenizer is not at hand (../shared/data/deepseek_coder_tokenizer)")
        tokenizer = AutoTokenizer.from_pretrained(source)
    return tokenizer, lambda ids: tokenizer.decode(list(ids))


def sentencepiece():
    """Decodes as Llama's: a space before a word is in its token, and is dropped before the first."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "\u2581def", "\u2581a", "b", "\u2581", "\n", *[f"<0x{n:02X}>" for n in range(256)]]
    model = models.BPE({word: n for n, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("name", ["pocket", "deepseek", "sentencepiece"])
def test_pieces_join_to_the_text_whatever_the_tokens(name):
    tokenizer, decode = decoder(name)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.integers(0, len(tokenizer) - 1), max_size=24))
    def joins(ids):
        found = pieces(decode, ids)
        assert len(found) == len(ids) and "".join(found) == decode(tuple(ids))

    joins()


@pytest.mark.parametrize("name", ["pocket", "deepseek"])
def test_a_character_of_several_tokens_stands_at_the_last_of_them(name):
    tokenizer, decode = decoder(name)

    @settings(max_examples=80, deadline=None)
    @given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\ufffd"), max_size=12))
    def whole_characters(text):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assume(decode(tuple(ids)) == text)  # DeepSeek's loses a few letters that are tokens of their own
        found = pieces(decode, ids)
        assert "".join(found) == text and not any("\ufffd" in piece for piece in found)

    whole_characters()
    found = pieces(decode, tokenizer("\U0001f642", add_special_tokens=False).input_ids)
    assert found[-1] == "\U0001f642" and len(found) > 1 and not any(found[:-1])


def test_words_keep_the_spaces_that_a_token_alone_would_lose():
    tokenizer, decode = decoder("sentencepiece")
    ids = tokenizer.convert_tokens_to_ids(["\u2581def", "\u2581a", "b", "\n", "\u2581", "\u2581a"])
    assert pieces(decode, ids) == ["def", " a", "b", "\n", " ", " a"]
    ids = tokenizer.convert_tokens_to_ids(["b", "<0xE4>", "<0xBD>", "<0xA0>", "b"])
    assert pieces(decode, ids) == ["b", "", "", "\u4f60", "b"]
    ids = tokenizer.convert_tokens_to_ids(["b", "<0xE4>", "b", "</s>"])  # a broken character
    assert pieces(decode, ids) == ["b", "\ufffd", "b", "</s>"]


def test_any_decoder_has_pieces():
    def decode(ids):  # drops spaces before a full stop, which shortens what came before
        return " ".join("ab."[i] for i in ids).replace(" .", ".")

    assert pieces(decode, [0, 1, 2, 0]) == pieces_by_prefix(decode, (0, 1, 2, 0), "a b. a") == ["a", " b", ".", " a"]
    assert pieces(decode, []) == []


# what is refused


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"step": 1', r"completions.jsonl:2: not JSON"),
        ("[1]", r":2: wants a JSON object, not list"),
        ("{}", r":2: has no step"),
        (ROW | {"step": True}, r":2: step must be a whole number"),
        (ROW | {"step": -1}, r":2: step must be a whole number"),
        (ROW | {"status": None}, r":2: has no status"),
        (ROW | {"completion": 3}, r":2: completion must be text"),
        (ROW | {"reward": "1"}, r":2: reward must be a number"),
        (ROW | {"parts": [1]}, r":2: parts must be an object"),
        (ROW | {"token_ids": [1, 2.5]}, r":2: token_ids must be a list of whole numbers"),
        (ROW | {"token_ids": [-1]}, r":2: token_ids has a number that is no token id"),
        (ROW | {"logprobs": "x"}, r":2: logprobs must be a list of numbers"),
        (ROW | {"token_ids": [1, 2], "logprobs": [0.5]}, r":2: logprobs has 1 numbers for 2 tokens"),
    ],
)
def test_a_row_that_is_no_rollout_is_named(row, says, tmp_path):
    path = tmp_path / "completions.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n")
    with pytest.raises(InputError, match=says):
        read_rollouts(path, unfinished=False)


def test_what_is_no_run_is_said_in_a_line(tmp_path, run_cli):
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, says in ((tmp_path / "gone", "no such folder, nor gone.partial beside it"),
                         (empty, "want one training log (METHOD_train_log.jsonl) in it, has 0")):  # fmt: skip
        code, _, err = run_cli("report.py", str(folder))
        assert code == 2 and says in err and err.count("\n") == 1
    write_run(empty, LOG, None)
    (empty / "run.json").unlink()
    with pytest.raises(InputError, match="has no run.json"):
        find_run(str(empty))
    with pytest.raises(InputError, match="--max_rollouts 0: must be at least 1"):
        main(Args(str(empty), max_rollouts=0))


# hostile text


def test_hostile_text_ends_no_element_and_survives_whole(tmp_path):
    page = written(hostile_run(tmp_path / "run"))
    assert page.count("<script") == page.count("</script") == 2 and "<!--" not in page and "<img" not in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u202e\ud800]", page)
    data = data_of(page)
    assert data["rollouts"][0]["completion"] == data["tasks"][0] == data["name"] == HOSTILE


def test_the_policy_names_what_the_page_runs(tmp_path):
    page = render(content(write_run(tmp_path / "run", LOG, [ROW]), "grpo", 9, 9))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy


def test_nothing_hostile_reaches_the_terminal(tmp_path, run_cli):
    folder = hostile_run(tmp_path / "a\x1b[31mb")
    rows = [ROW | {"token_ids": [1], "task_id": HOSTILE}]
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run_cli("report.py", str(folder))
    assert code == 0 and err == "" and "does not load" in out and all(c.isprintable() or c == "\n" for c in out)
    (folder / "completions.jsonl").write_text(json.dumps(ROW | {"status": [HOSTILE]}))
    code, out, err = run_cli("report.py", str(folder))
    assert code == 2 and err.count("\n") == 1 and "status must be text" in err and "\x1b" not in out + err


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters()))
def test_what_is_printable_stays_and_the_rest_has_a_code(text):
    shown = printable(text)
    assert shown.isprintable() and (shown == text) == text.isprintable()
