"""The objectives once more, in plain float64: one sequence at a time, no batching, no helper of the project's."""

import torch
from safetensors.torch import load_file

from model.load import load_policy


class Plain:
    """The policy of an adapter folder, its log-probs and states, and gradient descent on its adapter."""

    def __init__(self, adapter: str) -> None:
        self.model = load_policy(adapter, torch.device("cpu"), trainable=True).eval()
        self.adapter = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.head = torch.zeros(self.model.config.hidden_size, requires_grad=True)
        self.offset = torch.zeros(1, requires_grad=True)

    def tokens(self, rollout, temperature: float = 1.0):
        """Log-probs, entropies and critic's values of a rollout's tokens; (R,) each, float64."""
        output = self.model(torch.tensor([rollout.prompt_ids + rollout.token_ids]), output_hidden_states=True)
        first = len(rollout.prompt_ids) - 1
        logps = (output.logits[0, first:-1].double() / temperature).log_softmax(-1)
        logprobs = torch.stack([row[token] for row, token in zip(logps, rollout.token_ids, strict=True)])
        states = output.hidden_states[-1][0, first:-1].double()
        values = states @ self.head.double() + self.offset.double()
        return logprobs, -(logps.exp() * logps).sum(-1), values

    def descend(self, loss: torch.Tensor, lr: float, max_norm: float = float("inf")) -> None:
        parameters = [*self.adapter.values(), self.head, self.offset]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        norm = torch.cat([g.flatten() for g in gradients]).norm().item()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= lr * gradient * min(1.0, max_norm / (norm + 1e-6))

    def assert_equals(self, before: str, after: str) -> None:
        """The adapter folder `after` holds these weights, to a thousandth of how far they moved from `before`."""
        start, end = (load_file(f"{folder}/adapter_model.safetensors") for folder in (before, after))
        mine = {name.replace(".default", ""): weight.detach() for name, weight in self.adapter.items()}
        assert mine.keys() == end.keys()
        moved = max((mine[name] - start[name]).abs().max() for name in mine).item()
        assert moved > 0
        for name, weight in mine.items():
            assert (weight - end[name]).abs().max().item() <= 1e-3 * moved, name
