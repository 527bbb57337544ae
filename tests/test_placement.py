"""Where engines and encoders run: the decision as a pure function, and jobs on nodes that declare what they have."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from canaries import leaks
from hypothesis import given
from hypothesis import strategies as st
from nodes import Ended, Nodes
from test_pipeline import arguments
from test_pipeline import world as towns

from microworld.generate import Plan, generate
from wbrag.config import Backbone, Benchmark, Cluster, ConfigError, TrainConfig
from wbrag.retrieval.encoding import ACTOR_CPUS
from wbrag.run.actors import Dispatcher, Generator, Generators, Stage
from wbrag.run.placement import Placement, Places, gpus_of_engine, place
from wbrag.schema import RETRIEVED

SCRIPTED = Backbone(name="scripted", kind="scripted", model="scripted")
#: What the processes of a run are called in Ray, but for those of Ray's own that keep its books beside the driver.
OURS = ("Generator", "HeldEncoder", "Dispatcher", "MapWorker", "Read", "Write", "addition", "make_piece", "new_spec")


def node(cpus: int, gpus: int = 0, kind: str = "") -> dict[str, float]:
    """The resources of a node as Ray tells them: what there is nothing of is left out."""
    found = {"CPU": float(cpus), "GPU": float(gpus), **({f"accelerator_type:{kind}": 1.0} if kind else {})}
    return {name: amount for name, amount in found.items() if amount}


KINDS = st.sampled_from(["", "H200", "A100"])
NODES = st.lists(st.builds(node, st.integers(0, 4), st.integers(0, 8), KINDS), max_size=5)
CLUSTERS = st.builds(
    Cluster,
    gpus=st.just(True),
    engines=st.integers(1, 9),
    encoders=st.integers(1, 9),
    encoder_gpus=st.sampled_from([0.0, 0.1, 0.35, 0.5, 1.0]),
    min_engines=st.integers(0, 3),
    accelerator=st.sampled_from(["", "H200"]),
)


def reserved(nodes: Sequence[Mapping[str, float]], bundle: Mapping[str, float], order: random.Random) -> int:
    """How many bundles are had, one after the other, each on any node that still has room for it."""
    left, count = [dict(one) for one in nodes], 0
    while fitting := [one for one in left if all(one.get(key, 0) >= amount - 1e-9 for key, amount in bundle.items())]:
        chosen = order.choice(fitting)
        for key, amount in bundle.items():
            chosen[key] -= amount
        count += 1
    return count


@given(CLUSTERS, st.sampled_from([0, 1, 2, 4]), NODES, st.randoms(use_true_random=False))
def test_what_is_granted_is_had_in_any_order_and_what_is_refused_is_not(
    cluster: Cluster, engine_gpus: int, nodes: list[dict[str, float]], order: random.Random
) -> None:
    nodes = [*nodes, node(4)]  # where the rest of a run finds its CPUs
    size = max(1, engine_gpus)
    engines = cluster.engines if engine_gpus else 0
    first = min(engines, cluster.min_engines) or engines
    encoders = ceil(cluster.encoders / size) if cluster.encoder_gpus else 0
    try:
        plan = place(cluster, engine_gpus, nodes)
    except ConfigError:
        kind = {f"accelerator_type:{cluster.accelerator}": 0.001} if cluster.accelerator else {}
        assert reserved(nodes, {"GPU": size, "CPU": 0.01, **kind}, order) < max(first, encoders)
        return
    assert bool(plan.places) == bool(engines or encoders)
    if plan.places:
        wanted = plan.places if first == engines else max(first, encoders)
        assert reserved(nodes, plan.bundle, order) >= wanted


@given(CLUSTERS, st.sampled_from([0, 1, 2, 4]))
def test_what_is_up_together_in_a_place_fits_there(cluster: Cluster, engine_gpus: int) -> None:
    size = max(1, engine_gpus)
    for gpus in (1, 4, 8, 64):
        try:
            plan = place(cluster, engine_gpus, [node(4), node(4, gpus, "H200")])
        except ConfigError:
            continue
        assert plan.encoders <= size * (plan.places - plan.first)
        for number in range(plan.places):
            engine = plan.engine_gpus if number < plan.engines else 0.0
            encoders = size * plan.encoder_gpus if plan.encoders and number >= plan.first else 0.0
            together = max(engine, encoders) if plan.turns else engine + encoders
            assert 0 < together <= plan.bundle["GPU"] + 1e-9
            assert (1 + size) * ACTOR_CPUS <= plan.bundle["CPU"] + 1e-9 < 1
        if engine_gpus == 1 and cluster.encoder_gpus < 1:
            assert not plan.turns


def test_an_encoder_shares_an_engines_gpu_has_its_own_or_takes_turns() -> None:
    cluster = Cluster(gpus=True)
    both = place(cluster, 1, [node(4, 1)])
    assert (both.engine_gpus, both.encoder_gpus) == (0.9, 0.1)
    one_each = place(Cluster(gpus=True, encoder_gpus=1.0), 1, [node(4, 2)])
    assert (one_each.places, one_each.first, one_each.turns) == (2, 1, False)
    assert place(Cluster(gpus=True, encoder_gpus=1.0), 1, [node(4, 1)]).turns
    beside = place(cluster, 4, [node(4, 8)])  # Ray does not give a part of several GPUs
    assert (beside.places, beside.first, beside.engine_gpus, beside.turns) == (2, 1, 4, False)
    assert place(cluster, 4, [node(4, 4)]).turns
    alone = [beside, place(cluster, 4, [node(4, 4)]), place(cluster, 0, [node(4, 4)])]
    assert [plan.encoder_gpus for plan in alone] == [1.0, 1.0, 1.0]  # no engine is on its GPU
    on_cpus = place(Cluster(gpus=True, encoder_gpus=0.0), 4, [node(4, 4)])
    assert (on_cpus.places, on_cpus.encoders, on_cpus.engine_gpus) == (1, 0, 4)


@pytest.mark.parametrize(
    ("asked", "engine_gpus", "nodes", "told"),
    [
        ({"engines": 8}, 1, [node(4, 1)], r"cluster\.engines=8 needs 8 GPUs, and Ray has 1, room for 1: ask for less"),
        ({"encoders": 3}, 1, [node(4, 2)], r"encoders=3 needs 3 GPUs, and Ray has 2, room for 2: .* nodes$"),
        ({"engines": 2}, 4, [node(4, 3), node(4, 4)], r"needs 8 GPUs, 4 of one .* Ray has 7, room for 1"),
        ({}, 4, [node(4, 2), node(4, 2)], r"cluster\.engines=1 needs 4 GPUs, 4 of one .* Ray has 4, room for 0"),
        (
            {"engines": 8, "min_engines": 2},
            1,
            [node(4, 1)],
            r"cluster\.min_engines=2 needs 2 GPUs, and Ray has 1, room for 1",
        ),
        ({}, 1, [node(4), node(0, 8)], r"needs 1 GPUs, and Ray has 0"),  # a head without CPUs has the driver alone
        ({"accelerator": "H200"}, 1, [node(4, 8, "A100")], r"Ray has 0 of accelerator=H200 \(there are: A100\)"),
        ({"encoder_gpus": 1.5}, 1, [node(4, 8)], r"cluster\.encoder_gpus=1\.5: a share of one GPU, from 0 to 1"),
        ({"gpus": False}, 0, [node(2)], r"Ray has 2 CPUs \(nodes: 1\), room for 1 tasks .* needs 3: .* --num-cpus 4"),
        ({"gpus": False}, 0, [node(1)] * 9, r"Ray has 9 CPUs \(nodes: 9\), room for 0 tasks"),
    ],
)
def test_what_cannot_be_is_told_with_both_numbers_and_what_to_do(
    asked: dict[str, Any], engine_gpus: int, nodes: list[dict[str, float]], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        place(Cluster(**{"gpus": True, **asked}), engine_gpus, nodes)


def test_engines_that_have_no_node_yet_may_come_later() -> None:
    plan = place(Cluster(gpus=True, engines=8, min_engines=1), 1, [node(4, 1)])
    assert (plan.engines, plan.places, plan.turns) == (8, 8, False)


def test_a_scripted_engine_takes_the_gpus_of_its_model_and_an_endpoint_none() -> None:
    cluster = Cluster(gpus=True)
    assert gpus_of_engine(cluster, SCRIPTED) == 1
    assert gpus_of_engine(cluster, Backbone(kind="vllm", tensor_parallel_size=4)) == 4
    assert gpus_of_engine(cluster, Backbone(kind="openai")) == 0
    assert gpus_of_engine(Cluster(), SCRIPTED) == 0


def test_an_engine_fills_no_more_than_its_share_of_the_memory() -> None:
    cfg = TrainConfig(backbone=SCRIPTED, cluster=Cluster(gpus=True))
    for nodes, engine_gpus, share in (([node(4, 1)], 1, 0.9), ([node(4, 8)], 4, 1.0)):
        sent = Generators(cfg, Places(place(cfg.cluster, engine_gpus, nodes))).cfg.backbone
        assert sent.gpu_memory_utilization == pytest.approx(share * SCRIPTED.gpu_memory_utilization)
    assert Generators(cfg).cfg.backbone.gpu_memory_utilization == SCRIPTED.gpu_memory_utilization


def test_nothing_asks_for_no_cpu() -> None:
    assert all(options["num_cpus"] > 0 for options in Places(Placement(2)).engines())


def rows(numbers: range) -> pa.Table:
    """Training questions with what was retrieved for them."""
    document = {"id": "p", "title": "t", "text": "The mayor of town2 is Mayor2.", "score": 0.5, "source": "base"}
    question = {"question": "What is the mayor of town2?", "golden_answers": ["Mayor2"], "metadata": "{}"}
    return pa.Table.from_pylist([{"id": f"q{i}", **question, "documents": [document]} for i in numbers], RETRIEVED)


def test_blocks_go_to_engines_that_are_up_to_others_as_they_come_and_again_when_one_dies(ray_session: None) -> None:
    import ray

    class Holder:  # inside, so that it travels by value: an actor cannot import a test
        def holds(self) -> bool:
            return True

    cfg = TrainConfig(benchmark=Benchmark(name="b"), backbone=SCRIPTED)
    how = {"max_concurrency": 100, "max_restarts": 3, "max_task_retries": -1}
    holder = ray.remote(num_cpus=3)(Holder).remote()
    assert ray.get(holder.holds.remote())
    actor = ray.remote(Generator)
    early, late = (actor.options(num_cpus=cpus, **how).remote(cfg) for cpus in (0.01, 2))
    dispatcher = Dispatcher([early, late], Stage(cfg, "train"), most=2)

    def asked(blocks: range) -> list[str]:
        with ThreadPoolExecutor(4) as threads:
            made = threads.map(dispatcher, [rows(range(5 * block, 5 * block + 5)) for block in blocks])
            return [key for table in made for key in table["id"].to_pylist()]

    def begun(generator: Any) -> int:  # noqa: ANN401 - Ray's handle
        return int(ray.get(generator.progress.remote())["begun"])

    try:
        assert asked(range(8)) == [f"q{i}" for i in range(40)]
        assert begun(early) == 40
        ray.kill(holder)
        ray.get(late.started.remote())
        assert asked(range(8)) == [f"q{i}" for i in range(40)]
        assert begun(late) > 0
        assert begun(early) + begun(late) == 80
        ray.kill(early, no_restart=False)
        assert asked(range(8)) == [f"q{i}" for i in range(40)]
    finally:
        for one in (early, late):
            ray.kill(one)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated world."""
    folder = tmp_path_factory.mktemp("placement") / "world"
    generate(folder, Plan(seed=3, districts=2, train=40, test=60))
    return folder


