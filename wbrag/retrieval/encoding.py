"""Encoder actors: a library and a model that take seconds to load, loaded once and lent to whatever needs vectors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from wbrag import config
from wbrag.retrieval.encoder import open_encoder

log = logging.getLogger(__name__)

#: Times an encoder that died is started again before the run gives up.
MAX_RESTARTS = 10
#: Logical CPUs of an actor that holds an engine or an encoder. It is no measure of its work: of four, a resumed plan
#: needs three and a half. But what asks for none at all may land on a head that is there for the driver alone.
ACTOR_CPUS = 0.01
#: What Ray is told of such an actor where no GPU is used.
ON_CPUS: dict[str, Any] = {"num_cpus": ACTOR_CPUS, "scheduling_strategy": "SPREAD"}
#: An encoder that is to be used again, and does not answer for so long, is lost.
SILENT_SECONDS = 60.0

Made = TypeVar("Made")
Watched = Callable[[str, Iterable[Any], int, Callable[[Any], int]], Iterable[Any]]


class HeldEncoder:
    """A Ray actor that holds an encoder. What is done with it comes with each call, by name: a module's function."""

    def __init__(self, encoder: config.Encoder, device: str, sharers: int) -> None:
        # Ray gives an actor one OpenMP thread unless told otherwise; here the actors share the machine's cores.
        self.encoder = open_encoder(encoder, device=device, threads=threads_of(sharers))

    def apply(self, work: Callable[..., Made], *given: object, **named: object) -> Made:
        """`work(encoder, ...)`."""
        return work(self.encoder, *given, **named)

    def answers(self) -> bool:
        """True; of an actor that is lost nothing comes."""
        return True


class Encoders:
    """The encoder actors of a run or of a session: started when first asked for, ended with `stop`.

    `on_gpus` says what Ray is told of each actor that is to have one (`run.placement.Places`); without it they are on
    CPUs. `gpu_share`: how much of its GPU's memory each may fill, 0.0 on CPUs. `make_room`, where it is set, ends what
    holds their devices before they start: they and the engines take turns. `watched` gives on the items of their work
    as they come; it is told the goal, and how much of it each item is.
    """

    def __init__(
        self,
        encoder: config.Encoder,
        cluster: config.Cluster,
        on_gpus: Callable[[], list[dict[str, Any]]] | None = None,
        gpu_share: float = 1.0,
    ) -> None:
        self.encoder, self.cluster, self.on_gpus = encoder, cluster, on_gpus
        self.gpu_share = gpu_share if on_gpus else 0.0
        self.make_room: Callable[[], None] | None = None
        self.watched: Watched = lambda stage, items, goal, size: items
        self.handles: list[Any] = []

    def start(self) -> list[Any]:
        """The actors' handles; does not wait until they are ready. Where one is lost since they were used last, new
        ones: Ray would start it again in the very place that went with its node, and wait for that without a word.
        """
        import ray

        if self.handles and not self._all_answer():
            log.warning("an encoder gave no answer for %.0f s: encoders are started anew", SILENT_SECONDS)
            self.stop()
        if not self.handles:
            if self.make_room:
                self.make_room()
            actor: Any = ray.remote(HeldEncoder)
            again: dict[str, Any] = {"max_restarts": MAX_RESTARTS, "max_task_retries": -1}
            # A call that waits for what another actor makes lets those behind it pass.
            again["allow_out_of_order_execution"] = True
            given = (self.encoder, "cuda" if self.on_gpus else "cpu", self.cluster.encoders)
            where = self.on_gpus() if self.on_gpus else [ON_CPUS] * self.cluster.encoders
            self.handles = [actor.options(**again, **options).remote(*given) for options in where]
        return self.handles

    def stop(self) -> None:
        """End the actors."""
        import ray

        for handle in self.handles:
            ray.kill(handle)
        self.handles = []

    def _all_answer(self) -> bool:
        import ray

        asked = [handle.answers.remote() for handle in self.handles]
        return len(ray.wait(asked, num_returns=len(asked), timeout=SILENT_SECONDS)[0]) == len(asked)


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
    """Handles of encoder actors for the block: the `kept` ones, which stay, else some of its own, on CPUs."""
    encoders = kept or Encoders(encoder, cluster)
    try:
        yield encoders.start()
    finally:
        if encoders is not kept:
            encoders.stop()
