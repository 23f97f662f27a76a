"""Load a model to sample from it and not to train it: for evaluation, and for preference pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from judging.tasks import Task
from model.load import compute_dtype, load_config, load_policy, load_tokenizer, pick_device
from model.parity import check_copy
from model.sampling import Rollout, encode_prompts, generate
from model.sampling_server import ServerSampler
from model.sampling_vllm import VllmSampler
from model.tokens import check_ids


@contextlib.contextmanager
def open_engine(
    name: str, tasks: list[Task], path: str, args: Any, device: str = "auto"
) -> Iterator[tuple[list[list[int]], Callable[..., Iterator[Rollout]]]]:
    """Load a model or adapter. Give the tasks' prompts, and `sampling.generate` of this model, which takes them.

    At the end of the block servers are left without the adapter.

    Args:
        path: the task file, for errors.
        args: of the script: engine, dtype, cuda_graph, max_length, max_new_tokens, trust_remote_code, ...

    Raises:
        InputError: the model cannot be loaded, a prompt does not fit, or the copy that samples is not the model.
    """
    where = pick_device(device)
    dtype = compute_dtype(where, args.dtype)
    tokenizer = load_tokenizer(name, args.trust_remote_code)
    prompts = encode_prompts(tokenizer, tasks, args.max_length - args.max_new_tokens)
    check_ids(load_config(name, args.trust_remote_code), path, prompts, args.max_new_tokens)
    if args.engine == "vllm":
        yield prompts, partial(VllmSampler(name, tokenizer, args).generate, None, tokenizer)
        return
    if args.engine == "server":
        with contextlib.closing(ServerSampler(name, tokenizer, args, compared=False)) as sampler:
            yield prompts, partial(sampler.generate, None, tokenizer)
        return
    quantised = getattr(args, "load_in_4bit", True)
    model = load_policy(
        name, where, trust_remote_code=args.trust_remote_code, dtype=dtype, load_in_4bit=quantised
    ).eval()
    if quantised:
        check_copy(model, prompts)
    yield prompts, partial(generate, model, tokenizer, graph=args.cuda_graph, unpack=quantised)