def on_gpus(nodes: Nodes, folder: Path, world: Path, *more: str) -> Ended:
    """A job on the declared GPU, with a scripted generator and a hashing encoder."""
    small = ["units=paper", "train_limit=12", "test_limit=12", "cluster.block_rows=8", "cluster.examples_in_flight=16"]
    models = ["cluster=gpu", "backbone=scripted", "encoder=hashing", f"world={world}", f"cache_dir={folder}/cache"]
    return nodes.job(folder / "log", "train", *more, *models, *small)  # Hydra takes -m before all settings or after


def measured(folder: Path) -> list[str]:
    """The run folders that hold the numbers of all their questions."""
    files = sorted(folder.glob("*/metrics.json"))
    assert all(json.loads(file.read_text())["questions"]["n"] == 12 for file in files)
    return [file.parent.name for file in files]


@pytest.mark.slow
def test_a_sweep_on_one_gpu_measures_every_point_with_one_engine_a_backbone(
    ray_nodes: Nodes, world: Path, tmp_path: Path
) -> None:
    """Four points that are measured and two that are refused, in 45 s: what points share, and what they take over from
    each other, only shows in several.
    """
    points = ["-m", "backbone.max_num_seqs=0,8,16", "benchmark=nq,fever", "cluster.accelerator=H200"]
    points += [f"run_dir={tmp_path}/${{benchmark.name}}-${{backbone.max_num_seqs}}"]
    ended = on_gpus(ray_nodes, tmp_path, world, *points)
    assert ended.code == 2, ended.output
    refused = ended.output.split("failed points (2):")[1]
    for name in ("nq", "fever"):
        assert f"backbone.max_num_seqs=0 benchmark={name} " in refused
    assert refused.count("ConfigError: backbone.max_num_seqs=0: at least 1 is needed") == 2
    assert measured(tmp_path) == sorted(map("-".join, product(("nq", "fever"), ("8", "16"))))
    assert len(ended.processes("gpu", "Generator")) == 2, ended.ran  # the second one has the GPU of the first
    assert len(ended.processes("gpu", "HeldEncoder")) == 1, ended.ran
    for name in ("Generator", "HeldEncoder"):
        assert not ended.processes("cpu", name)
    assert ended.processes("gpu", "MapWorker") | ended.processes("cpu", "MapWorker"), ended.ran
    for name in OURS:
        assert not ended.processes("head", name), ended.ran["head"]
    assert leaks(tmp_path, ray_nodes.folder) == []


