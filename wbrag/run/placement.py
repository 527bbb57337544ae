"""Where engines and encoders run: what is asked for is held against Ray's nodes, then places are reserved on them.

On GPUs a place is as many whole GPUs of one node as an engine takes. All places are of one size, so whatever order they
are taken and given back in, what is counted here fits. An encoder shares an engine's place by fractions of its GPU, has
a place of its own, or takes turns with the engines: neither ever waits for a device that the other holds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from wbrag.config import Backbone, Cluster, ConfigError
from wbrag.llm.engine import gpus_of
from wbrag.retrieval.encoding import ACTOR_CPUS, ON_CPUS

log = logging.getLogger(__name__)

#: Tasks of one CPU that a resumed plan has at once (filter, read, write), and what else lies on a node at most: the
#: dispatcher's half CPU, and the shares of engines and encoders, which fill no half.
TASKS, BESIDE = 3, 0.5
#: So long nodes may take to join before too few of them are an error.
NODES_SECONDS = 5.0
#: So long Ray may take to reserve places that are free.
RESERVED_SECONDS = 5.0
#: How Ray marks a node with a kind of accelerator.
KIND = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class Placement:
    """What runs where; without `places` all on CPUs. Engine i is in place i, encoders from place `first` on, one a GPU.
    `bundle`: what a place takes of a node. `encoder_gpus`: of its GPU, beside an engine a share, else all. `turns`:
    engines and encoders are never up together.
    """

    engines: int
    encoders: int = 0
    places: int = 0
    first: int = 0
    bundle: Mapping[str, float] = field(default_factory=dict)
    engine_gpus: float = 0.0
    encoder_gpus: float = 0.0
    turns: bool = False


def gpus_of_engine(cluster: Cluster, backbone: Backbone) -> int:
    """GPUs that an engine takes; a scripted one takes those of the model that it stands for."""
    return gpus_of(backbone) if cluster.gpus and backbone.kind != "openai" else 0


def place(cluster: Cluster, engine_gpus: int, nodes: Sequence[Mapping[str, float]]) -> Placement:
    """What `cluster` asks for on nodes of these resources, with engines of so many GPUs each (0: on CPUs).

    ConfigError, with what is needed and what there is, for what these nodes cannot hold even when nothing else runs.
    """
    check_cpus(nodes)
    share = round(cluster.encoder_gpus, 4)  # of a GPU, as finely as Ray counts
    if not 0 <= share <= 1:
        raise ConfigError(f"cluster.encoder_gpus={share:g}: a share of one GPU, from 0 to 1, is needed")
    encoders = cluster.encoders if cluster.gpus and share else 0
    if not engine_gpus and not encoders:
        return Placement(cluster.engines)
    size, engines = max(1, engine_gpus), cluster.engines if engine_gpus else 0
    shared = size == 1 and share < 1  # Ray gives a part of one GPU, never parts of several
    least, alone = min(engines, cluster.min_engines or engines), ceil(encoders / size)
    kind = {f"{KIND}{cluster.accelerator}": 0.001} if cluster.accelerator else {}
    gpus = [int(node.get("GPU", 0)) for node in nodes if node.get("CPU", 0) and kind.keys() <= node.keys()]
    room = sum(there // size for there in gpus)
    if room < (need := max(least, alone)):
        few = f"engines={engines}" if least == engines else f"min_engines={least}"
        asked = few if least >= alone else f"encoders={encoders}"
        together = f", {size} of one node each" if size > 1 else ""
        kinds = sorted({name.removeprefix(KIND) for node in nodes for name in node if name.startswith(KIND)})
        only = f" of accelerator={cluster.accelerator} (there are: {', '.join(kinds) or 'none'})" if kind else ""
        told = f"cluster.{asked} needs {need * size} GPUs{together}, and Ray has {sum(gpus)}{only}, room for {room}"
        later = ", or give cluster.min_engines to have engines join as nodes come" if least >= alone else ""
        raise ConfigError(f"{told}: ask for less or start more nodes{later}")
    both = bool(engines and encoders)
    apart = bool(engines) and not shared and room >= engines + alone
    return Placement(
        engines=cluster.engines,
        encoders=encoders,
        places=engines + alone if apart else max(engines, alone),
        first=engines if apart else 0,
        bundle={"GPU": size, "CPU": round((1 + size) * ACTOR_CPUS, 4), **kind},
        engine_gpus=round(1 - share, 4) if shared and both else engine_gpus,
        encoder_gpus=share if shared and both else 1.0,  # of several GPUs Ray would fill one with small shares
        turns=both and not shared and not apart,
    )


def check_cpus(nodes: Sequence[Mapping[str, float]]) -> None:
    """ConfigError for nodes on which a resumed plan would wait for ever for a CPU."""
    cpus = [node.get("CPU", 0.0) for node in nodes]
    tasks = sum(int(max(0.0, cpu - BESIDE)) for cpu in cpus)
    if tasks < TASKS:
        there = f"Ray has {sum(cpus):g} CPUs (nodes: {len(cpus)}), room for {tasks} tasks of one CPU"
        raise ConfigError(f"{there} at once, and a run needs {TASKS}: start a node with --num-cpus {TASKS + 1}")


def placed(cluster: Cluster, engine_gpus: int, patience: float) -> Placement:
    """`place` on the nodes that Ray has, given so many seconds for those that are still coming."""
    import ray

    nodes: Any = ray.nodes  # Ray gives it no types
    until = time.monotonic() + patience
    while True:
        try:
            return place(cluster, engine_gpus, [node["Resources"] for node in nodes() if node["Alive"]])
        except ConfigError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.5)


class Places:
    """The places of a `Placement`, reserved when first asked for, until `give_back`.

    Each is a placement group of its own, so that one that cannot be had yet keeps nobody else from starting.
    """

    def __init__(self, plan: Placement) -> None:
        self.plan = plan
        self.groups: list[Any] = []

    def engines(self) -> list[dict[str, Any]]:
        """What Ray is told of each engine's actor; one whose place is not there yet waits for it in Ray."""
        plan = self.plan
        if not plan.engine_gpus:
            return [ON_CPUS] * plan.engines
        return [_inside(group, plan.engine_gpus) for group in self._reserved()[: plan.engines]]

    def encoders(self) -> list[dict[str, Any]]:
        """What Ray is told of each encoder's actor: as many as fit in the places that are there; the first is waited
        for. Another job may hold the others' GPUs, and wait for more itself.
        """
        import ray

        waiting = {group.ready(): group for group in self._reserved()[self.plan.first :]}
        there, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=RESERVED_SECONDS)
        if not there:
            log.info("encoders wait for a GPU: others hold all that Ray has")
            there, _ = ray.wait(list(waiting), num_returns=1)
        each = int(self.plan.bundle["GPU"])
        found = [_inside(waiting[one], self.plan.encoder_gpus) for one in there for _ in range(each)]
        return found[: self.plan.encoders]

    def give_back(self) -> None:
        """Free the places; what still runs in them ends."""
        from ray.util.placement_group import remove_placement_group

        for group in self.groups:
            remove_placement_group(group)
        self.groups = []

    def _reserved(self) -> list[Any]:
        from ray.util.placement_group import placement_group

        if not self.groups:
            self.groups = [placement_group([dict(self.plan.bundle)]) for _ in range(self.plan.places)]
        return self.groups


def _inside(group: Any, gpus: float) -> dict[str, Any]:  # noqa: ANN401 - a placement group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    return {"num_cpus": ACTOR_CPUS, "num_gpus": gpus, "scheduling_strategy": where}
