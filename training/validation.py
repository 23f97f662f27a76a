"""The pass rate on validation tasks decides which adapter is kept and when training stops early.

The policy completes the tasks greedily, and the sandbox judges them: before the first update, every `valid_every`
steps, and at the end. Completions that could not be judged are left out of the rate. Of equal rates the first is kept,
whose weights have moved least. The best rate and its weights are saved with the run's state, so after a kill both
belong to the same step.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import set_peft_model_state_dict

from judging.tasks import Task, language_of, read_tasks
from model.adapters import adapter_weights

Weights = dict[str, dict[str, torch.Tensor]]


class Validation:
    """The best rate so far, its step and weights, and how many validations since then were not better.

    Args:
        path, tasks, prompts: of the tasks that are completed: the file, and their prompts' token ids.
        every: steps between validations.
        patience: this many validations without a better rate end the run; 0 never does.
    """

    def __init__(self, path: str, tasks: list[Task], prompts: list[list[int]], every: int, patience: int) -> None:
        self.path, self.tasks, self.prompts, self.every, self.patience = path, tasks, prompts, every, patience
        self.best_rate = self.last_rate = -1.0
        self.best_step, self.not_better, self.weights = -1, 0, {}

    def due(self, step: int, last: bool) -> bool:
        return last or step % self.every == 0

    @property
    def early_stop(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.not_better

    def note(self, step: int, passed: list[bool], model, critic: torch.nn.Module | None) -> dict[str, float]:
        """Take in one validation: whether each judged completion passed. Return what to log."""
        if not passed:  # no rate, neither better nor worse
            print(f"step {step}: no validation completion could be judged")
            return {}
        self.last_rate = sum(passed) / len(passed)
        if self.last_rate > self.best_rate:
            self.best_rate, self.best_step, self.not_better = self.last_rate, step, 0
            self.weights = current_weights(model, critic)
        else:
            self.not_better += 1
        return {"valid_pass_rate": self.last_rate}

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("best_rate", "last_rate", "best_step", "not_better", "weights")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def restore_best(self, model, critic: torch.nn.Module | None) -> None:
        """Give the policy (and the critic, if there is one) the weights of the best step."""
        set_peft_model_state_dict(model, self.weights["adapter"], adapter_name="default")
        if critic is not None:
            critic.load_state_dict(self.weights["critic"])


def fixed_tasks(args: Any, items: list, path: str) -> list[Task]:
    """Read tasks that training measures and does not learn from, at one level; none from ""."""
    if not path:
        return []
    tasks = read_tasks(path, "normal" if args.prompt_level == "curriculum" else args.prompt_level, args.instruct)
    language_of([*items, *tasks], f"{args.train_path} and {path}")
    return tasks


def current_weights(model, critic: torch.nn.Module | None) -> Weights:
    """Copy the trained weights to the CPU."""
    weights = {"adapter": adapter_weights(model), "critic": critic.state_dict() if critic is not None else {}}
    return {part: {name: w.detach().cpu().clone() for name, w in known.items()} for part, known in weights.items()}
