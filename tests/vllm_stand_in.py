"""What the tests have in vLLM's place: its classes as far as model/sampling_vllm.py uses them, and no further.

Arguments that vLLM does not have are refused, and what vLLM 0.32 does not do on a CPU (tests/test_vllm_real.py runs
it). The tokens come from the model itself, by `sampling.generate`. On a pretended GPU (`platform.device_type`) it
takes NF4 weights, as vLLM with vllm-bnb-plugin does.
"""

from __future__ import annotations

import math
import sys
import types
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sampled import sample

from model.adapters import add_adapter
from model.load import load_policy, load_tokenizer
from model.logprobs import completion_logprobs

engines: list[LLM] = []
platform = types.SimpleNamespace(device_type="cpu")


class TokensPrompt(dict):
    def __init__(self, *, prompt_token_ids: list[int]) -> None:
        super().__init__(prompt_token_ids=prompt_token_ids)


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int = 16
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self) -> None:
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True")
        if self.temperature == 0 and self.n > 1:
            raise ValueError("n must be 1 when using greedy sampling")


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path and isinstance(self.lora_path, str)


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


@dataclass
class LLMEngine:
    loaded: dict[int, LoRARequest] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)

    def remove_lora(self, lora_id: int) -> bool:
        self.removed.append(lora_id)
        return self.loaded.pop(lora_id, None) is not None


class LLM:
    """requests: of each call of generate. adapters: what was handed over, its weights by id."""

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        quantization: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        max_model_len: int | None = None,
        logprobs_mode: str = "raw_logprobs",
        enforce_eager: bool = False,
        enable_chunked_prefill: bool | None = None,
        enable_lora: bool = False,
        max_loras: int = 1,
        max_lora_rank: int = 16,
    ) -> None:
        if gpu_memory_utilization > 0.95:
            raise ValueError("Available memory on node 0 (1/2 GiB) on startup is less than desired")
        on_cpu = platform.device_type == "cpu"
        if quantization is not None and on_cpu:
            raise ValueError(f"Unknown quantization method: {quantization}")
        assert (quantization, dtype) == (None if on_cpu else "bitsandbytes", "float32")
        assert max_lora_rank in (1, 8, 16, 32, 64) and enforce_eager == on_cpu
        self.chunked = enable_chunked_prefill in (None, True)
        self.model, self.enable_lora, self.max_lora_rank = model, enable_lora, max_lora_rank
        self.max_model_len, self.logprobs_mode, self.memory = max_model_len, logprobs_mode, gpu_memory_utilization
        self.llm_engine, self.calls, self.params, self.adapters = LLMEngine(), [], [], {}
        self.models, self.names = {}, {}
        self.tokenizer = load_tokenizer(tokenizer or model)
        self.base = load_policy(model, torch.device("cpu"), load_in_4bit=quantization is not None).eval()
        engines.append(self)

    def generate(
        self,
        prompts: list[TokensPrompt],
        sampling_params: list[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:
        self.calls.append(lora_request)
        self.params += sampling_params
        model = self._model(lora_request)
        pairs = zip(prompts, sampling_params, strict=True)
        return [self._answer(model, prompt["prompt_token_ids"], params) for prompt, params in pairs]

    def _model(self, request: LoRARequest | None):
        if request is None:
            return self.base
        number = request.lora_int_id
        assert self.enable_lora
        if number not in self.llm_engine.loaded:
            assert number not in self.llm_engine.removed, "an id that was taken back must not come again"
            assert self.names.setdefault(request.lora_name, number) == number, "the prompts' cache goes by the name"
            assert len(self.llm_engine.loaded) == 0, "there is room for one adapter"
            model = add_adapter(deepcopy(self.base), request.lora_path, trainable=False).eval()
            assert model.peft_config["default"].r <= self.max_lora_rank
            self.llm_engine.loaded[number], self.models[number] = request, model
            weights = (Path(request.lora_path) / "adapter_model.safetensors").read_bytes()
            self.adapters[number] = weights
        return self.models[number]

    def _answer(self, model, prompt: list[int], params: SamplingParams) -> RequestOutput:
        assert len(prompt) + params.max_tokens <= self.max_model_len
        assert params.stop is None or params.stop and all(isinstance(stop, str) for stop in params.stop)
        if self.chunked and params.seed is not None and platform.device_type == "cpu":
            raise RuntimeError("CPU Generator does not use offset")  # of a prompt that is read in two steps
        model.generation_config.eos_token_id = params.stop_token_ids
        rollouts = []
        for index in range(params.n):
            seeds = [(params.seed + index,)]
            rollouts += sample(model, self.tokenizer, [prompt], max_new_tokens=params.max_tokens,
                               temperature=params.temperature, top_p=params.top_p, seeds=seeds,
                               stops=[tuple(params.stop)] if params.stop else None,
                               unpack=platform.device_type != "cpu")  # fmt: skip
        outputs = []
        for index, rollout in enumerate(rollouts):
            values = rollout.logprobs
            if self.logprobs_mode == "raw_logprobs":
                with torch.no_grad():
                    values = completion_logprobs(model, [prompt], [rollout.token_ids], 1.0)[0][0].tolist()
            elif params.top_p < 1:
                values = [math.nan] * len(values)  # vLLM's would be of what is left after top_p
            entries = [{token: Logprob(value)} for token, value in zip(rollout.token_ids, values, strict=True)]
            text = "" if not params.detokenize else rollout.text
            reason = "stop" if rollout.ended else "length"
            outputs.append(CompletionOutput(index, text, tuple(rollout.token_ids), entries, reason))
        return RequestOutput(prompt, outputs)


def install(monkeypatch) -> list[LLM]:
    """Put these classes where model/sampling_vllm.py looks for vLLM's. Gives the engines that are started."""
    engines.clear()
    platform.device_type = "cpu"
    request = types.ModuleType("vllm.lora.request")
    request.LoRARequest = LoRARequest
    vllm = types.ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams, vllm.TokensPrompt = LLM, SamplingParams, TokensPrompt
    platforms = types.ModuleType("vllm.platforms")
    platforms.current_platform = platform
    lora = types.ModuleType("vllm.lora")
    for module in (vllm, lora, request, platforms):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return engines
