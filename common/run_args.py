"""Settings that several scripts share: one line each, documented only here.

A script's `Args` inherits the classes that it needs and adds its method's hyperparameters. Flags have no prefix;
`--help` shows the script's own first, then each class below under a heading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass
class StageArgs:
    """Settings of every script that runs a model."""

    dtype: Dtype = "auto"  # precision of the matrix products; auto: 16 bits on a GPU, 32 on a CPU
    quiet: bool = False  # print only errors, no progress
    trust_remote_code: bool = False  # run Python code that comes with the model
    config: str = ""  # YAML file with any of these settings; flags win over it


@dataclass
class TrainArgs(StageArgs):
    """Settings of every training script: kept adapters, trackers, repeatability."""

    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, slower
    deterministic: bool = False  # on a GPU: two runs give the same bits; slower, and takes more memory
    keep_every: int = 0  # also save the adapter in OUTPUT_DIR/step_N every N steps; 0 turns this off
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"  # tracker that also gets the log
    run_name: str = ""  # the run's name in the tracker; "" takes the output folder's name
    json_lines: bool = False  # print the log's records as JSON lines, and notes on stderr


@dataclass
class LoopArgs(TrainArgs):
    """Settings of the scripts with a training loop of their own: passes, saved states, screen."""

    micro_batch_tokens: int = 4096  # tokens in one forward and backward pass; changes memory and speed only
    save_every: int = 10  # steps between saved states, from which a killed run resumes; 0 saves only when stopped
    resume: bool = True  # resume from the state that an interrupted run of this command left
    dry_run: bool = False  # make one step and keep nothing: prints peak memory and the time of a whole run
    log_every: int = 1  # steps between lines on the screen


@dataclass
class EngineArgs:
    """The engine that generates completions."""

    engine: Literal["local", "vllm", "server"] = "local"  # vllm: needs its own environment; server: see --server
    vllm_memory: float = 0.4  # share of the GPU's memory, or on a CPU the machine's, that --engine vllm may take
    cuda_graph: bool = True  # decode under a CUDA graph on a GPU: faster


@dataclass
class FleetArgs(EngineArgs):
    """The servers of --engine server, and how long to wait for them (docs/engines.md)."""

    server: str = ""  # vLLM servers that hold the base model: URL, or several with commas in between
    adapter_dir: str = ""  # folder of the adapters, which the servers must see as the same path; "": beside the run's
    server_timeout: float = 120.0  # seconds for one completion; then it is asked again, if possible elsewhere
    server_wait: float = 900.0  # seconds without a completion from any server that end the run


@dataclass
class ImportanceArgs:
    """Importance weights for samples of another program, or of the policy before (docs/methods/importance.md)."""

    importance: Literal["auto", "on", "off"] = "auto"  # weight by trainer / sampler; auto: unless --engine is local
    importance_cap: float = 2.0  # largest weight, 1 or more; 0 does not truncate
    importance_mask: float = 0.0  # leave out completions whose ratio is above N or below 1 / N, N > 1; 0 masks none
    async_steps: Literal[0, 1] = 0  # 1: servers sample the next batch while this one is trained on (docs/engines.md)


@dataclass
class SelectionArgs:
    """Which tasks are drawn next (docs/methods/prompt_selection.md)."""

    prompt_selection: Literal["off", "solved", "half"] = "off"  # solved: set those aside; half: pass rates near 1/2
    solved_after: int = 16  # solved: a task is set aside once its last N samples all passed
    recheck: float = 0.05  # solved: how often a task set aside is drawn, as a share of the usual; 0 drops it for good
    selection_floor: float = 0.05  # half: added to each task's weight p (1 - p), which is 0.25 at most
    estimate_decay: float = 0.9  # how much of a sample's count in the estimate of p each later one leaves


@dataclass
class TurnArgs:
    """A second try after a failure (docs/methods/turns.md)."""

    turns: Literal[1, 2] = 1  # 2: a model whose answer fails is told why and answers again
    feedback: Literal["kind", "error", "tests"] = "error"  # what it is told; tests: values of hidden tests too


@dataclass
class JudgeArgs:
    """How the sandbox runs programs."""

    time_limit: float = 5.0  # seconds for one check, or one input of a program; the same for every row of a table
    total_limit: float = 30.0  # seconds for all inputs of one program that is judged by what it prints
    compare: Literal["lines", "tokens"] = "lines"  # how printed text is compared; tokens: words between blanks
    tolerance: float = 0.0  # printed numbers may differ by this, absolute or relative; 0: compared as text
    allow_weak_tests: bool = False  # also run tests that cannot be kept apart from the program, which can forge a pass
    packages: str = "numpy"  # comma-separated packages that programs may import besides the standard library
    allow_missing_layers: bool = False  # run even where the sandbox cannot lock programs down


@dataclass
class ReasoningArgs:
    """The model that scores the reasoning in Verilog answers."""

    judge_url: str = ""  # OpenAI-compatible server of the judge model; "" leaves the reasoning score out
    judge_model: str = ""  # the judge model's name on that server


@dataclass
class RewardArgs(ReasoningArgs):
    """The shape of the rewards other than unit_test (docs/rewards.md)."""

    syntax_penalty: float = 0.2  # shaped: taken from code that does not compile
    quality_bonus: float = 0.1  # shaped: the most that clean code earns on top, if it passes
    full_bonus: float = 0.5  # partial: earned by passing all tests; the rest is the share of tests passed
    part_weights: str = "0.4,0.5,0.3,0.5,0.6"  # parts: compilation, functional, synthesis, quality, reasoning


@dataclass
class RolloutArgs(LoopArgs, FleetArgs, JudgeArgs, RewardArgs):
    """Settings of the methods that sample while they train: prompts, sampling, validation, records."""

    prompt_level: Literal["normal", "detailed", "terse", "curriculum"] = "normal"  # curriculum: detailed to terse
    min_pass: float = 0.0  # leave out training tasks with a lower pass_rate (task_difficulty.py); 0 leaves out none
    max_pass: float = 1.0  # leave out training tasks with a higher pass_rate; 1 leaves out none
    curriculum_epochs: float = 1.0  # curriculum: passes over the tasks at one level before the next
    stop_at_strings: bool = False  # also end a completion at its task's stop strings
    sample_batch_size: int = 64  # completions generated at a time; changes memory and speed only
    unpack_to_sample: bool = True  # sample from an unpacked copy: faster, 2 bytes a weight (no_: from the 4-bit policy)
    parity_bound: float = 0.0  # largest gap of sampler and trainer in nats (--importance: the mean); 0: by precision
    valid_path: str = ""  # tasks whose greedy pass rate decides which adapter is kept; "" keeps the last
    valid_every: int = 10  # steps between validations
    patience: int = 0  # stop early after this many validations without a better pass rate; 0 turns this off
    curve_path: str = ""  # tasks whose pass rate by sampling is logged over the tokens (docs/metrics.md); "" logs none
    curve_every: int = 10_000  # sampled tokens between points of that curve
    curve_samples: int = 4  # completions a task for each point
    curve_tasks: int = 50  # take the first N tasks of the file
    log_completions: int = 1  # keep the completions of every N-th step for report.py; 0 keeps none
    track_completions: int = 0  # send a table of completions to the tracker every N steps; 0 sends none
