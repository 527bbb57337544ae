"""Searches made while answers are made: what many coroutines ask at about the same time is searched at once.

A generator works on hundreds of questions at a time, each a coroutine that may search at any moment. One by one, every
search would be a call to another process, an encoding of one text and a scan of the index for one query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from wbrag.schema import Document

#: Answers queries with k documents each, in order; a query's flag says whether write-back is searched too.
SearchMany = Callable[[list[str], int, list[bool]], Awaitable[list[list[Document]]]]


@dataclass
class _Query:
    text: str
    k: int
    merged: bool
    found: asyncio.Future[list[Document]]


class BatchedSearch:
    """Gathers queries for up to `wait` seconds (little beside an answer's, enough for an engine's step) or until there
    are `batch` (what one encoding and one scan take in their stride), and sends those of one k together.

    For one event loop. What `search_many` raises is raised to every query of its batch, and to no other.
    """

    def __init__(self, search_many: SearchMany, batch: int = 64, wait: float = 0.005) -> None:
        self.search_many, self.batch, self.wait = search_many, batch, wait
        self._waiting: list[_Query] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sent: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks only weakly

    async def base(self, query: str, k: int) -> list[Document]:
        """R(q, K): the k nearest documents of the corpus, nearest first."""
        return await self._ask(query, k, False)

    async def merged(self, query: str, k: int) -> list[Document]:
        """Top-K(R(q, K) u R(q, K_wb)): the k nearest of the corpus and of write-back, nearest first."""
        return await self._ask(query, k, True)

    async def _ask(self, text: str, k: int, merged: bool) -> list[Document]:
        loop = asyncio.get_running_loop()
        query = _Query(text, k, merged, loop.create_future())
        self._waiting.append(query)
        if len(self._waiting) >= self.batch:
            self._send()
        elif len(self._waiting) == 1:
            self._timer = loop.call_later(self.wait, self._send)
        return await query.found

    def _send(self) -> None:
        if self._timer:
            self._timer.cancel()
        queries, self._waiting = self._waiting, []
        # By k: where units stand beside passages, the nearest k are not the first of a longer list.
        for k in dict.fromkeys(query.k for query in queries):
            task = asyncio.get_running_loop().create_task(self._serve([q for q in queries if q.k == k], k))
            self._sent.add(task)
            task.add_done_callback(self._sent.discard)

    async def _serve(self, queries: list[_Query], k: int) -> None:
        wanted = [query for query in queries if not query.found.done()]  # who gave up is not waited for
        if not wanted:
            return
        try:
            lists = await self.search_many([q.text for q in wanted], k, [q.merged for q in wanted])
            if len(lists) != len(wanted):
                raise RuntimeError(f"{len(wanted)} queries were sent and {len(lists)} answers came back")
            for query, documents in zip(wanted, lists, strict=True):
                if not query.found.done():
                    query.found.set_result(documents)
        except Exception as error:
            for query in wanted:
                if not query.found.done():
                    query.found.set_exception(error)
        finally:
            for query in wanted:
                query.found.cancel()  # only where this task itself was cancelled is there one left
