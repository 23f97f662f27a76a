"""The pass rate on validation tasks, which decides which adapter is kept and when training ends early.

The tasks are completed greedily and judged by the sandbox before the first update, every `valid_every` steps, and at
the end. Completions that could not be judged are left out of the rate. The first of equal rates is kept: it has moved
least from where it began. What was best is a part of the run's saved state, weights and all, so that whenever a run is
killed, rate and weights are of the same step.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import set_peft_model_state_dict

from judging.tasks import Task
from model.adapters import adapter_weights

Weights = dict[str, dict[str, torch.Tensor]]


class Validation:
    """What has been found so far: the best rate, its step and weights, and how often none was better since.

    Args:
        tasks, prompts: what is completed, and its token ids.
        every: steps between validations. patience: so many without a better rate end the run; 0: none do.
    """

    def __init__(self, tasks: list[Task], prompts: list[list[int]], every: int, patience: int) -> None:
        self.tasks, self.prompts, self.every, self.patience = tasks, prompts, every, patience
        self.best_rate = self.last_rate = -1.0
        self.best_step, self.not_better, self.weights = -1, 0, {}

    def due(self, step: int, last: bool) -> bool:
        return last or step % self.every == 0

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.not_better

    def note(self, step: int, passed: list[bool], model, critic: torch.nn.Module | None) -> dict[str, float]:
        """Take a validation in; `passed` is of the completions that were judged. Returns what to log of it."""
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
        """Give the policy, and the critic if there is one, the weights that they had at the best step."""
        set_peft_model_state_dict(model, self.weights["adapter"], adapter_name="default")
        if critic is not None:
            critic.load_state_dict(self.weights["critic"])


def current_weights(model, critic: torch.nn.Module | None) -> Weights:
    """A copy of what is trained, on the CPU."""
    weights = {"adapter": adapter_weights(model), "critic": critic.state_dict() if critic is not None else {}}
    return {part: {name: w.detach().cpu().clone() for name, w in known.items()} for part, known in weights.items()}
