"""Encoder actors: lent ones are the kept ones and stay, others end with the block; errors come through."""

from __future__ import annotations

import pytest

from wbrag.config import Cluster, Encoder
from wbrag.retrieval import encoding
from wbrag.retrieval.encoder import Encoder as Opened
from wbrag.retrieval.encoding import ON_CPUS, Encoders, HeldEncoder, lent, threads_of

HASHING = Encoder(name="hashing", kind="hashing", model="hashing", dimension=64)


def test_work_gets_the_held_encoder_and_all_that_is_given() -> None:
    def length_of(encoder: Opened, texts: list[str], plus: int) -> int:
        return len(encoder.encode_queries(texts)) + plus

    assert HeldEncoder(HASHING, "cpu", 1).apply(length_of, ["a", "b"], plus=3) == 5


def test_cores_are_shared_and_nobody_has_none() -> None:
    assert threads_of(1) >= threads_of(2) >= threads_of(10_000) == 1


def test_kept_encoders_stay_and_others_end_with_the_block(ray_session: None) -> None:
    import ray

    # Inside, so that they travel by value: an actor cannot import a test.
    def rows_of(encoder: Opened, texts: list[str]) -> int:
        return len(encoder.encode_queries(texts))

    def refuse(encoder: Opened) -> None:
        raise LookupError(f"not with {encoder.fingerprint}")

    cluster = Cluster(encoders=2)
    kept = Encoders(HASHING, cluster)
    with lent(HASHING, cluster, kept) as first:
        assert ray.get([actor.apply.remote(rows_of, ["a", "b"]) for actor in first]) == [2, 2]
    with lent(HASHING, cluster, kept) as second:
        assert second == first
        with pytest.raises(LookupError, match="not with hashing-64d"):
            ray.get(second[0].apply.remote(refuse))
    with lent(HASHING, cluster) as own:
        assert not set(own) & set(second)
    kept.stop()
    for actor in (*own, *second):
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(actor.apply.remote(rows_of, ["a"]))


def test_an_encoder_that_is_lost_is_started_anew_where_there_is_a_place(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose node is gone waits in Ray for a node like it, as this one for a thousand CPUs."""
    import ray

    def rows_of(encoder: Opened, texts: list[str]) -> int:
        return len(encoder.encode_queries(texts))

    monkeypatch.setattr(encoding, "SILENT_SECONDS", 0.2)
    places = iter([{"num_cpus": 1000}, ON_CPUS])
    kept = Encoders(HASHING, Cluster(), lambda: [next(places)])
    lost = kept.start()
    with lent(HASHING, Cluster(), kept) as found:
        assert not set(found) & set(lost)
        assert ray.get(found[0].apply.remote(rows_of, ["a", "b"])) == 2
    kept.stop()
    said = [one.getMessage() for one in caplog.records if one.name == encoding.log.name]
    assert said == ["an encoder gave no answer for 0 s: encoders are started anew"]
