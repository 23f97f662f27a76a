"""The caller's end of one worker: starts a judge, hands it jobs, kills it when it is late."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from judging.codec import Malformed, dump_frame, split_frame

GRACE = 0.6  # seconds past its limit that a check may take before the judge itself is killed
MAX_EXTENSION = 60.0  # seconds that a judge may ask for beyond a check's limit, all in all
LAST_MOMENT = 0.5  # seconds for a judge that has hung up to be gone, so that its end can be read

# All that a worker finds in its environment. One thread in numpy: a core for each worker is there, and no more.
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


class Dead(Exception):
    """The judge is gone; the message says how it looked, `code` how it ended (as Popen's), where that is known."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Worker:
    """One judge process and the socket to it."""

    def __init__(self, settings: dict[str, Any], program: str = "python/judge.py") -> None:
        self.socket, theirs = socket.socketpair()
        path = str(Path(__file__).resolve().parent / program)
        arguments = [str(theirs.fileno()), str(os.getpid()), json.dumps(settings)]
        self.process = subprocess.Popen(
            [sys.executable, "-s", "-B", path, *arguments],
            pass_fds=[theirs.fileno()],
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us; we tell the workers
        )
        theirs.close()
        self.buffer = bytearray()

    def receive(self, limit: float) -> Any:
        """The next message; raises TimeoutError after `limit` seconds and Dead at the end of the stream."""
        give_up = time.monotonic() + limit
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        try:
            while (frame := split_frame(self.buffer, 1 << 20)) is None:
                if not poll.poll(max(give_up - time.monotonic(), 0) * 1000):
                    raise TimeoutError
                if not (chunk := self.socket.recv(1 << 16)):
                    raise Dead("the judge ended")
                self.buffer += chunk
        except (OSError, Malformed) as error:
            if isinstance(error, TimeoutError):
                raise
            raise Dead(str(error)) from None
        del self.buffer[: frame[1]]
        return frame[0]

    def check(self, job: dict[str, Any]) -> dict[str, Any]:
        """The fields of the verdict on one job.

        A judge that needs longer sends {"wait": seconds} first: it has so many from then on.

        Raises:
            TooBig: the job does not fit into a message.
            Dead: there is no verdict, and no judge any more.
        """
        started = time.monotonic()
        allowed = job["time_limit"]
        extra = MAX_EXTENSION + 3 * allowed  # a reference's check, and the candidate's own once more
        try:
            self.socket.sendall(dump_frame(job))
            fields = self.receive(allowed + GRACE)
            while fields.keys() == {"wait"}:
                allowed = min(max(float(fields["wait"]), 0.0), extra)
                extra -= allowed
                fields = self.receive(allowed + GRACE)
        except TimeoutError:
            self.kill()
            reason = f"no result within {job['time_limit']:g} s: a test hangs on what the function returned"
            return {"status": "timeout", "reason": reason, "wall_seconds": time.monotonic() - started}
        except (OSError, Dead) as error:
            raise Dead(str(error), self.exit_code()) from None
        return fields

    def exit_code(self) -> int | None:
        """How the judge ended; None if it did not."""
        try:
            return self.process.wait(LAST_MOMENT)
        except subprocess.TimeoutExpired:
            return None

    def hang_up(self) -> None:
        """Tell the judge to clean up and go."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def kill(self, after: float = 0.0) -> None:
        """End the judge, its zygote and whatever that runs; they get `after` seconds to do it themselves."""
        self.hang_up()
        try:
            self.process.wait(after) if after else None
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # a child of the zygote dies with the zygote
        except OSError:
            pass
        self.process.wait()
        self.socket.close()
