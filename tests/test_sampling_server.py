"""--engine server: a fleet of servers that fail in every way, and runs that must not notice."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("openai")

from fleet_stand_in import StandIn

import eval_humaneval
import generate_dpo_data
import task_difficulty
import train_grpo_lora
from common import InputError
from judging.pool import Verdict
from judging.tasks import read_tasks
from model import fleet_member, sampling_server
from model.load import load_policy, load_tokenizer, trainable_parameters
from model.logprobs import completion_logprobs
from model.sampling import encode_prompts, generate, in_order
from model.sampling_server import ServerSampler
from model.sampling_vllm import check_engine

SETTINGS = dict(engine="server", max_length=384, max_new_tokens=8, seed=1, trust_remote_code=False, temperature=1.0,
                top_p=1.0, dtype="auto", adapter_dir="", server_timeout=20.0, server_wait=40.0)  # fmt: skip


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(sampling_server, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def serve(pocket):
    servers = []

    def start(base=pocket, **settings) -> StandIn:
        servers.append(StandIn(base, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def policy(start):
    return load_policy(start, torch.device("cpu"), trainable=True).eval(), load_tokenizer(start)


@pytest.fixture
def prompts(policy):
    return encode_prompts(policy[1], read_tasks("data/pocket_train.jsonl")[:3], 256)


@pytest.fixture
def fleet(start, policy, tmp_path):
    """Make the sampler of some servers; what it has on them is taken back at the end."""
    made = []

    def make(*servers: StandIn | str, **settings) -> ServerSampler:
        urls = ",".join(one if isinstance(one, str) else one.url for one in servers)
        args = SimpleNamespace(**SETTINGS | {"server": urls, "output_dir": str(tmp_path / "out")} | settings)
        made.append(ServerSampler(start, policy[1], args))
        return made[-1]

    yield make
    for sampler in made:
        sampler.close()


def draw(sampler, policy, prompts, seed=0, **settings):
    base = dict(max_new_tokens=8, temperature=1.0, num_samples=2, seeds=[(seed, i) for i in range(len(prompts))])
    return in_order(sampler.generate(*policy, prompts, **base | settings))


def places(rollouts):
    return [(r.prompt_index, r.number) for r in rollouts]


EVERY = [(i, j) for i in range(3) for j in range(2)]


def test_rollouts_are_those_of_the_policy_and_are_spread(serve, fleet, policy, prompts):
    servers = serve(), serve()
    sampler = fleet(*servers)
    rollouts = draw(sampler, policy, prompts)
    assert places(rollouts) == EVERY and all(r.prompt_ids == prompts[r.prompt_index] for r in rollouts)
    with torch.no_grad():
        ids = [r.prompt_ids for r in rollouts], [r.token_ids for r in rollouts]
        logprobs, mask = completion_logprobs(policy[0], *ids, 1.0)
    for row, r in enumerate(rollouts):
        assert r.logprobs == pytest.approx(logprobs[row][mask[row] == 1].tolist(), abs=1e-3)
        assert r.ended == (r.token_ids[-1] == 1) and len(r.token_ids) <= 8
        assert r.text == policy[1].decode([token for token in r.token_ids if token != 1])
    probes = sampling_server.PROBES - 1  # there are three prompts
    assert [len(server.requests) - probes for server in servers] == [3, 3]
    asked = [request for server in servers for request in server.requests[probes:]]
    assert len({request["seed"] for request in asked}) == 6
    counts = sampler.counts()
    assert counts["retried"] == 0 and counts["server1_tokens_per_second"] > 0 < counts["server2_tokens_per_second"]
    assert set(sampler.counts().values()) == {0}
    again = draw(sampler, policy, prompts)
    assert [r.token_ids for r in again] == [r.token_ids for r in rollouts]
    assert [r.token_ids for r in draw(sampler, policy, prompts, seed=1)] != [r.token_ids for r in rollouts]


def test_an_adapter_is_handed_over_when_it_has_changed_and_only_then(serve, fleet, policy, prompts, tmp_path):
    servers = serve(), serve()
    sampler = fleet(*servers, adapter_dir=str(tmp_path / "shared"))
    first = draw(sampler, policy, prompts)
    draw(sampler, policy, prompts)
    with torch.no_grad():
        for parameter in trainable_parameters(policy[0]):
            torch.nn.init.normal_(parameter, std=0.2)
    changed = draw(sampler, policy, prompts)
    assert [r.token_ids for r in changed] != [r.token_ids for r in first]
    for server in servers:
        assert len(server.given) == len(set(server.given)) == 3  # as on disk, of the first call, changed
        assert server.taken == server.given[:2] and list(server.adapters) == server.given[2:]
    assert [path.name for path in (tmp_path / "shared").iterdir()] == servers[0].given[2:]
    sampler.close()
    assert not any(server.adapters for server in servers) and not any((tmp_path / "shared").iterdir())


def test_stop_strings_and_greedy(serve, fleet, policy, prompts):
    server = serve()
    sampler = fleet(server)
    how = {"temperature": 0.0, "num_samples": 1, "max_new_tokens": 32}
    whole = draw(sampler, policy, prompts, **how)
    stops = [(whole[0].text[2:5],), ("no such text",), (whole[2].text[1:4], "no such text")]  # in what it writes
    rollouts = draw(sampler, policy, prompts, stops=stops, **how)
    assert places(rollouts) == [(0, 0), (1, 0), (2, 0)]
    local = in_order(generate(*policy, prompts, stops=stops, seeds=[(0, i) for i in range(3)], **how))
    assert [(r.token_ids, r.text, r.ended) for r in rollouts] == [(r.token_ids, r.text, r.ended) for r in local]
    assert len(rollouts[0].token_ids) < len(whole[0].token_ids)
    asked = {tuple(request["prompt"]): request["stop"] for request in server.requests[-3:]}
    assert asked == {tuple(prompt): list(stop) for prompt, stop in zip(prompts, stops, strict=True)}


@pytest.mark.slow
def test_a_server_killed_in_the_middle_and_started_again_costs_its_requests_only(serve, fleet, policy, prompts, capsys):
    one, two = serve(), serve()
    sampler = fleet(one, two)
    expected = draw(sampler, policy, prompts, num_samples=4)
    killed, started, back, base = threading.Event(), threading.Event(), threading.Event(), len(two.requests)

    def restart():
        two.start()
        started.set()

    def dies(request, number):
        if number == base + 2:
            two.kill()
            killed.set()
            threading.Timer(0.2, restart).start()
        elif started.is_set() and request["seed"]:  # not a probe
            back.set()

    def waits(request, number):
        assert not killed.is_set() or back.wait(20)

    one.hook, two.hook = waits, dies
    found = draw(sampler, policy, prompts, num_samples=4)
    assert killed.is_set() and back.is_set()
    assert [(places([r]), r.token_ids, r.text) for r in found] == [(places([r]), r.token_ids, r.text) for r in expected]
    assert sampler.counts()["retried"] >= 1
    assert two.given[-1] == two.given[-2] == one.given[-1]  # it had lost the adapter
    said = capsys.readouterr().out
    assert f"server {two.url}: cannot be reached" in said and f"server {two.url}: is back" in said


def test_a_slow_server_is_asked_no_longer_and_no_completion_comes_twice(serve, fleet, policy, prompts):
    one, two = serve(), serve()
    sampler, released = fleet(one, two), threading.Event()
    expected = draw(sampler, policy, prompts)
    sampler.counts()
    two.hook = lambda request, number: released.wait(10) and None
    for server in sampler.servers:
        server.timeout = 1.5
    found = draw(sampler, policy, prompts)
    released.set()
    assert places(found) == EVERY and [r.token_ids for r in found] == [r.token_ids for r in expected]
    counts = sampler.counts()
    assert counts["retried"] == 3 and counts["server2_tokens_per_second"] == 0


def test_an_adapter_that_a_server_has_lost_is_loaded_again(serve, fleet, policy, prompts):
    server = serve()
    sampler = fleet(server)
    expected = draw(sampler, policy, prompts)
    server.adapters.clear()
    found = draw(sampler, policy, prompts)
    assert [r.token_ids for r in found] == [r.token_ids for r in expected]
    assert server.given[-1] == server.given[-2] and sampler.counts()["retried"] >= 1


def test_a_busy_server_and_nonsense_are_asked_again(serve, fleet, policy, prompts):
    one, two = serve(), serve()
    sampler = fleet(one, two)
    expected = draw(sampler, policy, prompts)
    answers = iter([(503, {"error": {"message": "busy"}}), (200, "<html>"), (200, {"choices": []})])
    two.hook = lambda request, number: next(answers, None)
    found = draw(sampler, policy, prompts)
    assert [r.token_ids for r in found] == [r.token_ids for r in expected] and sampler.counts()["retried"] >= 3


def test_a_server_that_comes_back_with_another_model_gets_no_requests(serve, fleet, policy, prompts, other_base):
    one, two = serve(), serve()
    sampler = fleet(one, two)
    expected = draw(sampler, policy, prompts)
    two.kill()
    two.base, before = other_base, 0
    two.start()
    for _ in range(20):  # it is looked at only while completions are awaited
        assert [r.token_ids for r in draw(sampler, policy, prompts)] == [r.token_ids for r in expected]
        before = before or len(two.requests)  # it may have been taken for one that has lost the adapter
        if "its log-probabilities differ" in sampler.servers[1].last:
            break
    assert all(request["seed"] == 0 for request in two.requests[before:])  # only probes
    assert "its log-probabilities differ" in sampler.servers[1].last


@pytest.mark.parametrize("bound", [0.0, 0.05])
def test_a_server_that_was_started_again_between_steps_is_compared(serve, fleet, policy, prompts, other_base, bound):
    one, two = serve(), serve()
    sampler = fleet(one, two)
    sampler.args.parity_bound = bound
    draw(sampler, policy, prompts)
    two.kill()
    two.base = other_base
    two.start()
    with torch.no_grad():
        for parameter in trainable_parameters(policy[0]):
            torch.nn.init.normal_(parameter, std=0.2)
    before = len(two.requests)
    for _ in range(20):
        draw(sampler, policy, prompts)
        if sampler.servers[1].last:
            break
    assert "its log-probabilities differ" in sampler.servers[1].last
    assert all(request["seed"] == 0 for request in two.requests[before:])  # only probes


def test_the_pause_of_a_server_that_stays_dead_has_an_end(serve, fleet):
    sampler = fleet(serve())
    dead = sampler.servers[0]
    dead.failures = 5000
    sampler.set_aside(dead, fleet_member.Failed(dead.url, "cannot be reached"))
    assert dead.again <= time.monotonic() + sampling_server.LONGEST_PAUSE and not dead.trusted


def test_where_no_server_is_left_the_run_ends_with_a_line(serve, fleet, policy, prompts):
    server = serve()
    sampler = fleet(server, server_wait=1.0, server_timeout=0.5)
    sampler.servers[0].timeout = 20.0
    draw(sampler, policy, prompts)
    server.kill()
    began = time.monotonic()
    with pytest.raises(InputError, match=r"no completion for 1 s \(--server_wait\); .* cannot be reached .*resumes"):
        draw(sampler, policy, prompts)
    assert time.monotonic() - began < 10
    server.start()
    sampler.args.server_wait = 40.0
    assert places(draw(sampler, policy, prompts)) == EVERY


def test_a_request_that_no_server_takes_ends_the_run_at_once(serve, fleet, policy, prompts):
    sampler = fleet(serve(), serve())
    draw(sampler, policy, prompts)
    with pytest.raises(InputError, match="error 400: This model's maximum context length is 384"):
        draw(sampler, policy, prompts, max_new_tokens=380)


def test_a_request_that_one_server_calls_wrong_is_asked_of_another(serve, fleet, policy, prompts):
    one, two = serve(), serve()
    sampler = fleet(one, two)
    expected = draw(sampler, policy, prompts)
    answers = iter([(400, {"error": {"message": "Client disconnected"}})])  # as vLLM answers when it is shut down
    two.hook = lambda request, number: next(answers, None)
    assert [r.token_ids for r in draw(sampler, policy, prompts)] == [r.token_ids for r in expected]
    assert sampler.counts()["retried"] == 1


@pytest.mark.slow
def test_a_renewal_that_waited_while_nothing_ran_is_no_failure(serve, fleet, policy, prompts, capsys):
    one, two = serve(), serve()
    sampler = fleet(one, two)
    draw(sampler, policy, prompts)
    begun, held, member = threading.Event(), threading.Event(), sampler.servers[1]
    two.hook = lambda request, number: begun.set() or held.wait(20) and None
    one.hook = lambda request, number: begun.wait(20) and None
    member.up, member.trusted, member.timeout = False, False, 5.0
    draw(sampler, policy, prompts)  # ends while the second server is compared
    assert begun.is_set() and member in sampler.renewals.values() and not member.failures
    time.sleep(5.5)  # as in training; the answer comes meanwhile
    held.set()
    member.timeout = 20.0
    for _ in range(50):
        draw(sampler, policy, prompts)
        if member.up:
            break
    assert member.up and "set aside" not in capsys.readouterr().out


def test_where_nothing_is_compared_a_server_must_have_the_models_name(serve, start, policy, tmp_path):
    args = SimpleNamespace(
        **SETTINGS | {"server": serve(names=("org/another",)).url, "output_dir": str(tmp_path / "o")}
    )
    with pytest.raises(InputError, match="has no model '.*pocket_coder'; it has: org/another; .*--served-model-name"):
        ServerSampler(start, policy[1], args, compared=False)
    args.server = serve(names=("org/pocket_coder",)).url
    ServerSampler(start, policy[1], args, compared=False).close()


def test_a_call_that_was_left_open_does_not_outlive_the_sampler(serve, fleet, policy, prompts, capfd):
    server = serve()
    sampler = fleet(server)
    held, probes = threading.Event(), sampling_server.PROBES
    server.hook = lambda request, number: held.wait(20) and None if number > probes else None
    call = sampler.generate(*policy, prompts, max_new_tokens=8, temperature=1.0, num_samples=2)
    next(call)
    sampler.close()
    held.set()
    call.close()
    assert sampler.loop.is_closed() and not sampler.under_way
    assert "never" not in (said := capfd.readouterr().err) and "destroyed" not in said


def test_a_completion_that_always_fails_ends_the_run(serve, fleet, policy, prompts):
    servers = serve(), serve()
    sampler = fleet(*servers)
    draw(sampler, policy, prompts)
    poison = servers[0].requests[-1]["prompt"]
    for server in servers:
        server.hook = lambda request, number: (500, {"error": {"message": "it hurts"}}) if (
            request["prompt"] == poison and request["seed"]) else None  # fmt: skip
    with pytest.raises(InputError, match="error 500: it hurts"):
        draw(sampler, policy, prompts)


@pytest.fixture(scope="module")
def other_base(pocket, tmp_path_factory):
    """The pocket model after some more training, as it were: the same shapes and tokenizer, other weights."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("other") / "pocket_coder"
    model = AutoModelForCausalLM.from_pretrained(pocket, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers" in name and parameter.ndim == 2:
                parameter += 2 * parameter.std() * torch.randn_like(parameter)
    model.save_pretrained(folder)
    load_tokenizer(pocket).save_pretrained(folder)
    return str(folder)


def no_ids(choice):
    choice["token_ids"] = None


def other_words(choice):
    choice["text"] = "something else"


def too_few(choice):
    choice["logprobs"]["token_logprobs"] = choice["logprobs"]["token_logprobs"][:-1]


def not_a_number(choice):
    choice["logprobs"]["token_logprobs"][0] = float("nan")


def unknown_id(choice):
    choice["token_ids"] = [*choice["token_ids"][:-1], 5000]


@pytest.mark.parametrize(
    ("settings", "alter", "says"),
    [
        ({"names": ("a", "org/b")}, None, "has no model '.*pocket_coder'; it has: a, org/b"),
        ({"names": ()}, None, "has no model '.*pocket_coder'; it has: none"),
        ({"lora": False}, None, r"does not take the adapter \(answers with error 404: .*--max-lora-rank 4 or more"),
        ({"rank": 2}, None, "LoRA rank 4 is greater than max_lora_rank 2"),
        ({"room": 256}, None, "has room for 256 tokens, --max_length is 384; start it with --max-model-len 384"),
        ({"key": "sk-wanted"}, None, "refuses the key \\(401\\); set OPENAI_API_KEY"),
        ({"base": "other"}, None, "its log-probabilities differ from the policy's by .* start it with the base model"),
        ({}, other_words, "text that its tokens do not spell: 'something else'"),
        ({}, no_ids, "gives no token ids"),
        ({}, too_few, "token ids and .* log-probabilities"),
        ({}, not_a_number, "log-probabilities that are not finite"),
        ({}, unknown_id, "token ids that are none of the model's 1024"),
    ],
)
def test_what_a_server_lacks_is_a_line_before_the_first_step(
    serve, fleet, policy, prompts, request, settings, alter, says, monkeypatch, tmp_path
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-5")
    if settings.get("base"):
        settings = {"base": request.getfixturevalue("other_base")}
    good, bad = serve(), serve(**settings)
    good.key = settings.get("key") and "sk-secret-5"
    bad.alter = alter or bad.alter
    with pytest.raises(InputError, match=f"^--server {bad.url}: .*{says}") as error:
        draw(fleet(good, bad), policy, prompts)
    assert "\n" not in str(error.value) and "sk-secret" not in str(error.value)


def test_log_probabilities_at_another_temperature_need_a_setting_of_the_server(serve, fleet, policy, prompts):
    with pytest.raises(
        InputError, match="at temperature 1; for another --temperature start it with --logprobs-mode processed_logprobs"
    ):
        draw(fleet(serve(), temperature=0.5), policy, prompts, temperature=0.5)
    rollouts = draw(fleet(serve(processed=True), temperature=0.5), policy, prompts, temperature=0.5)
    assert places(rollouts) == EVERY


def test_a_folder_that_cannot_be_written_is_a_line_and_the_start_is_kept(serve, fleet, start, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="--adapter_dir .*file: cannot be written"):
        fleet(serve(), adapter_dir=str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(InputError, match="--server http://127.0.0.1:9/v1: cannot be reached"):
        fleet("http://127.0.0.1:9", adapter_dir=str(Path(start).parent))
    assert [path.name for path in Path(start).parent.iterdir()] == [Path(start).name]
    assert (Path(start) / "adapter_model.safetensors").is_file()


def test_a_wrong_address_and_a_time_out_are_lines(serve, fleet, policy, prompts):
    with pytest.raises(InputError, match="--server http://127.0.0.1:9/v1: cannot be reached"):
        fleet(serve(), "http://127.0.0.1:9")
    slow, released = serve(), threading.Event()
    slow.hook = lambda request, number: released.wait(10) and None
    with pytest.raises(InputError, match=r"gives no answer within 0.5 s \(--server_timeout\)"):
        sampler = fleet(slow)
        sampler.servers[0].timeout = 0.5
        draw(sampler, policy, prompts)
    released.set()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"server": ""}, "--engine server: needs --server URL"),
        ({"server": "localhost:8000"}, "--server: want an address like"),
        ({"server": "http://a,http://a/v1/"}, "is given twice"),
        ({"server": "http://me:secret@a"}, "--server http://a/v1: leave out user, password, query"),
        ({"server": "http://a?key=secret"}, "--server http://a/v1: leave out user, password, query"),
        ({"server": "http://a/#secret"}, "--server http://a/v1: leave out user, password, query"),
        ({"server": "http://a\x01b"}, "--server: want an address like"),
        ({"server_timeout": 0.0}, "--server_timeout 0: must be positive"),
        ({"server_wait": 10.0}, "--server_wait: must be more than --server_timeout"),
        ({"top_p": 0.9, "temperature": 0.7}, "--engine server: its log-probabilities are either"),
    ],
)
def test_bad_settings_are_lines(settings, says):
    base = SETTINGS | {"server": "http://a, http://b"}
    check_engine(SimpleNamespace(**base))
    with pytest.raises(InputError, match=says) as error:
        check_engine(SimpleNamespace(**base | settings))
    assert "secret" not in str(error.value)


