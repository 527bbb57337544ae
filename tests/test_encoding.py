"""Encoder actors: started once, kept until they are stopped; errors come through; a lost one is started anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wbrag.config import Cluster, Encoder
from wbrag.retrieval import encoding
from wbrag.retrieval.encoder import Encoder as Opened
from wbrag.retrieval.encoding import ON_CPUS, Encoders, HeldEncoder, left, sharers_of, threads_of

HASHING = Encoder(name="hashing", kind="hashing", model="hashing", dimension=64)


def test_work_gets_the_held_encoder_and_all_that_is_given() -> None:
    def length_of(encoder: Opened, texts: list[str], plus: int) -> int:
        return len(encoder.encode_queries(texts)) + plus

    assert HeldEncoder(HASHING, "cpu", 1).apply(length_of, ["a", "b"], plus=3) == 5


def test_cores_are_shared_and_nobody_has_none() -> None:
    assert threads_of(1) >= threads_of(2) >= threads_of(10_000) == 1


def test_encoders_stay_until_they_are_stopped(ray_session: None) -> None:
    import ray

    # Inside, so that they travel by value: an actor cannot import a test.
    def rows_of(encoder: Opened, texts: list[str]) -> int:
        return len(encoder.encode_queries(texts))

    def refuse(encoder: Opened) -> None:
        raise LookupError(f"not with {encoder.fingerprint}")

    kept = Encoders(HASHING, Cluster(encoders=2))
    first = kept.start()
    assert ray.get([actor.apply.remote(rows_of, ["a", "b"]) for actor in first]) == [2, 2]
    assert kept.start() == first
    assert kept.on_one(rows_of, ["a", "b", "c"]) == 3
    with pytest.raises(LookupError, match="not with hashing-64d"):
        kept.on_one(refuse)
    kept.stop()
    for actor in first:
        while not isinstance(encoding.got(actor.answers.remote()), ray.exceptions.RayActorError):
            pass  # a call that comes before Ray has ended it is answered
    assert kept.on_one(rows_of, ["a", "b", "c"]) == 3
    kept.stop()


def test_only_encoders_that_died_are_started_anew(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that has not begun yet, as it waits for a thousand CPUs, is not lost, however long that takes."""
    import ray

    monkeypatch.setattr(encoding, "LOST_SECONDS", 0.2)
    kept = Encoders(HASHING, Cluster(), lambda: [{"num_cpus": 1000}, ON_CPUS])
    first = kept.start()
    assert kept.start() == first
    assert left(first) == first
    ray.kill(first[0])
    ray.wait([first[0].answers.remote()])  # until Ray knows of it
    assert left(first) == first[1:]
    kept.on_gpus = lambda: [ON_CPUS]
    found = kept.start()
    assert not set(found) & set(first)
    assert kept.on_one(Opened.encode_queries, ["a", "b"]).shape == (2, 64)
    kept.stop()
    said = [one.getMessage() for one in caplog.records if one.name == encoding.log.name]
    assert said == ["an encoder is lost: encoders are started anew"]


def test_an_encoder_that_cannot_be_started_tells_why(ray_session: None) -> None:
    import ray

    with pytest.raises(ray.exceptions.RayActorError, match="'nonsense' is not known; choose"):
        Encoders(replace(HASHING, kind="nonsense"), Cluster(encoders=2)).on_one(Opened.encode_queries, ["a"])


@pytest.mark.parametrize(
    ("count", "on_gpus", "sharers"), [(1, False, 1), (2, False, 1), (5, False, 3), (2, True, 2), (6, True, 4)]
)
def test_only_encoders_of_one_node_share_its_cores(count: int, on_gpus: bool, sharers: int) -> None:
    nodes = [{"CPU": 0.0}, {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert sharers_of(count, on_gpus, nodes) == sharers
