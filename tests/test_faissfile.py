"""FAISS files written and merged as bytes, held against FAISS's own reader and writer."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbrag.config import ConfigError
from wbrag.store import faissfile
from wbrag.store.files import StoreError, sha256_bytes, sha256_file
from wbrag.store.template import read_template, template_name, train_template
from wbrag.store.vectors import Spec, merge_vectors, open_vectors, rows_of, spec_of, stored, write_vectors

D = 8
NLIST = 5


def unit_vectors(n: int, seed: int = 0, d: int = D) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


TEMPLATE = train_template(unit_vectors(400, seed=9), NLIST)
SPECS = {"flat_fp16": spec_of("flat_fp16", D), "ivf_fp16": spec_of("ivf_fp16", D, TEMPLATE, NLIST)}
kinds = pytest.mark.parametrize("kind", SPECS)


def write(path: Path, vectors: np.ndarray, spec: Spec, template: bytes = TEMPLATE) -> Path:
    write_vectors(path, [vectors], spec, template if spec.template else b"")
    return path


def faiss_index(kind: str, vectors: np.ndarray) -> Any:  # noqa: ANN401 - one of two classes
    """What FAISS makes of the same vectors."""
    index: Any
    if kind == "flat_fp16":
        index = faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.deserialize_index(np.frombuffer(TEMPLATE, dtype=np.uint8))
    index.add(vectors.astype(np.float32))
    return index


@kinds
@pytest.mark.parametrize("rows", [1, 19, 300])
def test_the_bytes_are_those_that_faiss_writes(tmp_path: Path, kind: str, rows: int) -> None:
    ours = write(tmp_path / "ours", unit_vectors(rows), SPECS[kind])
    index = faiss_index(kind, unit_vectors(rows))
    theirs = faiss.serialize_index(index).tobytes()
    if kind == "ivf_fp16" and b"sprs" in theirs:  # few lists are filled: FAISS then names them, we name all
        read = open_vectors(ours, SPECS[kind])
        assert [read.get_list_size(i) for i in range(NLIST)] == [index.get_list_size(i) for i in range(NLIST)]
    else:
        assert ours.read_bytes() == theirs


@kinds
def test_faiss_finds_in_the_file_what_it_finds_in_its_own_index(tmp_path: Path, kind: str) -> None:
    vectors, xq = unit_vectors(500), unit_vectors(20, seed=1).astype(np.float32)
    index = open_vectors(write(tmp_path / "file", vectors, SPECS[kind]), SPECS[kind])
    D1, I1 = index.search(xq, 7)
    D2, I2 = faiss_index(kind, vectors).search(xq, 7)
    assert (I1 == I2).all()
    assert (D1 == D2).all()


@kinds
def test_rows_come_back_bit_for_bit(tmp_path: Path, kind: str) -> None:
    vectors = unit_vectors(3000)
    index = open_vectors(write(tmp_path / "file", vectors, SPECS[kind]), SPECS[kind])
    rows = np.array([2999, 0, 1024, 0, 17])
    assert (rows_of(index, rows) == vectors[rows]).all()
    assert (rows_of(index) == vectors).all()
    places = stored(index, np.arange(3000))
    assert sorted(map(bytes, places)) == sorted(map(bytes, vectors))


@settings(max_examples=25)
@given(
    kind=st.sampled_from(sorted(SPECS)),
    rows=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    merge_bytes=st.integers(1, 400),
)
def test_any_cut_into_shards_merges_to_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rows: int, cuts: list[int], merge_bytes: int
) -> None:
    folder, vectors = tmp_path_factory.mktemp("cut"), unit_vectors(rows, seed=rows)
    places = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    spec, template = SPECS[kind], TEMPLATE if kind == "ivf_fp16" else b""
    shards = [write(folder / str(a), vectors[a:b], spec) for a, b in itertools.pairwise(places)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faissfile, "MERGE_BYTES", merge_bytes)  # lists are held one by one or a few at a time
        assert merge_vectors(folder / "merged", shards, spec, template) == rows
    assert sha256_file(folder / "merged") == sha256_file(write(folder / "whole", vectors, spec))


def damaged_flat(path: Path) -> Path:
    index = faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)
    index.add(unit_vectors(9).astype(np.float32))  # same class and code size: FAISS's merge_from takes it
    faiss.write_index(index, str(path))
    return path


def other_template(path: Path) -> Path:
    other = train_template(unit_vectors(400, seed=10), NLIST)
    return write(path, unit_vectors(9), spec_of("ivf_fp16", D, other, NLIST), other)


def cut_short(path: Path) -> Path:
    write(path, unit_vectors(9), SPECS["flat_fp16"])
    path.write_bytes(path.read_bytes()[:-3])
    return path


@pytest.mark.parametrize(
    ("kind", "make"),
    [("flat_fp16", damaged_flat), ("flat_fp16", cut_short), ("ivf_fp16", other_template), ("ivf_fp16", cut_short)],
)
def test_an_unlike_shard_is_refused_by_name(tmp_path: Path, kind: str, make: Any) -> None:  # noqa: ANN401
    good, bad = write(tmp_path / "good", unit_vectors(9), SPECS[kind]), make(tmp_path / "bad")
    with pytest.raises(StoreError, match="/bad: its header is not that of"):
        merge_vectors(tmp_path / "out", [good, bad], SPECS[kind], TEMPLATE if kind == "ivf_fp16" else b"")


def test_an_ivf_shard_that_lost_its_tail_is_refused(tmp_path: Path) -> None:
    shard = write(tmp_path / "short", unit_vectors(90), SPECS["ivf_fp16"])
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(StoreError, match="/short: its header"):
        merge_vectors(tmp_path / "out", [shard], SPECS["ivf_fp16"], TEMPLATE)


def test_a_changed_template_is_refused_before_faiss_sees_it(tmp_path: Path) -> None:
    spec = SPECS["ivf_fp16"]
    file = tmp_path / template_name(str(spec.template))
    file.parent.mkdir()
    file.write_bytes(TEMPLATE)
    assert read_template(tmp_path, spec) == TEMPLATE
    changed = bytearray(TEMPLATE)
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    with pytest.raises(StoreError, match=f"sha256 is {sha256_bytes(bytes(changed))}, the spec says {spec.template}"):
        read_template(tmp_path, spec)
    file.unlink()
    with pytest.raises(StoreError, match="no such file"):
        read_template(tmp_path, spec)
    assert read_template(tmp_path, SPECS["flat_fp16"]) == b""


def test_a_template_is_the_same_with_any_number_of_threads() -> None:
    vectors, threads = unit_vectors(4000, d=32), faiss.omp_get_max_threads()
    made = []
    try:
        for number in (1, 2):
            faiss.omp_set_num_threads(number)
            made.append(train_template(vectors, 20))
    finally:
        faiss.omp_set_num_threads(threads)
    assert made[0] == made[1]


@pytest.mark.parametrize("nlist", [0, 11])
def test_more_lists_than_vectors_are_refused(nlist: int) -> None:
    with pytest.raises(ConfigError, match=f"index.nlist={nlist}: 10 vectors can be cut into 1 to 10 lists"):
        train_template(unit_vectors(10), nlist)


PEAK = """
import resource, sys
from pathlib import Path
from wbrag.store import faissfile
from wbrag.store.vectors import Spec, merge_vectors
shards, template = sorted(Path(sys.argv[1]).glob("shard-*")), Path(sys.argv[1], "template").read_bytes()
spec = Spec(sys.argv[2], 256, nlist=int(sys.argv[3]))
faissfile.MERGE_BYTES = 1 << 20
merge_vectors(Path(sys.argv[1], "one"), shards[:1], spec, template)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge_vectors(Path(sys.argv[1], "all"), shards, spec, template)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@kinds
def test_merging_takes_no_memory_for_more_shards(tmp_path: Path, kind: str) -> None:
    """Twelve shards of 10 MB: after one was merged, merging all raises the peak by less than a shard."""
    vectors = unit_vectors(20_000, d=256)
    template = train_template(vectors[:2000], 16) if kind == "ivf_fp16" else b""
    (tmp_path / "template").write_bytes(template)
    spec = spec_of(kind, 256, template, 16 if template else 0)
    write_vectors(tmp_path / "shard-00", [vectors], spec, template)
    for number in range(1, 12):
        (tmp_path / f"shard-{number:02d}").hardlink_to(tmp_path / "shard-00")
    command = [sys.executable, "-c", PEAK, str(tmp_path), kind, str(spec.nlist)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "all").stat().st_size > 11 * (tmp_path / "one").stat().st_size
    assert int(ran.stdout) < 10_240  # KiB