def test_flags_that_do_not_belong_together(tasks_path, monkeypatch):
    with pytest.raises(InputError, match="--server: is for --engine server, so give both or neither"):
        check_engine(train_grpo_lora.Args(server="http://a"))
    with pytest.raises(InputError, match="--engine server: is for training; to evaluate a server, give --server alone"):
        eval_humaneval.main(eval_humaneval.Args(data_path=tasks_path, engine="server", server="http://a"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--engine server: samples in one process, not in 2"):
        check_engine(SimpleNamespace(**SETTINGS | {"server": "http://a"}))


@pytest.fixture
def some_pass(monkeypatch):
    """Verdicts by the tokens, so that there is something to learn from in a few of them."""

    def verdicts(samples):
        return [Verdict("pass" if sum(s.rollout.token_ids) % 2 else "fail", "") for s in samples]

    monkeypatch.setattr("training.sampler.verdicts", verdicts)


def grpo(tasks_path, start, output, *servers, **settings):
    base = dict(train_path=tasks_path, sft_model=start, output_dir=str(output), max_length=300, max_new_tokens=12,
                num_steps=2, batch_size=2, num_samples=4, learning_rate=0.01, save_every=1, engine="server",
                server=",".join(server.url for server in servers))  # fmt: skip
    train_grpo_lora.main(train_grpo_lora.Args(**base | settings))
    return [json.loads(line) for line in open(output / "grpo_train_log.jsonl")]


def test_a_run_ends_as_if_no_server_had_been_killed(serve, some_pass, tasks_path, start, tmp_path, capsys):
    one, two = serve(), serve()
    calm = grpo(tasks_path, start, tmp_path / "calm", one, two)
    assert [record["retried"] for record in calm] == [0, 0]
    assert not (tmp_path / "calm.adapters").exists() and not one.adapters and len(set(one.given)) == 3
    base = len(two.requests)

    def dies(request, number):
        if number == base + 2 + 4 + 2:  # the probes', and the first step's, went before
            two.kill()
            threading.Timer(0.2, two.start).start()

    two.hook = dies
    found = grpo(tasks_path, start, tmp_path / "killed", one, two)
    assert sum(record["retried"] for record in found) >= 1
    fields = ("base_reward", "gen_len", "loss", "grad_norm", "sampled_tokens")
    assert [[record[name] for name in fields] for record in found] == [
        [record[name] for name in fields] for record in calm
    ]
    read = [[json.loads(line)["token_ids"] for line in open(tmp_path / run / "completions.jsonl")]
            for run in ("calm", "killed")]  # fmt: skip
    assert read[0] == read[1] and len(read[0]) == 16
    weights = [(tmp_path / run / "adapter_model.safetensors").read_bytes() for run in ("calm", "killed")]
    assert weights[0] == weights[1]
    said = capsys.readouterr().out
    assert "retried" in said and "set aside" in said and "tokens/s " in said
    assert "importance_mean" in found[0]  # another program sampled
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["args"]["server"] == f"{one.url},{two.url}"


@pytest.mark.slow
def test_a_run_whose_servers_are_gone_resumes_with_others(serve, some_pass, tasks_path, start, tmp_path):
    one, two = serve(), serve()
    calm = grpo(tasks_path, start, tmp_path / "calm", one)
    base = len(one.requests)

    def dies(request, number):
        if number == base + 2 + 8 + 3:
            one.kill()

    one.hook = dies
    with pytest.raises(InputError, match="no completion for 20 s"):
        grpo(tasks_path, start, tmp_path / "run", one, server_timeout=19.0, server_wait=20.0)
    found = grpo(tasks_path, start, tmp_path / "run", two)
    names = ("step", "base_reward", "loss")
    assert [[r[n] for n in names] for r in found] == [[r[n] for n in names] for r in calm]


def test_pairs_are_not_ranked_by_log_probabilities_that_nothing_compared(start):
    args = generate_dpo_data.Args(sft_model=start, engine="server", server="http://localhost:9", rejected="likeliest",
                                  temperature=0.8)  # fmt: skip
    with pytest.raises(InputError, match="--rejected likeliest with --engine server needs --temperature 1"):
        generate_dpo_data.main(args)


def test_pairs_and_difficulty_come_from_servers_too(serve, tasks_path, start, pocket, tmp_path):
    servers = serve(), serve()
    urls = ",".join(server.url for server in servers)
    how = dict(train_path=tasks_path, max_length=300, max_new_tokens=24, num_samples=2, engine="server", server=urls)
    with pytest.raises(InputError, match="no pair: "):  # it passes nothing in 24 tokens, or everything
        generate_dpo_data.main(
            generate_dpo_data.Args(sft_model=start, output_path=str(tmp_path / "p.jsonl"), **how | {"limit": 2})
        )
    assert all(server.given and server.taken == server.given for server in servers)  # taken back, before the exit
    task_difficulty.main(
        task_difficulty.Args(sft_model=pocket, output_path=str(tmp_path / "r.jsonl"), **how | {"limit": 2})
    )
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2
    assert {request["model"] for server in servers for request in server.requests[-1:]} == {pocket}


@pytest.mark.slow
def test_real_servers_of_which_one_is_killed_in_the_middle(tasks_path, start, pocket, tmp_path, monkeypatch):
    """vLLM itself, on a CPU: VLLM_PYTHON is the Python of an environment that has it."""
    python = os.environ.get("VLLM_PYTHON", "")
    if not python:
        pytest.skip("VLLM_PYTHON does not name the Python of an environment with vLLM")
    environment = os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1",
                                "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # fmt: skip
    flags = ["--dtype", "float32", "--max-model-len", "384", "--enforce-eager", "--enable-lora", "--max-lora-rank", "8"]
    ports, processes = [free_port(), free_port()], {}

    def run(port):
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", pocket, "--host", "127.0.0.1",
                   "--port", str(port), *flags]  # fmt: skip
        with (tmp_path / f"{port}.log").open("a") as log:
            processes[port] = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def end(port, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(processes[port].pid, number)
        processes[port].wait()

    real, asked = fleet_member.Member.post, []

    async def post(member, path, body):
        if path == "/completions" and member.url.endswith(f":{ports[1]}/v1"):
            asked.append(body)
            if len(asked) == sampling_server.PROBES - 2 + 4 + 2:  # in the second step; two tasks give two probes
                end(ports[1])
                run(ports[1])
        return await real(member, path, body)

    try:
        for port in ports:
            run(port)
        for port in ports:
            until_healthy(port, processes[port])
        monkeypatch.setattr(fleet_member.Member, "post", post)
        servers = [SimpleNamespace(url=f"http://127.0.0.1:{port}/v1") for port in ports]
        found = grpo(tasks_path, start, tmp_path / "out", *servers, num_steps=3, num_samples=4, max_length=384)
    finally:
        for port in processes:
            end(port)
    assert len(found) == 3 and sum(record["retried"] for record in found) >= 1
    rows = [json.loads(line) for line in open(tmp_path / "out" / "completions.jsonl")]
    assert [sum(row["step"] == step for row in rows) for step in (1, 2, 3)] == [8, 8, 8]
    assert found[0]["server1_tokens_per_second"] > 0 < found[0]["server2_tokens_per_second"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until_healthy(port: int, process: subprocess.Popen) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        assert process.poll() is None, "vLLM has ended; its log is in the test's folder"
        time.sleep(1)
    raise AssertionError("vLLM did not start within ten minutes")
