"""Places in an engine's batch: requests that have to run side by side wait until there is room for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Places:
    """Counts the requests in an engine of `capacity` sequences. For one event loop.

    A single request enters at once (the engine itself queues what is too much); a group waits, first come first
    served, until all its requests have a place. Otherwise the engine would admit them one by one, as places fall free.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.taken = capacity, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextmanager
    def single(self) -> Iterator[None]:
        """A place for one request for the time of the block, without waiting."""
        self.taken += 1
        try:
            yield
        finally:
            self._leave(1)

    @asynccontextmanager
    async def group(self, size: int) -> AsyncIterator[None]:
        """Places for `size` requests for the time of the block; ValueError for more than the engine has."""
        if size > self.capacity:
            raise ValueError(f"{size} requests that belong together > {self.capacity} sequences at once (max_num_seqs)")
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, admitted))
        self._admit()
        try:
            await admitted
            yield
        finally:
            if admitted.cancelled():  # while it waited: it has no places, and is passed over in the queue
                self._admit()
            else:
                self._leave(size)

    def _leave(self, size: int) -> None:
        self.taken -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._next_fits():
            size, admitted = self._waiting.popleft()
            if not admitted.cancelled():
                self.taken += size
                admitted.set_result(None)

    def _next_fits(self) -> bool:
        size, admitted = self._waiting[0]
        return admitted.cancelled() or self.taken + size <= self.capacity
