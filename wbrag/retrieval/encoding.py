"""Encoder actors: a library and a model that take seconds to load, loaded once and lent to whatever needs vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from wbrag import config
from wbrag.retrieval.encoder import open_encoder

#: Times an encoder that died is started again before the run gives up.
MAX_RESTARTS = 10

Made = TypeVar("Made")


class HeldEncoder:
    """A Ray actor that holds an encoder. What is done with it comes with each call, by name: a module's function."""

    def __init__(self, encoder: config.Encoder, device: str, sharers: int) -> None:
        # Ray gives an actor one OpenMP thread unless told otherwise; here the actors share the machine's cores.
        self.encoder = open_encoder(encoder, device=device, threads=threads_of(sharers))

    def apply(self, work: Callable[..., Made], *given: object, **named: object) -> Made:
        """`work(encoder, ...)`."""
        return work(self.encoder, *given, **named)


class Encoders:
    """The encoder actors of a run or of a session: started when first asked for, ended with `stop`.

    On CPUs they take no logical CPU, of which a resumed plan needs all there are.
    """

    def __init__(self, encoder: config.Encoder, cluster: config.Cluster) -> None:
        self.encoder, self.cluster = encoder, cluster
        self.handles: list[Any] = []

    def start(self) -> list[Any]:
        """The actors' handles; does not wait until they are ready."""
        import ray

        if not self.handles:
            gpus, count = self.cluster.gpus, self.cluster.encoders
            device = {"num_gpus": 1} if gpus else {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
            actor: Any = ray.remote(HeldEncoder).options(max_restarts=MAX_RESTARTS, max_task_retries=-1, **device)
            self.handles = [actor.remote(self.encoder, "cuda" if gpus else "cpu", count) for _ in range(count)]
        return self.handles

    def stop(self) -> None:
        """End the actors."""
        import ray

        for handle in self.handles:
            ray.kill(handle)
        self.handles = []


def threads_of(sharers: int) -> int:
    """The threads of one of so many processes that share this machine's cores."""
    return max(1, len(os.sched_getaffinity(0)) // sharers)


def on_encoder(
    encoder: config.Encoder, cluster: config.Cluster, kept: Encoders | None, work: Callable[..., Made], *given: object
) -> Made:
    """`work(encoder, ...)`, done on one of the encoder actors that are `lent`."""
    import ray

    with lent(encoder, cluster, kept) as actors:
        made: Made = ray.get(actors[0].apply.remote(work, *given))
    return made


@contextmanager
def lent(encoder: config.Encoder, cluster: config.Cluster, kept: Encoders | None = None) -> Iterator[list[Any]]:
    """Handles of encoder actors for the block: the `kept` ones, else some of its own.

    On GPUs they end with the block in any case: the engines need the memory.
    """
    encoders = kept or Encoders(encoder, cluster)
    try:
        yield encoders.start()
    finally:
        if cluster.gpus or encoders is not kept:
            encoders.stop()
