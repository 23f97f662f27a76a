"""`--async_steps 1`: servers sample the next batch while this one is trained on, so with the policy before this update.

The adapter is handed over between two batches, when no request is under way, and before the update begins. The
importance weights make up for the update that lies between (docs/methods/importance.md).
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from peft import set_peft_model_state_dict

from model.adapters import adapter_weights
from training.samples import Sample


class Ahead:
    """The batch that is sampled ahead, if there is one.

    A run's saved state has the batch's draws and the adapter that samples it, not its samples. So a stop waits for
    nothing, and a resumed run samples them again, as if it had not been interrupted.

    drawn: pairs (number of the draw in the run, task index); [] if nothing is ahead. seconds: that the batch that was
    taken last took to sample; 0 before the first.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler, self.fleet, self.thread = sampler, sampler.fleet, ThreadPoolExecutor(1)
        self.drawn, self.adapter, self.seconds, self.counted = [], {}, 0.0, {}
        self.future: Future | None = None

    def begin(self, model, drawn: list[tuple[int, int]]) -> None:
        """Hand the policy over as it is now, and sample completions of the drawn tasks in the background."""

        def work() -> tuple[list[Sample], float]:
            began = time.perf_counter()
            return self.sampler.sample(None, drawn), time.perf_counter() - began

        self.counted = self.fleet.counts()
        self.fleet.leave_alone(model, self.sampler.tokenizer)
        self.drawn, self.adapter = drawn, self.fleet.handed  # a copy; the next version has another
        self.future = self.thread.submit(work)

    def wait(self) -> None:
        """Wait until no request is under way. Raise what went wrong with them."""
        self.fleet.training = False
        if self.future:
            self.future.result()

    def take(self, model) -> tuple[list[tuple[int, int]], list[Sample]]:
        """Return the draws and their samples; nothing is ahead then."""
        drawn, self.drawn = self.drawn, []
        if self.future:
            self.wait()
            samples, self.seconds = self.future.result()
            self.future = None
        else:  # a resumed run
            now = {name: weight.clone() for name, weight in adapter_weights(model).items()}
            set_peft_model_state_dict(model, self.adapter, adapter_name="default")
            samples = self.sampler.sample(model, drawn)
            self.sampler.check_parity(model, samples)
            set_peft_model_state_dict(model, now, adapter_name="default")
        return drawn, samples

    def counts(self) -> dict[str, float]:
        """Return the fleet's counts for the log: those of this step's batch, without what is ahead."""
        found, self.counted = self.counted or self.fleet.counts(), {}
        return found

    def close(self) -> None:
        """Break off what is ahead."""
        self.fleet.training, self.fleet.ending = False, True
        self.thread.shutdown()

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "adapter": self.adapter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
