"""Encoders opened, and the actors that hold them: a library and a model that take seconds to load, loaded once and lent
to whatever needs vectors.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from typing import Any, TypeVar

from wbrag import config
from wbrag.retrieval.encoder import Encoder, HashingEncoder, SentenceTransformerEncoder

log = logging.getLogger(__name__)

#: Times an encoder that died is started again before the run gives up.
MAX_RESTARTS = 10
#: Logical CPUs of an actor that holds an engine or an encoder. It is no measure of its work: of four, a resumed plan
#: needs three and a half. But what asks for none at all may land on a head that is there for the driver alone.
ACTOR_CPUS = 0.01
#: What Ray is told of such an actor where no GPU is used.
ON_CPUS: dict[str, Any] = {"num_cpus": ACTOR_CPUS, "scheduling_strategy": "SPREAD"}
#: So long Ray takes to say that an actor is lost. One of which it says nothing works, or still loads.
LOST_SECONDS = 3.0
#: Between two looks at whether one that is lost has come back.
LOOK_SECONDS = 1.0

Made = TypeVar("Made")
Watched = Callable[[str, Iterable[Any], int, Callable[[Any], int]], Iterable[Any]]


def open_encoder(cfg: config.Encoder, *, device: str | None = None, threads: int = 0) -> Encoder:
    """The encoder that `cfg.kind` names; ConfigError for another kind.

    device: "cpu", "cuda", or None for what is there. threads: torch threads on CPU; 0 leaves torch alone, which in
    a Ray actor means one. Neither belongs to the fingerprint.
    """
    match cfg.kind:
        case "sentence_transformers":
            return SentenceTransformerEncoder(cfg, device, threads)
        case "hashing":
            return HashingEncoder(cfg, cfg.dimension or 256, "hashing-1")
        case "openai":
            from wbrag.retrieval.embeddings import EndpointEncoder

            return EndpointEncoder(cfg)
    known = "'sentence_transformers', 'openai' or 'hashing'"
    raise config.ConfigError(f"encoder.kind: {cfg.kind!r} is not known; choose {known}")


class HeldEncoder:
    """A Ray actor that holds an encoder. What is done with it comes with each call, by name: a module's function.

    Without retries, so that a call to one that is lost fails at once (`with_those_left`). Ray itself would ask the same
    one again, which may wait for a node that never comes back.
    """

    def __init__(self, encoder: config.Encoder, device: str, sharers: int) -> None:
        # Ray gives an actor one OpenMP thread unless told otherwise; here the actors share the machine's cores.
        self.encoder = open_encoder(encoder, device=device, threads=threads_of(sharers))

    def apply(self, work: Callable[..., Made], *given: object, **named: object) -> Made:
        """`work(encoder, ...)`."""
        return work(self.encoder, *given, **named)

    def answers(self) -> bool:
        """True; an actor that is lost says so by Ray's error."""
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
        self.sharers = 1  # of those that are up, how many share a machine's cores
        self.make_room: Callable[[], None] | None = None
        self.watched: Watched = lambda stage, items, goal, size: items
        self.handles: list[Any] = []

    def start(self) -> list[Any]:
        """The actors' handles; does not wait until they are ready. Where one is lost since they were used last, new
        ones: Ray would start it again in the very place that went with its node, and wait for that without a word.
        """
        import ray

        if any(heard(self.handles).values()):
            log.warning("an encoder is lost: encoders are started anew")
            self.stop()
        if not self.handles:
            if self.make_room:
                self.make_room()
            actor: Any = ray.remote(HeldEncoder)
            # A call that waits for what another actor makes lets those behind it pass.
            again: dict[str, Any] = {"max_restarts": MAX_RESTARTS, "allow_out_of_order_execution": True}
            where = self.on_gpus() if self.on_gpus else [ON_CPUS] * self.cluster.encoders
            nodes: Any = ray.nodes  # Ray gives it no types
            there = [node["Resources"] for node in nodes() if node["Alive"]]
            self.sharers = sharers_of(len(where), bool(self.on_gpus), there)
            given = (self.encoder, "cuda" if self.on_gpus else "cpu", self.sharers)
            self.handles = [actor.options(**again, **options).remote(*given) for options in where]
        return self.handles

    def stop(self) -> None:
        """End the actors."""
        import ray

        for handle in self.handles:
            ray.kill(handle)
        self.handles = []

    def on_one(self, work: Callable[..., Made], *given: object) -> Made:
        """`work(encoder, ...)`, done on one of the actors; on another where that one is lost meanwhile."""
        import ray

        def on_first(actors: Sequence[Any]) -> Made:
            made: Made = ray.get(actors[0].apply.remote(work, *given))
            return made

        return with_those_left(self.start(), on_first)


def heard(actors: Sequence[Any]) -> dict[Any, Exception | None]:
    """Of each actor: Ray's error where it is lost, as one is while Ray starts it again; None where it is not."""
    import ray

    asked = [actor.answers.remote() for actor in actors]
    done = ray.wait(asked, num_returns=len(asked), timeout=LOST_SECONDS)[0] if asked else []
    told = {one: answer for one in done if isinstance(answer := got(one), Exception)}
    return {actor: told.get(one) for actor, one in zip(actors, asked, strict=True)}


def got(reference: Any) -> Any:  # noqa: ANN401 - Ray's
    """What a call came to: what its actor made, or Ray's error where that is lost."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayActorError as error:
        return error


def left(actors: Sequence[Any]) -> list[Any]:
    """Those of the actors that are not lost; waits while all are. What Ray says where all are dead for good, as those
    are that cannot be started.
    """
    import ray

    while all((told := heard(actors)).values()):
        dead = [error for error in told.values() if isinstance(error, ray.exceptions.ActorDiedError)]
        if len(dead) == len(told):
            raise dead[0]
        time.sleep(LOOK_SECONDS)
    return [actor for actor, error in told.items() if error is None]


def with_those_left(actors: Sequence[Any], work: Callable[[Sequence[Any]], Made]) -> Made:
    """`work(actors)`, and again with those that are left where one was lost meanwhile."""
    some = actors
    while True:
        try:
            return work(some)
        except lost():
            some = left(actors)


def lost() -> tuple[type[Exception], ...]:
    """What is raised of a call whose actor, or what another one made for it, was lost."""
    import ray

    return ray.exceptions.RayActorError, ray.exceptions.ObjectLostError


def sharers_of(count: int, on_gpus: bool, nodes: Sequence[Mapping[str, float]]) -> int:
    """Of so many encoders on nodes of these resources, how many share one at most: each has a GPU, or all are spread
    over the nodes with CPUs.
    """
    if on_gpus:
        return max(1, min(count, int(max(node.get("GPU", 0) for node in nodes))))
    return ceil(count / max(1, sum(node.get("CPU", 0) > 0 for node in nodes)))


def threads_of(sharers: int) -> int:
    """The threads of one of so many processes that share this machine's cores."""
    return max(1, len(os.sched_getaffinity(0)) // sharers)
