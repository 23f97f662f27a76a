"""The prompt of a second turn: the task, the first answer, what the tests said of it, and the request to correct it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from judging.feedback import shown_examples, told
from judging.pool import Sandbox, Verdict
from judging.tasks import Task, stop_strings, truncate_at_stop
from model.load import load_config, load_tokenizer
from model.sampling import Rollout, prompt_text
from model.tokens import prompt_ids, without_special

TURN = 2  # ends the seed of a second turn's random numbers; no other seed of four numbers ends in it


def second_prompts(
    tokenizer, sandbox: Sandbox, failures: Iterable[tuple[Task, str, Verdict]], feedback: str, room: int
) -> list[tuple[str, list[int] | None]]:
    """Return what the model is told about each failed answer, and the token ids of its next prompt.

    Args:
        failures: task, answer, and the verdict on it. The answers were written by a model and the verdicts quote
            programs, so the tokenizer reads no special token in either.
        feedback: as in `feedback.told`. For "error" the examples of the prompts judge, too, what a test has failed.
        room: the most tokens a prompt may have; instead of a longer one there is None.
    """
    failures, checks = list(failures), []
    for task, text, verdict in failures:
        examples = shown_examples(task) if feedback == "error" and verdict.status == "fail" else None
        checks.append(sandbox.submit(examples, text) if examples else None)
    found = []
    for (task, text, verdict), check in zip(failures, checks, strict=True):
        said = told(task, text, verdict, feedback, check and check.result())
        ids = second_prompt(tokenizer, task, text, said)
        found.append((said, ids if len(ids) <= room else None))
    return found


def second_prompt(tokenizer, task: Task, text: str, said: str) -> list[int]:
    """Return the token ids of the prompt after a failed answer; in the chat template for `instruct` tasks."""
    failed = (without_special(tokenizer, text), without_special(tokenizer, said))
    return prompt_ids(tokenizer, **prompt_text(tokenizer, task, failed))


def second_answers(
    args: Any, sandbox: Sandbox, generate: Callable[..., Iterator[Rollout]], seeds: list[tuple[int, ...]],
    first: list[Any],
) -> list[dict[str, Any] | None]:  # fmt: skip
    """Have a model that is evaluated answer again where it failed, and judge that, raw and cut at the stop strings.

    What counts as failed, and what the model sees of its answer, is the cut one: a right program that the model did not
    end is no failure of which tests could tell it anything.

    Args:
        generate: as `engine.open_engine` gives it. seeds: of each prompt.
        first: the scored first answers, `args.n_samples` to a prompt, in the order of prompts.

    Returns:
        for each answer the line `turn_2` of the per-task file; None if it passed or could not be judged. The status is
        "no_room" where the prompt of a second turn would be too long.
    """
    verdicts = [s.stopped.result() for s in first]
    failed = [i for i, verdict in enumerate(verdicts) if verdict.judged and not verdict.passed]
    tokenizer, room = load_tokenizer(args.model_path, args.trust_remote_code), room_of(args.model_path, args)
    failures = [(first[i].task, cut(first[i].task, first[i].completion), verdicts[i]) for i in failed]
    found = dict(zip(failed, second_prompts(tokenizer, sandbox, failures, args.feedback, room), strict=True))
    rows: list[dict[str, Any] | None] = [None] * len(first)
    for i, (said, _) in found.items():
        rows[i] = {"told": said, "passed": False, "passed_stopped": False, "status": "no_room"}
    again = [(i, ids) for i, (_, ids) in found.items() if ids]
    if not again:
        return rows
    places = [divmod(i, args.n_samples) for i, _ in again]
    rollouts = generate([ids for _, ids in again], num_samples=1, max_new_tokens=args.max_new_tokens,
                        temperature=args.temperature, top_p=args.top_p, batch_size=args.batch_size,
                        seeds=[(*seeds[prompt], number + 1, TURN) for prompt, number in places])  # fmt: skip
    answers = [(again[r.prompt_index][0], r) for r in rollouts]
    pairs = [(first[i].task, text) for i, r in answers for text in (r.text, cut(first[i].task, r.text))]
    judged = iter(sandbox.check_many(pairs))
    for (i, r), raw, stopped in zip(answers, judged, judged, strict=True):
        rows[i] |= {"passed": raw.passed, "passed_stopped": stopped.passed, "status": raw.status,
                    "status_stopped": stopped.status, "reason": raw.reason, "gen_len": len(r.token_ids),
                    "ended": r.ended, "completion": r.text}  # fmt: skip
    return rows


def cut(task: Task, text: str) -> str:
    return truncate_at_stop(text, stop_strings(task))


def room_of(name: str, args: Any) -> int:
    """Return how many tokens a prompt may have, by the length limits and by the positions of the model `name`."""
    config = load_config(name, args.trust_remote_code).get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or args.max_length
    return min(args.max_length, positions) - args.max_new_tokens
