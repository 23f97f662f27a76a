"""Get completions from a server with OpenAI's completions protocol (vLLM, SGLang, llama.cpp), for evaluation.

`sampling_server.py` trains with such servers and takes its `Connection` from here.

Each request asks for one completion. So the server's token count belongs to that completion, and a server that ignores
`n` still gives as many as needed. The key is read from OPENAI_API_KEY and is sent only in the requests' header.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from urllib.parse import urlsplit

from common import InputError, require
from common.server_url import NOT_AS_AGREED, check_url, public_url

LIST_TIMEOUT = 30.0  # seconds for the list of models; a completion has the client's own 600


@dataclass
class Completion:
    """A completion from the server.

    Attributes:
        text: the completion.
        gen_len: number of tokens as the server counts them (vLLM counts the EOS); None if it does not say.
        ended: True if the model ended the completion, False if it was cut; None if the server gives another reason.
    """

    text: str
    gen_len: int | None
    ended: bool | None


class Connection:
    """A server's address and key, checked, and its errors in words.

    Attributes:
        url: the server's address, without credentials. address: with them.

    Raises:
        InputError: the package openai is missing, or the address or the key is invalid.
    """

    def __init__(self, url: str) -> None:
        try:
            import openai
        except ImportError:
            raise InputError("--server: needs the package openai; .venv/bin/pip install openai") from None
        check_url(url, "--server")
        parts = urlsplit(url)
        require(not (parts.query or parts.fragment),
                f"--server {public_url(url)}: leave out what follows the path; OPENAI_API_KEY is the key")  # fmt: skip
        self.openai, self.url = openai, public_url(url)
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        require(self.key.isascii() and self.key.isprintable(), "OPENAI_API_KEY: has characters that no key has")
        self.address = parts._replace(path=urlsplit(self.url).path).geturl()

    def said(self, error: Exception) -> str:
        """Put an error of the client into words, with the key removed in case the server quotes it."""
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            return f"refuses the key ({status}); set OPENAI_API_KEY to one it accepts"
        if status is None:
            cause = str(error.__cause__ or "") or str(error)
            start, text, end = "cannot be reached (", cause, "); is it running, and is this its address?"
        else:
            body = getattr(error, "body", None)
            text = str(body.get("message") or body) if isinstance(body, dict) else str(error)
            start, end = f"answers with error {status}: ", ""
        text = text.replace(self.key, "***") if self.key else text  # before cutting, which could leave half of it
        return f"{start}{' '.join(text.split())[:300]}{end}"


class Server(Connection):
    """A connection to a server, which is asked for its models when this is made.

    Attributes:
        model: the server's name of the model.

    Raises:
        InputError: as `Connection`, or the server cannot be reached, refuses the key, or does not have the model.
    """

    RETRIES = 4  # of a request that failed on the way or met a busy server; with 0.5 s to 8 s in between

    def __init__(self, url: str, model: str) -> None:
        super().__init__(url)
        self.client = self.openai.OpenAI(base_url=self.address, api_key=self.key or "none", max_retries=self.RETRIES)
        self.model = self._find(model)

    def _find(self, model: str) -> str:
        """Return the server's name of the model; "" means the only model that it has."""
        try:
            client = self.client.with_options(max_retries=0, timeout=LIST_TIMEOUT)
            names = [entry.id for entry in client.models.list()]
        except (self.openai.NotFoundError, self.openai.InternalServerError):
            names = []
        except self.openai.APIError as error:
            raise self._plain(error) from None
        except NOT_AS_AGREED:
            raise InputError(f"--server {self.url}: answers, but not as an OpenAI-compatible server") from None
        if not names:  # as from `transformers serve`, which lists the hub's cache, and answers 500 where there is none
            require(model != "", f"--server {self.url}: lists no models; name one with --model_path")
            return model
        if model == "" and len(names) == 1:
            return names[0]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        require(model in names, f"--server {self.url}: has no model {model!r}; --model_path may be one of: {shown}")
        return model

    def complete(
        self,
        prompts: list[str],
        *,
        num_samples: int,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        in_flight: int,
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (place, completion) as they finish; place i belongs to prompt i // num_samples.

        Args:
            in_flight: number of simultaneous requests.

        Raises:
            InputError: a request failed after all retries; the remaining requests are cancelled.
        """

        def ask(place: int) -> Completion:
            prompt, number = divmod(place, num_samples)
            try:
                reply = self.client.completions.create(
                    model=self.model,
                    prompt=prompts[prompt],
                    max_tokens=max_new_tokens,
                    temperature=temperature,
                    top_p=top_p,
                    seed=random.Random(f"{seed} {prompt} {number}").getrandbits(31),  # equal seeds, equal samples
                )
                text, reason = reply.choices[0].text, reply.choices[0].finish_reason
                length = getattr(reply.usage, "completion_tokens", None)
            except NOT_AS_AGREED:
                text = None
            require(isinstance(text, str), f"--server {self.url}: answers, but not with a completion")
            return Completion(text, length, {"stop": True, "length": False}.get(reason))

        total = len(prompts) * num_samples
        places, answers = iter(range(total)), SimpleQueue()

        def work() -> None:
            for place in places:
                try:
                    answers.put((place, ask(place)))
                except Exception as error:
                    answers.put((place, error))

        # daemons, because a pool's threads would keep the program from ending while a server gives no answer
        for _ in range(min(in_flight, total)):
            Thread(target=work, name="server", daemon=True).start()
        try:
            for _ in range(total):
                place, answer = answers.get()
                if isinstance(answer, self.openai.APIError):
                    raise self._plain(answer) from None
                if isinstance(answer, Exception):
                    raise answer
                yield place, answer
        finally:
            for _ in places:  # the threads have nothing more to ask
                pass

    def _plain(self, error: Exception) -> InputError:
        return InputError(f"--server {self.url}: {self.said(error)}")
