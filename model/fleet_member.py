"""One server of a fleet that samples for training (`sampling_server.py`): its requests, and what it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from common import InputError
from common.server_url import NOT_AS_AGREED
from model.server import Connection


class Failed(InputError):
    """A server did not do what it was asked for; another one may, or the same one later.

    status: of its answer; None without one.
    """

    def __init__(self, url: str, what: str, status: int | None = None) -> None:
        super().__init__(f"--server {url}: {what}")
        self.what, self.status = what, status


class Member(Connection):
    """One server of the fleet.

    base: its name of the base model. names: the adapters that it may hold. up: whether it gets requests.
    trusted: whether its log-probabilities have been compared. again: when it is tried again, by `time.monotonic`.
    tried_in: the call of `generate` in which that began.
    failures: in a row. under_way: its requests. tokens: that it sampled since the last log.
    """

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(url)
        self.client = self.openai.AsyncOpenAI(
            base_url=self.address, api_key=self.key or "none", max_retries=0, timeout=None
        )
        self.timeout, self.base, self.names = timeout, "", set()
        self.up, self.trusted, self.again, self.failures = False, False, 0.0, 0
        self.under_way = self.tokens = self.tried_in = 0
        self.last = ""  # what it failed with

    async def answer(self, request: Awaitable) -> Any:
        """Return what a request of the client brings. Raise Failed if it fails, or takes longer than the timeout."""
        try:
            async with asyncio.timeout(self.timeout):
                return await request
        except TimeoutError:
            raise Failed(self.url, f"gives no answer within {self.timeout:g} s (--server_timeout)") from None
        except self.openai.APIError as error:
            raise Failed(self.url, self.said(error), getattr(error, "status_code", None)) from None
        except NOT_AS_AGREED:
            raise Failed(self.url, "answers, but not as an OpenAI-compatible server") from None

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return await self.answer(self.client.post(path, body=body, cast_to=object))

    async def find(self, base: str, max_length: int, compared: bool) -> None:
        """Find the server's name of the base model: the one that is called alike, or its only model.

        Args:
            compared: whether its log-probabilities will be; else its only model must be called alike too.
        """
        listed = await self.answer(self.client.get("/models", cast_to=object))
        try:
            models = [one for one in listed["data"] if not one.get("parent")]  # adapters have one
            names = [one["id"] for one in models]
            alike = [
                one for one in models if Path(base).name in (Path(one["id"]).name, Path(one.get("root") or "").name)
            ]
            found = alike[0] if alike else models[0] if len(models) == 1 and compared else None
            context = (found or {}).get("max_model_len") or max_length
            short = context < max_length
        except (KeyError, *NOT_AS_AGREED):
            raise Failed(self.url, "answers, but not as an OpenAI-compatible server") from None
        if found is None:
            raise Failed(self.url, f"has no model {base!r}; it has: {', '.join(map(str, names[:5])) or 'none'}; "
                                   f"vLLM's --served-model-name {Path(base).name} names it")  # fmt: skip
        if short:
            raise Failed(self.url, f"has room for {context} tokens, --max_length is {max_length}; start it with "
                                   f"--max-model-len {max_length}")  # fmt: skip
        self.base = found["id"]

    async def load(self, name: str, path: str, rank: int) -> None:
        """Let the server load an adapter, and drop those that it had before."""
        for old in self.names - {name}:
            try:
                await self.post("/unload_lora_adapter", {"lora_name": old})
            except Failed:  # it was started again, perhaps with another model
                self.trusted = False
        self.names = {name}
        try:
            await self.post("/load_lora_adapter", {"lora_name": name, "lora_path": path})
        except Failed as failure:
            if failure.status is None or failure.status in (401, 403):
                raise
            if "already been loaded" not in failure.what:
                raise Failed(
                    self.url,
                    f"does not take the adapter ({failure.what}); it must be able to read {path}, and be started with "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, --enable-lora and --max-lora-rank "
                    f"{rank} or more",
                    failure.status,
                ) from None
