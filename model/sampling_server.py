"""Sample from OpenAI-compatible servers (vLLM), in training, as `sampling.generate` does.

The servers hold the base model. After an update the adapter is saved where they can read it, and each loads it under a
new name (POST /v1/load_lora_adapter; vLLM caches prompts by the adapter's name). A request asks for one completion, by
token ids and with a seed of its own. It is with one server at a time, and if that fails it goes back to the queue: no
completion is lost, and none comes twice.

A server that fails is set aside and tried again after a pause. Before it gets requests it must take the adapter, and on
a few completions its log-probabilities must be the policy's. In between nothing runs: the event loop turns only within
the methods of `ServerSampler`, in the caller's thread. One other thread may call `generate` after `leave_alone`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import secrets
import shutil
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from common import InputError, one_line, printable, require
from common.server_url import NOT_AS_AGREED, server_urls
from model.adapters import adapter_weights, check_plain, read_config
from model.fleet_member import Failed, Member
from model.load import base_and_adapter, load_config, save_adapter
from model.parity import FAR, token_logprobs
from model.sampling import Rollout, text_of
from model.sampling_vllm import ends_of
from model.tokens import completion_text

PROBES, PROBE_TOKENS = 4, 32  # completions that a server must give before it is trusted, and tokens of each at most
LONGEST_PAUSE = 30.0  # seconds until a server that failed is tried again: 1, 2, 4, ... up to this
LOOK_EVERY = 0.2  # seconds until the other thread sees that it is to end, or may read the policy
ATTEMPTS = 10  # at one completion; more than servers are likely to be killed while they work on it
REFUSED = (400, 413, 422)  # statuses of a wrong request, if a second server agrees: vLLM also fails with 400


class ServerSampler:
    """Servers with a base model, and with the adapter that they were last given.

    Args:
        name: the model or adapter to sample from, or that the policy starts from.
        args: the script's: server, server_timeout, server_wait, adapter_dir, max_length, temperature, ...
        compared: whether `generate` will be given a policy, with which the servers are compared.

    Raises:
        InputError: a server cannot be reached, has another model or too short a context, or takes no adapter.
    """

    def __init__(self, name: str, tokenizer, args: Any, compared: bool = True) -> None:
        self.base, self.adapter = base_and_adapter(name)
        if self.adapter:
            check_plain(self.adapter, "--engine server")
            self.rank = read_config(self.adapter)["r"]
        self.args, self.tokenizer, self.compared = args, tokenizer, compared
        self.ends = ends_of(self.base, tokenizer, args.trust_remote_code)
        self.vocabulary = load_config(name, args.trust_remote_code).get_text_config().vocab_size
        self.servers = [Member(url, args.server_timeout) for url in server_urls(args.server)]
        self.loop, self.renewals, self.under_way = asyncio.new_event_loop(), {}, {}
        self.id, self.version, self.handed, self.begun = secrets.token_hex(4), 0, {}, False
        self.seconds, self.retried, self.calls = 0.0, 0, 0
        self.policy, self.training, self.ending = None, False, False  # for the other thread
        self.folder, self.path = None, Path(self.adapter or "").absolute()
        output = getattr(args, "output_dir", "")
        if args.adapter_dir or output:
            beside = Path(output).absolute()
            self.folder = Path(args.adapter_dir or beside.with_name(f"{beside.name}.adapters")).absolute()
            keep = args.adapter_dir or getattr(args, "dry_run", False)  # the folder may be another run's too
            for left in () if keep else self.folder.glob("policy-*"):  # by a run that was killed
                shutil.rmtree(left, ignore_errors=True)
            self.path = self.folder / self.name
        atexit.register(self.close)
        try:
            if self.folder and self.adapter:
                shutil.copytree(self.adapter, self.path)
            self._all(server.find(self.base, args.max_length, compared) for server in self.servers)
            if self.adapter:
                self._all(server.load(self.name, str(self.path), self.rank) for server in self.servers)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):  # of copytree
                raise InputError(f"--adapter_dir {self.folder}: cannot be written: {error}") from None
            raise

    @property
    def name(self) -> str:
        """The adapter's name, which no other run and no other version has."""
        return f"policy-{self.id}-{self.version}"

    def _all(self, work: Iterable[Coroutine]) -> list:
        """Do some work for each server at once; raise the first error."""

        async def gathered() -> list:
            return await asyncio.gather(*work, return_exceptions=True)

        results = self.loop.run_until_complete(gathered())
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def hand_over(self, model, tokenizer) -> None:
        """Save the policy's adapter for the servers if it has changed; `renew` gives it to each."""
        weights = adapter_weights(model) if model is not None and self.adapter else {}
        same = weights.keys() == self.handed.keys()
        if not weights or same and all(torch.equal(weight, self.handed[name]) for name, weight in weights.items()):
            return
        self.handed = {name: weight.clone() for name, weight in weights.items()}
        old, self.version = self.path, self.version + 1
        self.path = self.folder / self.name
        try:
            save_adapter(model, tokenizer, self.path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"--adapter_dir {self.folder}: cannot be written: {one_line(error)}") from None
        shutil.rmtree(old, ignore_errors=True)
        for server in self.servers:
            server.up = False

    def leave_alone(self, model, tokenizer) -> None:
        """Hand the policy over, and do not read it until the caller sets `training` to False again.

        Meanwhile one other thread may call `generate`, without a model, and the caller nothing but `counts`. A server
        that must be compared in that thread waits; the policy may then be one update newer than its adapter.
        """
        if self.renewals:  # which may have waited for the end of the training
            self.loop.run_until_complete(asyncio.sleep(2 * LOOK_EVERY))
        for task in [task for task in self.renewals if task.done()]:
            self.finish_renewal(task, model)
        self.hand_over(model, tokenizer)
        self.policy, self.training = model, True

    async def renew(self, server: Member, prompts: list[list[int]]) -> list[Rollout]:
        """Give a server the adapter, after its pause; return a few completions if it must be compared."""
        await asyncio.sleep(max(0.0, server.again - time.monotonic()))
        if self.adapter:
            await server.load(self.name, str(self.path), self.rank)
        if server.trusted:
            return []
        if self.begun:  # it may have been started again, with other settings
            await server.find(self.base, self.args.max_length, self.compared)
        how = {"temperature": self.args.temperature, "top_p": 1.0, "seed": 0,
               "max_tokens": min(PROBE_TOKENS, self.args.max_new_tokens)}  # fmt: skip
        found = [await self.complete(server, index, 0, ids, (), how, True)
                 for index, ids in enumerate(prompts[:PROBES])]  # fmt: skip
        while self.training:
            await asyncio.sleep(LOOK_EVERY)
        return found

    async def complete(self, server: Member, index: int, number: int, prompt: list[int], stops: tuple[str, ...],
                       how: dict[str, Any], spelled: bool = False) -> Rollout:  # fmt: skip
        """Ask a server for one completion.

        Args:
            how: max_tokens, temperature, top_p, seed. spelled: also compare its text with its tokens.

        Raises:
            Failed: it gives none, or not one that the request can have.
        """
        body = {
            "model": self.name if self.adapter else server.base, "prompt": prompt, "stop": list(stops),
            "stop_token_ids": self.ends, "logprobs": 1, "return_token_ids": True, "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            # else a server takes these from the model's generation config
            "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        }  # fmt: skip
        reply = await server.post("/completions", body | how)
        try:
            choice = reply["choices"][0]
            require(
                choice.get("token_ids") is not None, "gives no token ids (return_token_ids); vLLM does since 0.10.2"
            )
            ids, logprobs, text = choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["text"]
            require(0 < len(ids) <= how["max_tokens"] and len(ids) == len(logprobs),
                    f"gives {len(ids)} token ids and {len(logprobs)} log-probabilities; up to {how['max_tokens']} were "
                    "asked for")  # fmt: skip
            require(all(type(token) is int and 0 <= token < self.vocabulary for token in ids),
                    f"gives token ids that are none of the model's {self.vocabulary}")  # fmt: skip
            require(all(math.isfinite(value) for value in logprobs), "gives log-probabilities that are not finite")
            reason = choice["finish_reason"]
            require(reason in ("stop", "length"), f"broke a completion off ({reason!r})")
            if spelled:
                full = completion_text(self.tokenizer, prompt, ids[:-1] if ids[-1] in self.ends else ids)
                unclear = "\ufffd" in full + text  # a character that was not finished
                require(full == text or unclear,
                        f"answers with text that its tokens do not spell: {text[:40]!r} and not {full[:40]!r}; its "
                        "tokenizer is another one")  # fmt: skip
        except InputError as error:
            raise Failed(server.url, str(error)) from None
        except (KeyError, *NOT_AS_AGREED):
            raise Failed(server.url, "answers, but not with a completion and its log-probabilities") from None
        return Rollout(index, prompt, ids, logprobs, reason == "stop",
                       text_of(self.tokenizer, prompt, ids, set(self.ends), stops), number)  # fmt: skip

    @torch.no_grad()
    def compare(self, server: Member, rollouts: list[Rollout], model) -> None:
        """Trust a server whose log-probabilities of a few completions are the policy's. Else raise Failed."""
        if rollouts and model is not None:
            theirs = torch.tensor([value for r in rollouts for value in r.logprobs])
            at = {self.args.temperature, 1.0}
            gaps = {t: (token_logprobs(model, rollouts, t, PROBES) - theirs).abs().mean().item() for t in at}
            gap = gaps[self.args.temperature]
            if gaps[1.0] < gap / 2:  # not by chance
                raise Failed(
                    server.url,
                    "its log-probabilities are at temperature 1; for another --temperature start it with "
                    "--logprobs-mode processed_logprobs",
                )
            bound = max(FAR, getattr(self.args, "parity_bound", 0.0))
            if not gap <= bound:
                raise Failed(
                    server.url,
                    f"its log-probabilities differ from the policy's by {gap:.3g} nats a token (bound {bound:g}); "
                    f"start it with the base model {self.base}, or set --parity_bound",
                )
            print(f"server {server.url}: {server.base}, its log-probabilities are within {gap:.1e} of the policy's")
        server.trusted = True

    def generate(self, model, tokenizer, prompts: list[list[int]], *, max_new_tokens: int, temperature: float,
                 top_p: float = 1.0, num_samples: int = 1, batch_size: int = 64,
                 stops: list[tuple[str, ...]] | None = None, unpack: bool = True, graph: bool = True,
                 seeds: list[tuple[int, ...]] | None = None) -> Iterator[Rollout]:  # fmt: skip
        """Do as `sampling.generate` does: the same arguments, the same rollouts.

        Args:
            model: the policy, whose adapter is handed over if it has changed; None: the adapter as it is on disk.
            batch_size: requests under way at a time, on all servers together.
            unpack, graph: without effect here.

        Raises:
            InputError: a request is refused or has failed too often, or no server answers for --server_wait seconds.
        """
        began = time.monotonic()
        self.hand_over(model, tokenizer)
        self.begin(model, prompts)
        numbers = [int(np.random.default_rng(seeds and seeds[i]).integers(2**48)) for i in range(len(prompts))]
        places = len(prompts) * num_samples

        def ask(server: Member, place: int) -> asyncio.Task:
            index, number = divmod(place, num_samples)
            how = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p,
                   "seed": numbers[index] + number}  # fmt: skip
            work = self.complete(server, index, number, prompts[index], stops[index] if stops else (), how)
            return self.loop.create_task(work)

        waiting, under_way, attempts, refused = deque(range(places)), self.under_way, Counter(), set()
        heard = time.monotonic()
        try:
            while (waiting or under_way) and not self.ending:
                self.start_renewals(prompts)
                working = sum(not server.failures for server in self.servers)
                room = math.ceil(min(batch_size, places) / max(1, working))
                while waiting and len(under_way) < batch_size:
                    free = [server for server in self.servers if server.up and server.under_way < room]
                    if not free:
                        break
                    server, place = min(free, key=lambda one: one.under_way), waiting.popleft()
                    under_way[ask(server, place)] = server, place
                    server.under_way += 1
                heard = time.monotonic() if self.training else heard  # nobody waits yet
                done = self.wait({*under_way, *self.renewals}, heard + self.args.server_wait - time.monotonic())
                for task in done:
                    if task in self.renewals:
                        self.finish_renewal(task, self.policy if model is None else model)
                        continue
                    server, place = under_way.pop(task)
                    server.under_way -= 1
                    try:
                        rollout = task.result()
                    except Failed as failure:
                        attempts[place] += 1
                        wrong, alone = failure.status in REFUSED, not any(s.up for s in self.servers if s is not server)
                        if wrong and (alone or place in refused) or attempts[place] == ATTEMPTS:
                            raise
                        if wrong:
                            refused.add(place)
                        waiting.appendleft(place)
                        self.retried += 1
                        if server.up:  # else it is aside, and this is another of its requests
                            self.set_aside(server, failure)
                        continue
                    heard, server.tokens = time.monotonic(), server.tokens + len(rollout.token_ids)
                    yield rollout
        finally:
            self.cancel(under_way)
            for server in self.servers:
                server.under_way = 0
            self.seconds, self.calls = self.seconds + time.monotonic() - began, self.calls + 1

    def begin(self, model, prompts: list[list[int]]) -> None:
        """Before the first completion, give all servers the adapter and compare them; any failure ends the run."""
        if self.begun:
            return
        found = self._all(self.renew(server, prompts) for server in self.servers)
        for server, rollouts in zip(self.servers, found, strict=True):
            self.compare(server, rollouts, model)
            server.up, server.last = True, ""
        self.begun = True

    def start_renewals(self, prompts: list[list[int]]) -> None:
        """See that every server that gets no requests is on its way to get some."""
        for server in self.servers:
            if not server.up and server not in self.renewals.values():
                server.tried_in = self.calls
                self.renewals[self.loop.create_task(self.renew(server, prompts))] = server

    def finish_renewal(self, task: asyncio.Task, model) -> None:
        """Let a server have requests again, or try it again later if it has failed."""
        server = self.renewals.pop(task)
        moved_on = self.adapter and server.names != {self.name}  # the policy
        late = server.tried_in != self.calls  # nothing ran between the calls, but the clock did
        try:
            rollouts = task.result()
            late = False
            self.compare(server, rollouts, model)
        except Failed as failure:
            if not (late or moved_on):
                self.set_aside(server, failure)
            return
        if moved_on:
            return
        if server.failures:
            print(f"server {server.url}: is back")
        server.up, server.failures, server.last = True, 0, ""

    def set_aside(self, server: Member, failure: Failed) -> None:
        """Give a server no requests until it has been renewed."""
        server.last = str(failure)
        if not server.failures:
            print(printable(f"server {server.url}: {failure.what}; set aside, its requests are asked again"))
        server.up = server.trusted = False
        server.again = time.monotonic() + min(2.0 ** min(server.failures, 10), LONGEST_PAUSE)
        server.failures += 1

    def wait(self, tasks: set[asyncio.Task], seconds: float) -> set[asyncio.Task]:
        """Wait a moment for one of the tasks. Raise InputError if no completion has come for too long."""
        done, _ = self.loop.run_until_complete(
            asyncio.wait(tasks, timeout=min(max(0.0, seconds), LOOK_EVERY), return_when=asyncio.FIRST_COMPLETED)
        )
        last = next((server.last for server in self.servers if server.last), "they are slow")
        require(seconds > 0, f"--engine server: no completion for {self.args.server_wait:g} s (--server_wait); {last}; "
                             "once they run, the same command resumes")  # fmt: skip
        return done

    def cancel(self, tasks: dict[asyncio.Task, Any]) -> None:
        """Break tasks off and forget them: the connections are closed, and vLLM then drops the requests."""

        async def cancelled() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        if tasks and not self.loop.is_closed():
            self.loop.run_until_complete(cancelled())
        tasks.clear()

    def counts(self) -> dict[str, float]:
        """Return for the log what was asked again, and each server's tokens a second, since the last call."""
        seconds = max(self.seconds, 1e-9)
        found = {"retried": self.retried}
        found |= {f"server{i}_tokens_per_second": one.tokens / seconds for i, one in enumerate(self.servers, start=1)}
        self.seconds, self.retried = 0.0, 0
        for server in self.servers:
            server.tokens = 0
        return found

    def close(self) -> None:
        """Take the adapter back from the servers, and delete what was saved for them. This ends the sampler."""
        atexit.unregister(self.close)
        if self.loop.is_closed():
            return

        async def leave() -> None:
            for server in self.servers:
                with contextlib.suppress(Exception):  # it is gone, or this program ends: there is nothing to be done
                    async with asyncio.timeout(5):
                        for name in server.names if not server.failures else ():
                            await server.post("/unload_lora_adapter", {"lora_name": name})
                        await server.client.close()

        self.cancel(self.renewals)
        self.cancel(self.under_way)
        self.loop.run_until_complete(leave())
        self.loop.close()
        if self.folder:
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.args.adapter_dir:
                with contextlib.suppress(OSError):  # there is more in it, or it was never made
                    self.folder.rmdir()
