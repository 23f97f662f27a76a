"""Sample with vLLM, in training and evaluation, as `sampling.generate` does. This needs a CUDA GPU.

It has not been run on a GPU yet: it was written from vLLM's documentation and source (0.11 to 0.28), and tested against
a stand-in of the classes used here. The usual guards apply: the parity gate before a run's first update, and
`sampler_mismatch` in its log. vLLM's kernels round differently from the policy's. If that alone exceeds the
gate's bound, raise --parity_bound.

vLLM loads the base model in the policy's precision (its bitsandbytes loader quantises to NF4, and the constants too).
After every update it gets the policy's adapter, which stays beside the weights in 16 bits, as in `merged_copy`. vLLM
runs in this process, so SIGINT and SIGTERM still end a run after the step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, GenerationConfig

from common import InputError, require
from common.run_args import FleetArgs
from common.server_url import server_urls
from model.adapters import adapter_weights, check_plain
from model.load import base_and_adapter, compute_dtype, eos_ids, pick_device, save_adapter
from model.sampling import Rollout, text_of

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for (vllm.config.lora.MaxLoRARanks)


def check_engine(args: Any, train: bool = True) -> None:
    """Check, before anything is loaded, that vLLM can run here, or that servers are named, if that is asked for.

    Args:
        train: whether the sampler's log-probabilities are used.

    Raises:
        InputError: no vllm, no CUDA GPU, no or bad addresses, several processes, or settings that vLLM cannot give
            log-probabilities for.
    """
    if args.engine == "server":
        server_urls(args.server)
        require(args.server_timeout > 0, f"--server_timeout {args.server_timeout:g}: must be positive")
        require(args.server_wait > args.server_timeout, "--server_wait: must be more than --server_timeout")
    elif isinstance(args, FleetArgs):
        require(args.server == "", "--server: is for --engine server, so give both or neither")
    if args.engine == "local":
        return
    require(
        not train or args.top_p == 1 or args.temperature == 1,
        f"--engine {args.engine}: its log-probabilities are either at temperature 1 or after top_p; set --top_p or "
        "--temperature to 1, or take --engine local",
    )
    processes = os.environ.get("WORLD_SIZE", "1")
    require(
        processes == "1", f"--engine {args.engine}: samples in one process, not in {processes}; take --engine local"
    )
    if args.engine == "server":
        return
    require(0 < args.vllm_memory < 1, f"--vllm_memory {args.vllm_memory}: must be in (0, 1)")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # see above; also, scheduling is then deterministic
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--engine vllm: cannot be imported ({error}); .venv/bin/pip install vllm (and, from vLLM 0.28 on, "
            "vllm-bnb-plugin), or take --engine local"
        ) from None
    require(cuda_is_there(), "--engine vllm: torch sees no CUDA GPU here; take --engine local")


def cuda_is_there() -> bool:
    return torch.cuda.is_available()


class VllmSampler:
    """vLLM with a base model, and with the adapter that it was last given.

    Args:
        name: the model or adapter to sample from, or that the policy starts from.
        args: the script's: max_length, vllm_memory, seed, trust_remote_code, temperature.

    Raises:
        InputError: vLLM does not start: its share of the memory is too small or not free, or it does not know
            bitsandbytes (from 0.28 on a package of its own, vllm-bnb-plugin).
    """

    def __init__(self, name: str, tokenizer, args: Any) -> None:
        import vllm

        base, self.adapter = base_and_adapter(name)
        if self.adapter:
            check_plain(self.adapter, "--engine vllm")
        self.vllm, self.ends = vllm, ends_of(base, tokenizer, args.trust_remote_code)
        self.request, self.handed, self.version = None, {}, 0
        self.folder = TemporaryDirectory(prefix="adapters-")
        lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(self.adapter)} if self.adapter else {}
        try:
            self.llm = vllm.LLM(
                model=base,
                trust_remote_code=args.trust_remote_code,
                dtype=str(compute_dtype(pick_device(), args.dtype)).removeprefix("torch."),
                quantization="bitsandbytes" if getattr(args, "load_in_4bit", True) else None,
                seed=args.seed,
                gpu_memory_utilization=args.vllm_memory,
                max_model_len=args.max_length,
                # raw: of the model, temperature 1, before top_p; processed: of what is drawn from, after both
                logprobs_mode="raw_logprobs" if args.temperature == 1 else "processed_logprobs",
                **lora,
            )
        except (ValueError, RuntimeError) as error:  # torch's out of memory is a RuntimeError
            raise InputError(
                f"--engine vllm: does not start: {error} (--vllm_memory is {args.vllm_memory:g}; from vLLM 0.28 on, "
                "vllm-bnb-plugin must be installed too)"
            ) from error

    def generate(
        self,
        model,
        tokenizer,
        prompts: list[list[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        num_samples: int = 1,
        batch_size: int = 64,
        stops: list[tuple[str, ...]] | None = None,
        unpack: bool = True,
        graph: bool = True,
        seeds: list[tuple[int, ...]] | None = None,
    ) -> Iterator[Rollout]:
        """Do as `sampling.generate` does: the same arguments, the same rollouts; the temperature is that of `args`.

        Args:
            model: the policy, whose adapter is handed over if it has changed; None: the adapter as it is on disk.
            unpack, graph: without effect here.
        """
        request = self.hand_over(model, tokenizer)
        numbers = [int(np.random.default_rng(seeds and seeds[i]).integers(2**48)) for i in range(len(prompts))]
        params = [
            self.vllm.SamplingParams(
                n=num_samples,
                temperature=temperature,
                top_p=top_p,
                max_tokens=max_new_tokens,
                seed=seed,  # sample i of the prompt gets seed + i
                stop_token_ids=self.ends,
                stop=list(stops[index]) if stops else None,
                detokenize=stops is not None,  # the text is decoded below, as for the local engine
                logprobs=0,  # of the token drawn only
            )
            for index, seed in enumerate(numbers)
        ]
        chunk = max(1, batch_size // num_samples)
        for start in range(0, len(prompts), chunk):
            inputs = [self.vllm.TokensPrompt(prompt_token_ids=ids) for ids in prompts[start : start + chunk]]
            outputs = self.llm.generate(inputs, params[start : start + chunk], use_tqdm=False, lora_request=request)
            for index, output in enumerate(outputs, start):
                for number, one in enumerate(output.outputs):
                    yield self._rollout(tokenizer, index, prompts[index], one, stops[index] if stops else (), number)

    def _rollout(
        self, tokenizer, index: int, prompt: list[int], output, stops: tuple[str, ...], number: int
    ) -> Rollout:
        ids = list(output.token_ids)  # up to and with the EOS, or the token that completed a stop string
        logprobs = [entry[token].logprob for entry, token in zip(output.logprobs, ids, strict=True)]
        text = text_of(tokenizer, prompt, ids, set(self.ends), stops)
        return Rollout(index, prompt, ids, logprobs, output.finish_reason == "stop", text, number)

    def hand_over(self, model, tokenizer) -> Any:
        """Return the request for the adapter as it is now (None for a base model), and remove the version before.

        Every version has its own id and name: vLLM stores an adapter by its id, and cached prompts by its name.
        """
        if self.adapter is None:
            return None
        weights = adapter_weights(model) if model is not None else {}
        same = weights.keys() == self.handed.keys()
        if self.request and same and all(torch.equal(weight, self.handed[name]) for name, weight in weights.items()):
            return self.request
        if self.request:
            self.llm.llm_engine.remove_lora(self.request.lora_int_id)
            shutil.rmtree(Path(self.folder.name) / str(self.version), ignore_errors=True)  # none if it was not ours
        from vllm.lora.request import LoRARequest

        self.version += 1
        self.handed = {name: weight.clone() for name, weight in weights.items()}
        path = self.adapter
        if model is not None:
            path = Path(self.folder.name) / str(self.version)
            save_adapter(model, tokenizer, path)
        self.request = LoRARequest(f"policy-{self.version}", self.version, str(path))
        return self.request


def ends_of(base: str, tokenizer, trust_remote_code: bool) -> list[int]:
    """Return `load.eos_ids` of a model that is not loaded."""
    try:
        config = GenerationConfig.from_pretrained(base)
    except OSError:  # it has none of its own
        model_config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
        config = GenerationConfig.from_model_config(model_config)
    return sorted(eos_ids(SimpleNamespace(generation_config=config), tokenizer))


def _rank(adapter: str) -> int:
    """Return the lowest of vLLM's ranks that the adapter fits into."""
    config = json.loads((Path(adapter) / "adapter_config.json").read_text())
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    require(rank <= RANKS[-1], f"{adapter}: has rank {rank}, vLLM takes {RANKS[-1]} at most; take --engine local")
    return min(allowed for allowed in RANKS if allowed >= rank)
