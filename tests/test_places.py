"""Places in an engine's batch: never more than there are for groups, nobody forgotten."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.llm.vllm import Places


@given(st.lists(st.integers(1, 5), max_size=20), st.lists(st.integers(0, 3), min_size=20, max_size=20))
def test_groups_never_take_more_than_there_is(sizes: list[int], waits: list[int]) -> None:
    async def work() -> None:
        places, began = Places(7), []

        async def group(number: int, size: int) -> None:
            async with places.group(size):
                assert places.taken <= 7
                began.append(number)
                for _ in range(waits[number]):
                    await asyncio.sleep(0)

        await asyncio.gather(*[group(number, size) for number, size in enumerate(sizes)])
        assert began == sorted(began)  # first come, first served
        assert places.taken == 0

    asyncio.run(work())


def test_a_group_waits_for_single_requests_but_not_they_for_it() -> None:
    async def work() -> None:
        places, seen = Places(2), []

        async def group() -> None:
            async with places.group(2):
                seen.append("group")

        with places.single(), places.single(), places.single():
            waiting = asyncio.ensure_future(group())
            await asyncio.sleep(0)
            with places.single():
                seen.append("single")
            await asyncio.sleep(0)
            assert seen == ["single"]
        await waiting
        assert seen == ["single", "group"]

    asyncio.run(work())


@pytest.mark.parametrize("turns", [1, 2])
def test_a_group_that_gives_up_leaves_nothing_behind(turns: int) -> None:
    """Cancelled while it waits, and in the moment between its turn and its waking up."""

    async def work() -> None:
        places, seen = Places(2), []

        async def group(name: str) -> None:
            async with places.group(2):
                seen.append(name)

        with places.single():
            first, second = asyncio.ensure_future(group("first")), asyncio.ensure_future(group("second"))
            await asyncio.sleep(0)
            if turns == 1:
                first.cancel()
                await asyncio.sleep(0)
        first.cancel()
        await second
        assert (seen, places.taken) == (["second"], 0)
        assert first.cancelled()

    asyncio.run(work())


def test_an_error_inside_gives_the_places_back() -> None:
    async def work() -> None:
        places = Places(2)
        with pytest.raises(KeyError):
            async with places.group(2):
                raise KeyError("x")
        with pytest.raises(ValueError, match="3 requests that belong together > 2 sequences"):
            async with places.group(3):
                raise AssertionError
        assert places.taken == 0

    asyncio.run(work())
