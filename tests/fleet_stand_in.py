"""What the tests have in place of `vllm serve`: its protocol as far as model/sampling_server.py uses it.

Other fields and routes are refused, and so is a request without one of these fields. The tokens come from the model
itself, by `sampling.generate`, one request at a time, so the same request has the same answer on every server.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from sampled import sample

from model.adapters import add_adapter
from model.load import load_policy, load_tokenizer
from model.logprobs import completion_logprobs

FIELDS = {"model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
          "presence_penalty", "frequency_penalty", "seed", "stop", "stop_token_ids", "logprobs", "return_token_ids",
          "skip_special_tokens", "spaces_between_special_tokens"}  # fmt: skip
models: dict[tuple, torch.nn.Module] = {}
busy = threading.Lock()  # the servers of a test share what is loaded


def loaded(base: str, adapter: str):
    """A base model with an adapter; equal ones are loaded once."""
    weights = (Path(adapter) / "adapter_model.safetensors").read_bytes() if adapter else b""
    if (base, weights) not in models:
        model = load_policy(base, torch.device("cpu"))
        models[base, weights] = (add_adapter(model, adapter, False) if adapter else model).eval()
    return models[base, weights]


class StandIn:
    """A server that can be killed and started again.

    names: its models. lora: whether it takes adapters, of rank `rank` at most. processed: of which distribution its
    log-probabilities are. hook: is told (request, number) before a completion; what it returns, (status, body), is
    answered instead. alter: changes an answer.
    """

    def __init__(self, base: str, names: tuple[str, ...] = ("",), lora: bool = True, rank: int = 16,
                 key: str | None = None, room: int = 384, processed: bool = False) -> None:  # fmt: skip
        self.base, self.names, self.lora, self.rank, self.key = base, names, lora, rank, key
        self.room, self.processed = room, processed
        self.tokenizer = load_tokenizer(base)
        self.hook: Callable | None = None
        self.alter: Callable[[dict], None] = lambda choice: None
        self.requests, self.given, self.taken, self.adapters = [], [], [], {}
        self.port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        self.http = Http(("127.0.0.1", self.port), Handler)
        self.http.stand_in, self.port, self.adapters = self, self.http.server_port, {}
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """End it as SIGKILL does: connections break, and what was loaded is lost."""
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.http.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, path: str, request: dict) -> tuple[int, dict | str]:
        if path == "/v1/load_lora_adapter" and self.lora:
            return self.load(**request)
        if path == "/v1/unload_lora_adapter" and self.lora:
            self.taken.append(request["lora_name"])
            if self.adapters.pop(request["lora_name"], None) is None:
                return said(404, f"The lora adapter '{request['lora_name']}' cannot be found.")
            return 200, "Success"
        if path != "/v1/completions":
            return 404, {"detail": "Not Found"}
        self.requests.append(request)
        if self.hook and (instead := self.hook(request, len(self.requests))):
            return instead
        return self.complete(request)

    def load(self, lora_name: str, lora_path: str) -> tuple[int, dict | str]:
        if lora_name in self.adapters:
            return said(400, f"The lora adapter '{lora_name}' has already been loaded.")
        path = Path(lora_path) / "adapter_config.json"
        if not path.is_file() or not path.is_absolute():
            return said(404, f"Loading lora {lora_name} failed: No adapter found for {lora_path}")
        if (rank := json.loads(path.read_text())["r"]) > self.rank:
            return said(500, f"LoRA rank {rank} is greater than max_lora_rank {self.rank}.")
        self.given.append(lora_name)
        while self.adapters:  # it has room for one
            self.adapters.popitem()
        with busy:
            self.adapters[lora_name] = loaded(self.base, lora_path)
        return 200, "Success"

    def complete(self, request: dict) -> tuple[int, dict | str]:
        if wrong := request.keys() ^ FIELDS:
            return said(400, f"no such field, or a field that is not there: {wrong}")
        if request["model"] not in (*self.listed(), *self.adapters):
            return said(404, f"The model `{request['model']}` does not exist.")
        if len(request["prompt"]) + request["max_tokens"] > self.room:
            return said(400, f"This model's maximum context length is {self.room} tokens.")
        with busy:
            return 200, {"choices": [self.choice(request)], "object": "text_completion"}

    def choice(self, request: dict) -> dict:
        model = self.adapters.get(request["model"]) or loaded(self.base, "")
        prompt, stops = request["prompt"], tuple(request["stop"])
        model.generation_config.eos_token_id = request["stop_token_ids"]
        [rollout] = sample(model, self.tokenizer, [prompt], max_new_tokens=request["max_tokens"],
                           temperature=request["temperature"], top_p=request.get("top_p", 1.0),
                           seeds=[(request["seed"],)], stops=[stops] if stops else None)  # fmt: skip
        values = rollout.logprobs
        if not self.processed:
            with torch.no_grad():
                values = completion_logprobs(model, [prompt], [rollout.token_ids], 1.0)[0][0].tolist()
        choice = {
            "index": 0,
            "text": rollout.text,
            "finish_reason": "stop" if rollout.ended else "length",
            "logprobs": {"token_logprobs": values},
            "token_ids": rollout.token_ids if request["return_token_ids"] else None,
        }
        self.alter(choice)
        return choice

    def listed(self) -> list[str]:
        return [name or self.base for name in self.names]

    def models(self) -> dict:
        entries = [{"id": name, "root": name, "parent": None, "max_model_len": self.room} for name in self.listed()]
        entries += [{"id": name, "root": "x", "parent": self.base} for name in self.adapters]
        return {"object": "list", "data": entries}


def said(status: int, message: str) -> tuple[int, dict]:
    return status, {"error": {"message": message, "code": status}}


class Http(ThreadingHTTPServer):
    daemon_threads = allow_reuse_address = True

    def __init__(self, *how) -> None:
        self.open: set[socket.socket] = set()
        super().__init__(*how)

    def handle_error(self, *_) -> None:
        """Connections break here on purpose."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def log_message(self, *_) -> None:
        pass

    def reply(self, status: int, body: dict | str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def respond(self, work: Callable[[], tuple[int, dict | str]]) -> None:
        key = self.server.stand_in.key
        if key and self.headers["Authorization"] != f"Bearer {key}":
            return self.reply(401, {"error": "Unauthorized"})
        return self.reply(*work())

    def do_GET(self) -> None:
        self.respond(lambda: (200, self.server.stand_in.models()))

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.respond(lambda: self.server.stand_in.answer(self.path, request))
