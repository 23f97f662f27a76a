"""Sample with vLLM, in training and evaluation, as `sampling.generate` does.

It was run with vLLM 0.32.0 on a CPU (docs/engines.md has the figures; tests/test_vllm_real.py runs it again), and never
on a GPU: for that it was written from vLLM's documentation and source (0.11 to 0.28), and tested against a stand-in of
the classes used here. The usual guards apply: the parity gate before a run's first update, and `sampler_mismatch` in
its log. vLLM's kernels round differently from the policy's. If that alone exceeds the gate's bound, raise
--parity_bound.

On a GPU vLLM quantises the base model itself, as the policy is (its bitsandbytes loader quantises to NF4, and the
constants too). On a CPU it cannot, and gets the weights that the policy's 4 bits stand for. After every update it gets
the policy's adapter, which stays beside the weights, as in `merged_copy` in 16 bits. vLLM runs in this process, so
SIGINT and SIGTERM still end a run after the step.
"""

from __future__ import annotations

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
from model.adapters import adapter_weights, check_plain, read_config
from model.load import (
    base_and_adapter,
    compute_dtype,
    eos_ids,
    first_line,
    load_policy,
    load_tokenizer,
    pick_device,
    save_adapter,
)
from model.merged_copy import merged_copy
from model.sampling import Rollout, text_of

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for (vllm.config.lora.MaxLoRARanks)


def check_engine(args: Any, train: bool = True) -> None:
    """Check, before anything is loaded, that vLLM can run here, or that servers are named, if that is asked for.

    Args:
        train: whether the sampler's log-probabilities are used.

    Raises:
        InputError: no vLLM for this device, no or bad addresses, several processes, or settings that vLLM cannot give
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
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it has a dozen warnings on a CPU
    try:
        from vllm.platforms import current_platform
    except (ImportError, RuntimeError, OSError) as error:  # of a package built for another torch
        raise InputError(
            f"--engine vllm: vLLM cannot be imported ({first_line(error)}); docs/engines.md makes an environment that "
            "has it, or take --engine local"
        ) from None
    has, wants = current_platform.device_type or "no device", pick_device().type
    require(
        has == wants,
        f"--engine vllm: the installed vLLM runs on {has}, and the policy on {wants}; install the build for {wants} "
        "(docs/engines.md), or take --engine local",
    )


class VllmSampler:
    """vLLM with a base model, and with the adapter that it was last given.

    Args:
        name: the model or adapter to sample from, or that the policy starts from.
        args: the script's: max_length, vllm_memory, seed, trust_remote_code, temperature.

    Raises:
        InputError: vLLM does not start: its share of the memory is too small or not free, or, on a GPU, it does not
            know bitsandbytes (from 0.28 on a package of its own, vllm-bnb-plugin).
    """

    def __init__(self, name: str, tokenizer, args: Any) -> None:
        import vllm

        base, self.adapter = base_and_adapter(name)
        if self.adapter:
            check_plain(self.adapter, "--engine vllm")
        self.vllm, self.ends = vllm, ends_of(base, tokenizer, args.trust_remote_code)
        self.request, self.handed, self.version = None, {}, 0
        self.folder = TemporaryDirectory(prefix="vllm-")
        device, dtype = pick_device(), compute_dtype(pick_device(), args.dtype)
        on_cpu, quantised = device.type == "cpu", getattr(args, "load_in_4bit", True)
        model = base
        if on_cpu and quantised:
            model = save_unpacked(base, Path(self.folder.name) / "base", dtype, args.trust_remote_code)
        lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(self.adapter)} if self.adapter else {}
        try:
            self.llm = vllm.LLM(
                model=model,
                tokenizer=base,
                trust_remote_code=args.trust_remote_code,
                dtype=str(dtype).removeprefix("torch."),
                quantization="bitsandbytes" if quantised and not on_cpu else None,
                enforce_eager=on_cpu,  # vLLM would compile with the system's C++ compiler, which may not be there
                # a prompt that is read in two steps takes back a seeded draw, which a CPU's generator cannot do
                enable_chunked_prefill=False if on_cpu else None,  # None: as vLLM chooses
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
        shutil.rmtree(Path(self.folder.name) / "base", ignore_errors=True)  # it is in memory now

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


def save_unpacked(
    base: str, folder: str | Path, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> str:
    """Write a model folder with the weights that the base's 4 bits stand for, and its tokenizer. Return the folder.

    It is for engines that have no NF4, as vLLM on a CPU.

    Args:
        base: hub name or folder of the base model, or of an adapter over it.
        dtype: of the policy's computation, and of the weights in the folder.
    """
    base, _ = base_and_adapter(base)
    policy = load_policy(base, torch.device("cpu"), trust_remote_code=trust_remote_code, dtype=dtype)
    plain = merged_copy(policy)
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()  # by rows, as a file holds it
    plain.save_pretrained(folder)
    load_tokenizer(base, trust_remote_code).save_pretrained(folder)
    return str(folder)


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
    config = read_config(adapter)
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    require(rank <= RANKS[-1], f"{adapter}: has rank {rank}, vLLM takes {RANKS[-1]} at most; take --engine local")
    return min(allowed for allowed in RANKS if allowed >= rank)
