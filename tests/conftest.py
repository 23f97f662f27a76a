"""Fixtures: task files, tiny models in local folders, a sandbox. No GPU, no network."""

from __future__ import annotations

import functools
import gzip
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    longest = ("test_pipeline.py", "test_pretended_gpu.py", "test_resume.py")  # first: the others fill up
    items.sort(key=lambda item: ("slow" not in item.keywords, item.path.name not in longest))
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: give --slow"))


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session", autouse=True)
def imports_are_read_once():
    """Of the project's files. Every saved state of a run asks for what its script imports, and nothing changes here."""
    from common import dependencies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dependencies, "_imported", functools.cache(dependencies._imported))
        yield


@pytest.fixture(scope="module", autouse=True)  # by module, because the attack corpus looks for what others left running
def sandboxes_that_runs_share():
    """Let the runs of a file that are started in this process share a sandbox, which tests itself once.

    To start one and to let it test itself takes a second. A run that is a process of its own still does both.
    """
    from judging import by_language

    started: dict[tuple, Any] = {}
    tested: list[Any] = []

    def share(kind):
        class Kept(kind):
            def __exit__(self, *_):
                """The next run uses it again."""

        def start(*args, judge=None, **settings):
            if judge:  # it belongs to one test
                return kind(*args, judge=judge, **settings)
            key = (kind, *args, *settings.items())
            if key not in started:
                started[key] = Kept(*args, **settings)
            return started[key]

        return start

    def test_once(box, attack, real=by_language.self_test):
        if box not in tested:
            real(box, attack)
            tested.append(box)

    def close() -> None:
        for box in started.values():
            box.close()
        started.clear()
        tested.clear()

    with pytest.MonkeyPatch.context() as patch:
        for kind in (by_language.Sandbox, by_language.VerilogSandbox):
            patch.setattr(by_language, kind.__name__, share(kind))
        patch.setattr(by_language, "self_test", test_once)
        yield close
    close()


@pytest.fixture
def own_sandbox(sandboxes_that_runs_share):
    """Let the run of a test start a sandbox and let it test itself, as a run does that is a process of its own."""
    sandboxes_that_runs_share()


@pytest.fixture(scope="module")  # the attack corpus looks for threads that were left behind
def sandbox():
    from judging.pool import Sandbox

    with Sandbox() as box:
        yield box


@pytest.fixture(scope="session")
def humaneval() -> list[dict]:
    path = SHARED / "HumanEval.jsonl.gz"
    if not path.is_file():
        pytest.skip("HumanEval is not at hand (../shared/data/HumanEval.jsonl.gz)")
    return [json.loads(line) for line in gzip.open(path, "rt")]


@pytest.fixture(scope="session")
def pocket() -> str:
    return str(ROOT / "data" / "pocket_coder")


@pytest.fixture(scope="session")
def pocket_policy(pocket):
    """The pocket model in NF4 with a fresh adapter whose weights are not zero, and its tokenizer."""
    import torch

    from model.load import add_lora, load_policy, load_tokenizer, trainable_parameters

    torch.manual_seed(0)
    model = add_lora(load_policy(pocket, torch.device("cpu")), 8, 16, 0.05)
    for parameter in trainable_parameters(model):
        torch.nn.init.normal_(parameter, std=0.02)
    model.eval()
    return model, load_tokenizer(pocket)


@pytest.fixture(scope="session")
def start(pocket, tmp_path_factory) -> str:
    """An adapter for the pocket model to start a run from, its weights not zero."""
    import torch

    from model.load import add_lora, load_policy, load_tokenizer, save_adapter, trainable_parameters

    folder = tmp_path_factory.mktemp("start") / "sft"
    torch.manual_seed(3)
    model = add_lora(load_policy(pocket, torch.device("cpu")), 4, 8, 0.1)
    for parameter in trainable_parameters(model):
        torch.nn.init.normal_(parameter, std=0.02)
    save_adapter(model, load_tokenizer(pocket), folder)
    return str(folder)


@pytest.fixture
def tasks_path(tmp_path) -> str:
    """The first six pocket tasks."""
    lines = (ROOT / "data" / "pocket_train.jsonl").read_text().splitlines()[:6]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "t.jsonl")


@pytest.fixture
def known_run(monkeypatch):
    """Training with plain gradient descent and verdicts of our own; by default 2 samples of 3 pass.

    Gives the rollouts of each call of the sampler, as they come.
    """
    import torch

    import sandbox
    from model.sampling import generate, in_order
    from training import sampler

    def prepare(passes=lambda call, i: i % 3 > 0) -> list[list]:
        sampled = []

        def spy(*args, **kwargs):
            sampled.append(in_order(generate(*args, **kwargs)))
            return iter(sampled[-1])

        def verdicts(samples):
            return [sandbox.Verdict("pass" if passes(len(sampled), i) else "fail", "") for i, _ in enumerate(samples)]

        monkeypatch.setattr(sampler, "generate", spy)
        monkeypatch.setattr(sampler, "verdicts", verdicts)
        monkeypatch.setattr(torch.optim, "AdamW", lambda p, lr, weight_decay: torch.optim.SGD(p, lr=lr))
        return sampled

    return prepare


@pytest.fixture(scope="session")
def deepseek(tmp_path_factory) -> str:
    """A random two-layer model of DeepSeek-Coder's configuration, made narrow, with the real tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = SHARED / "deepseek_coder_tokenizer"
    if not source.is_dir():
        pytest.skip("DeepSeek's tokenizer is not at hand (../shared/data/deepseek_coder_tokenizer)")
    folder = tmp_path_factory.mktemp("models") / "tiny-deepseek"
    tokenizer = AutoTokenizer.from_pretrained(source)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32256,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16384,
        rope_theta=100000.0,
        rope_scaling={"rope_type": "linear", "factor": 4.0},
        rms_norm_eps=1e-6,
        bos_token_id=32013,
        eos_token_id=32014,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run_cli(tmp_path_factory):
    """Run a script as a process of its own; gives (exit code, stdout, stderr).

    It is forked with the libraries imported. `run_cold` starts Python, which takes seconds where they are needed.
    """
    import forked

    def call(*command: str, **environment: str) -> tuple[int, str, str]:
        out, err = (tmp_path_factory.mktemp("said") / name for name in ("out", "err"))
        process = forked.start(command, out, err, **environment)
        process.join()
        return process.exitcode, *(path.read_text(encoding="utf-8") for path in (out, err))

    return call


@pytest.fixture(scope="session")
def run_cold():
    """Run Python as a user does; gives (exit code, stdout, stderr)."""
    import subprocess

    def call(*command: str, **environment: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=os.environ | environment
        )
        return done.returncode, done.stdout, done.stderr

    return call


class JudgeStub(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        if self.server.answer == "hang":
            self.server.released.wait(20)
            return
        status = self.server.answer if isinstance(self.server.answer, int) else 200
        message = {"role": "assistant", "content": self.server.answer}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": choices}
        data = json.dumps(body if status == 200 else {"error": {"message": "no"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def stub():
    """A judge model on loopback: set its `answer`, read its `requests`."""
    pytest.importorskip("openai")
    server = ThreadingHTTPServer(("127.0.0.1", 0), JudgeStub)
    server.daemon_threads = True
    server.requests, server.released = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
