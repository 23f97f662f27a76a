"""Evaluation by a server: the real client against a small server of our own that speaks the completions protocol."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import eval_humaneval
from common import InputError
from eval_humaneval import Args
from judging import pool
from judging.tasks import read_tasks
from model import server as model_server

TESTS = "data/pocket_test.jsonl"
KEY = "sk-very-secret-7"


class Stub(ThreadingHTTPServer):
    """Answers /v1/models and /v1/completions; `answer(request, number)` gives the status and the body."""

    daemon_threads = True

    def __init__(self, answer, models=("coder",), key=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.models, self.key = answer, models, key
        self.requests, self.headers, self.lock = [], [], threading.Lock()
        self.under_way = self.most_under_way = 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self):
        self.server.headers.append(self.headers)
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            self.reply(401, {"error": {"message": f"bad key: {self.headers['Authorization']}"}})
            return True
        return False

    def do_GET(self):
        if self.refused():
            return
        if isinstance(self.server.models, int) and self.path == "/v1/models":
            self.reply(self.server.models, {"error": {"message": "no list"}})
        elif self.server.models is None or self.path != "/v1/models":
            self.reply(404, {"error": {"message": "no such place"}})
        elif isinstance(self.server.models, bytes):
            self.reply(200, self.server.models)
        else:
            entries = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in self.server.models]
            self.reply(200, {"object": "list", "data": entries})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return
        assert self.path == "/v1/completions"
        server = self.server
        with server.lock:
            server.requests.append(json.loads(body))
            number = len(server.requests)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        answer = server.answer(json.loads(body), number)
        with server.lock:
            server.under_way -= 1
        self.reply(*answer)


def completion(text, reason="stop", tokens=None):
    usage = {} if tokens is None else {
        "usage": {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}}  # fmt: skip
    choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
    return 200, {"id": "c", "object": "text_completion", "created": 0, "model": "coder", "choices": [choice], **usage}


def solution_of(request):
    return next(task["canonical_solution"] for task in read_tasks(TESTS) if task["prompt"] == request["prompt"])


@pytest.fixture
def serve():
    servers = []

    def start(answer, **settings):
        servers.append(Stub(answer, **settings))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def arguments(tmp_path):
    def make(server, **settings):
        base = dict(data_path=TESTS, server=server if isinstance(server, str) else server.url, model_path="coder",
                    exp_name="s", results_dir=str(tmp_path), limit=4)  # fmt: skip
        return Args(**base | settings)

    return make


def read(folder):
    rows = [json.loads(line) for line in open(folder / "s_per_task.jsonl")]
    return rows, json.loads((folder / "s_metrics.json").read_text())


def test_a_server_is_evaluated_as_a_model_is(serve, arguments, tmp_path, run_cli):
    server = serve(lambda request, number: completion(solution_of(request), tokens=7))
    eval_humaneval.main(arguments(server, max_new_tokens=99, max_length=300))
    rows, metrics = read(tmp_path)
    tasks = read_tasks(TESTS)[:4]
    assert [row["task_id"] for row in rows] == [task["task_id"] for task in tasks]
    assert all(row["passed"] and row["gen_len"] == 7 and row["ended"] for row in rows)
    assert (metrics["engine"], metrics["precision"], metrics["is_lora"]) == ("server", None, None)
    assert "openai" in metrics["versions"]
    assert (metrics["model_path"], metrics["args"]["server"]) == ("coder", server.url + "/v1")
    assert (metrics["pass_at_1"], metrics["avg_gen_len"], metrics["cut_off"]) == (1, 7, 0)
    asked = {"model": "coder", "max_tokens": 99, "temperature": 0.0, "top_p": 1.0}
    for request in server.requests:
        assert isinstance(request.pop("seed"), int) and request.pop("prompt") in {task["prompt"] for task in tasks}
        assert request == asked
    code, out, err = run_cli("results_table.py", "--results_dir", str(tmp_path), "--readme", "")
    assert code == 0 and "| s | 100.0% | 51.0 to 100.0% | 4/4 | 100.0% | 7.0 |" in out, err


def test_samples_come_in_order_whatever_finishes_first_and_no_two_have_one_seed(serve, arguments, tmp_path):
    gate = threading.Event()

    def answer(request, number):
        if number == 1:  # the first to come is the last to be answered
            assert gate.wait(20)
        elif number == 12:
            gate.set()
        return completion(solution_of(request) if number % 2 else "    return 'no'\n", tokens=number)

    server = serve(answer)
    settings = dict(n_samples=3, temperature=0.7, top_p=0.9, batch_size=3)
    eval_humaneval.main(arguments(server, **settings))
    rows, metrics = read(tmp_path)
    assert [row["task_id"] for row in rows] == [task["task_id"] for task in read_tasks(TESTS)[:4] for _ in range(3)]
    assert all(row["passed"] == (row["gen_len"] % 2 == 1) for row in rows)
    assert sorted(row["gen_len"] for row in rows) == list(range(1, 13))
    assert {"pass_at_1", "pass_at_3"} <= metrics.keys() and 1 < server.most_under_way <= 3
    seeds = {(request["prompt"], request["seed"]) for request in server.requests}
    assert len({seed for _, seed in seeds}) == 12
    assert all((request["temperature"], request["top_p"]) == (0.7, 0.9) for request in server.requests)
    eval_humaneval.main(arguments(server, seed=43, **settings))
    assert seeds.isdisjoint({(request["prompt"], request["seed"]) for request in server.requests[12:]})


def test_scoring_goes_on_while_completions_are_awaited(serve, arguments, monkeypatch):
    judged, real = threading.Event(), eval_humaneval.score

    def spy(*args):
        sample = real(*args)
        sample.raw.add_done_callback(lambda _: judged.set())
        return sample

    monkeypatch.setattr(eval_humaneval, "score", spy)
    # the second answer comes only after the first completion has been judged
    server = serve(lambda request, number: completion("    pass\n") if number == 1 or judged.wait(20) else (500, {}))
    eval_humaneval.main(arguments(server, limit=2, batch_size=1))


def test_what_the_server_does_not_say_is_unknown(serve, arguments, tmp_path):
    answers = [completion("x", "length", 5), completion("x", "stop"), completion("x", "content_filter", 2),
               completion("x", "stop")]  # fmt: skip
    answers[3][1]["usage"] = {"prompt_tokens": 9}
    server = serve(lambda request, number: answers[number - 1])
    eval_humaneval.main(arguments(server, limit=4, batch_size=1))
    rows, metrics = read(tmp_path)
    assert [(row["gen_len"], row["ended"]) for row in rows] == [(5, False), (None, True), (2, None), (None, True)]
    assert (metrics["avg_gen_len"], metrics["cut_off"]) == (3.5, pytest.approx(1 / 3))


def test_the_only_model_is_found(serve, arguments, tmp_path):
    server = serve(lambda request, number: completion("x"), models=("org/the-one",))
    eval_humaneval.main(arguments(server.url + "/v1/", model_path="", limit=1))
    assert read(tmp_path)[1]["model_path"] == server.requests[0]["model"] == "org/the-one"


def test_key_and_password_stay_where_they_belong(serve, arguments, tmp_path, monkeypatch, capfd, own_sandbox):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judges, real, environments = [], pool.Worker, []

    def answer(request, number):
        environments.extend(Path(f"/proc/{judge.process.pid}/environ").read_bytes() for judge in judges)
        return completion("    return 1\n")

    monkeypatch.setattr(pool, "Worker", lambda *settings: judges.append(real(*settings)) or judges[-1])
    server = serve(answer, key=KEY)
    eval_humaneval.main(arguments(server, limit=1))
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert environments and not any(KEY.encode() in environment for environment in environments)

    server.key = None
    judges.clear()
    address = server.url.replace("//", "//me:pass-word@") + "/v1"
    monkeypatch.setattr(sys, "argv", ["eval_humaneval.py", "--server", address])  # the command is recorded
    eval_humaneval.main(arguments(address, limit=1))
    server.key = "another"
    with pytest.raises(InputError, match="refuses the key") as refused:
        eval_humaneval.main(arguments(server))
    with pytest.raises(InputError, match="leave out what follows the path; OPENAI_API_KEY is the key") as query:
        eval_humaneval.main(arguments(f"{address}?token=tick"))
    written = (
        "".join(path.read_text() for path in tmp_path.iterdir())
        + "".join(capfd.readouterr())
        + str((refused.value, query.value))
    )
    assert "127.0.0.1" in written
    assert not [secret for secret in (KEY, "pass-word", "tick") if secret in written]


@pytest.mark.parametrize(
    ("settings", "answer", "says"),
    [
        ({"key": "wanted"}, None, "refuses the key \\(401\\); set OPENAI_API_KEY"),
        ({"models": ("a", "b")}, None, "has no model 'coder'; --model_path may be one of: a, b"),
        ({"models": b"<html>hello</html>"}, None, "answers, but not as an OpenAI-compatible server"),
        ({"models": None}, (404, {"error": {"message": "the model `coder` does not exist"}}), "error 404: the model"),
        ({"models": 500}, (404, {"error": {"message": "the model `coder` does not exist"}}), "error 404: the model"),
        ({"models": ()}, (404, {"error": {"message": "the model `coder` does not exist"}}), "error 404: the model"),
        ({}, (400, {"error": {"message": "context\nis 4096 tokens"}}), "error 400: context is 4096 tokens"),
        ({}, (200, b"<html>hello</html>"), "answers, but not with a completion"),
        ({}, (200, {"choices": []}), "answers, but not with a completion"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line_and_nothing_is_overwritten(
    serve, arguments, tmp_path, settings, answer, says
):
    (tmp_path / "s_metrics.json").write_text("precious")
    server = serve(lambda request, number: answer, **settings)
    with pytest.raises(InputError, match=f"--server {server.url}/v1: .*{says}"):
        eval_humaneval.main(arguments(server))
    assert (tmp_path / "s_metrics.json").read_text() == "precious"
    assert not (tmp_path / "s_per_task.jsonl").exists()


def test_a_list_of_models_that_hangs_is_not_awaited_for_long(serve, arguments, monkeypatch):
    server = serve(lambda request, number: completion("x"))
    held = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda handler: held.wait(30))
    monkeypatch.setattr(model_server, "LIST_TIMEOUT", 0.3)
    with pytest.raises(InputError, match=f"--server {server.url}/v1: cannot be reached"):
        eval_humaneval.main(arguments(server))
    assert not held.is_set()
    held.set()


def test_an_error_ends_the_program_while_another_request_waits(serve, tmp_path):
    held = threading.Event()

    def answer(request, number):
        if number > 1:
            return 400, {"error": {"message": "no"}}
        held.wait(100)
        return completion("x")

    server = serve(answer)
    command = [sys.executable, "eval_humaneval.py", "--server", server.url, "--model_path", "coder", "--data_path",
               TESTS, "--limit", "4", "--results_dir", str(tmp_path)]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90)
    held.set()
    assert ran.returncode == 2 and ran.stderr.splitlines()[-1].endswith("error 400: no")


def test_a_passing_failure_is_tried_again(serve, arguments, tmp_path):
    server = serve(lambda request, number: (503, {}) if number == 1 else completion(solution_of(request)))
    eval_humaneval.main(arguments(server, limit=2))
    assert read(tmp_path)[1]["num_pass"] == 2 and len(server.requests) == 3


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--server http://127.0.0.1:9", "cannot be reached"),
        ("--server localhost:8000", "want an address like http://localhost:8000/v1"),
        ("--server http://127.0.0.1:9 --samples x.jsonl", "leave --server out"),
    ],
)
def test_bad_addresses_are_one_line(run_cli, tmp_path, flags, says):
    code, out, err = run_cli("eval_humaneval.py", "--data_path", TESTS, "--results_dir", str(tmp_path), *flags.split())
    assert code == 2 and says in err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in out + err


def test_a_missing_package_is_said_before_anything_starts(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match="needs the package openai; .venv/bin/pip install openai"):
        eval_humaneval.main(arguments("http://127.0.0.1:9"))
