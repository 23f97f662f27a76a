"""Start a judge process, send it jobs, and kill it when it is late."""

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

from judging.codec import MAX_JOB, MAX_REQUEST, Malformed, dump_frame, split_frame

GRACE = 0.6  # seconds past its limit that a check may take before the judge itself is killed
MAX_EXTENSION = 60.0  # seconds in total that a judge may ask for beyond a check's limit (plus 3 of its time limits)
LAST_MOMENT = 0.5  # seconds to wait for the exit code of a judge that has hung up

# A worker's whole environment. numpy gets one thread, since there is one core for each worker.
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


class Dead(Exception):
    """The judge is gone; the message says what was noticed, and `code` is its exit code as in Popen, if known."""

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
            start_new_session=True,  # Ctrl-C reaches only this process, which then ends the workers
        )
        theirs.close()
        self.buffer = bytearray()

    def receive(self, limit: float) -> Any:
        """Return the next message; raise TimeoutError after `limit` seconds and Dead if the judge hangs up.

        Dead is also raised for a message that cannot be read.
        """
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
        """Return the fields of the verdict on one job.

        A judge that needs longer first sends {"wait": seconds}; it then has this many seconds from that moment. A judge
        that is late is killed, and the verdict is a timeout.

        Raises:
            TooBig: the job does not fit into a message.
            Dead: the judge ended without a verdict.
        """
        started = time.monotonic()
        allowed = promised = job.get("total_limit", job["time_limit"])
        extra = MAX_EXTENSION + 3 * allowed  # for checking a reference, and for the candidate's check a second time
        try:
            self.socket.sendall(dump_frame(job, MAX_JOB if "inputs" in job.get("task", ()) else MAX_REQUEST))
            fields = self.receive(allowed + GRACE)
            while fields.keys() == {"wait"}:
                allowed = min(max(float(fields["wait"]), 0.0), extra)
                extra -= allowed
                fields = self.receive(allowed + GRACE)
        except TimeoutError:
            self.kill()
            reason = f"no result within {promised:g} s: a test hangs on what the function returned"
            return {"status": "timeout", "reason": reason, "wall_seconds": time.monotonic() - started}
        except (OSError, Dead) as error:
            raise Dead(str(error), self.exit_code()) from None
        return fields

    def exit_code(self) -> int | None:
        """Return the judge's exit code; None if it has not ended after a short wait."""
        try:
            return self.process.wait(LAST_MOMENT)
        except subprocess.TimeoutExpired:
            return None

    def hang_up(self) -> None:
        """Close the connection, which tells the judge to clean up and exit."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def kill(self, after: float = 0.0) -> None:
        """End the judge, its zygote and the zygote's children; first give them `after` seconds to end themselves."""
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
