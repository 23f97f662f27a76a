"""Completions as a list."""

from model.sampling import Rollout, generate, in_order


def sample(*args, **settings) -> list[Rollout]:
    """Return what `generate` yields, in the order of the prompts."""
    return in_order(generate(*args, **settings))