@pytest.mark.slow
def test_an_encoder_with_a_gpu_of_its_own_takes_turns_with_the_engine(ray_nodes: Nodes, tmp_path: Path) -> None:
    """For passages, answers, units and answers: each is up twice in one run."""
    data = towns(tmp_path / "towns", train_rows=12, test_rows=12)
    own = arguments(data, tmp_path / "run", "cluster=gpu", "cluster.encoder_gpus=1")
    ended = ray_nodes.job(tmp_path / "log", "train", *own)
    assert ended.code == 0, ended.output
    assert measured(tmp_path) == ["run"]
    assert len(ended.processes("gpu", "HeldEncoder")) > 1, ended.ran
    assert len(ended.processes("gpu", "Generator")) > 1, ended.ran


@pytest.mark.slow
def test_engines_that_can_never_be_had_end_a_job_with_both_numbers(
    ray_nodes: Nodes, world: Path, tmp_path: Path
) -> None:
    ended = on_gpus(ray_nodes, tmp_path, world, "benchmark=nq", "cluster.engines=8", f"run_dir={tmp_path}/run")
    assert ended.code == 2, ended.output
    assert "error: cluster.engines=8 needs 8 GPUs, and Ray has 1, room for 1" in ended.output
    assert "Traceback" not in ended.output
    assert ended.seconds <= 15, ended.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_the_engines_that_have_a_node(ray_nodes: Nodes, world: Path, tmp_path: Path) -> None:
    some = ["benchmark=nq", "cluster.engines=2", "cluster.min_engines=1", f"run_dir={tmp_path}/run"]
    ended = on_gpus(ray_nodes, tmp_path, world, *some)
    assert ended.code == 0, ended.output
    assert measured(tmp_path) == ["run"]
    assert "1 of 2 engines are ready" in ended.output
    assert len(ended.processes("gpu", "Generator")) == 1, ended.ran
