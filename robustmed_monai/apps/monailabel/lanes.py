"""Work beside the event loop: a thread that does one thing at a time, and a queue with a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from robustmed_monai.utils.errors import RequestError

T = TypeVar("T")


class ClientGoneError(Exception):
    """Whoever asked has hung up; nobody waits for the answer."""


class Lane:
    """One thread for jobs of one kind, in the order in which they came.

    Args:
        name: what it does, for the sentence when it is full.
        waiting: jobs that may wait while one runs.
    """

    def __init__(self, name: str, waiting: int) -> None:
        self.name = name
        self.waiting = waiting
        self._inside = 0
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, job: Callable[[], T], gone: Callable[[], Awaitable[None]]) -> T:
        """Wait for the turn, run the job in the thread and return its result.

        Args:
            job: the work.
            gone: returns once nobody waits for the result any more; a job that waits is then dropped, one
                that runs comes to its end.

        Raises:
            RequestError: 503 when as many jobs wait as may.
            ClientGoneError: when the job was dropped.
        """
        if self._inside > self.waiting:
            raise RequestError(
                503, f"busy: {self._inside} requests for {self.name} run or wait; ask again in a while."
            )
        self._inside += 1
        try:
            await self._wait(gone)
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, job)
            finally:
                self._turn.release()
        finally:
            self._inside -= 1

    async def _wait(self, gone: Callable[[], Awaitable[None]]) -> None:
        turn, left = asyncio.ensure_future(self._turn.acquire()), asyncio.ensure_future(gone())
        try:
            await asyncio.wait((turn, left), return_when=asyncio.FIRST_COMPLETED)
            if not left.done():
                return
            if turn.done():
                self._turn.release()
            raise ClientGoneError
        finally:
            left.cancel()
            if not turn.done():
                turn.cancel()
