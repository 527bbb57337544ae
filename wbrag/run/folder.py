"""The run folder as its readers see it: settings, tables and JSON in; files out, each whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wbrag.config import TrainConfig
from wbrag.report.evaluation import Setting
from wbrag.schema import LEFT, PREDICTION, REQUEST, TRACE, UNIT
from wbrag.store.files import scratch_folder

Row = dict[str, Any]

#: The file of a run's units, beside the store that is made of it.
UNITS = "units.parquet"
#: The folder of a run's questions with what was retrieved for them: train.parquet and test.parquet.
QUESTIONS = "questions"
#: The folder of a run's updates, each a folder of the same tables; and the file that says that one is finished.
UPDATES, UPDATED = "updates", "update.json"
CONFIG_KEYS = ("benchmark", "method", "backbone", "gates", "k", "seed")


class RunError(ValueError):
    """A run folder that cannot be read; the message names the file."""


def read_config(run: Path) -> Row:
    """The run's resolved configuration as plain data (`config.yaml`, the fields of `config.TrainConfig`)."""
    path = run / "config.yaml"
    try:
        config = OmegaConf.to_container(OmegaConf.create(_text(path)), resolve=True)
    except OmegaConfBaseException as error:
        raise RunError(f"{path}: {error}") from error
    found = {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}
    if missing := [key for key in CONFIG_KEYS if key not in found]:
        raise RunError(f"{path}: not the configuration of a run: no key {missing[0]!r}")
    return found


def load_config(run: Path) -> TrainConfig:
    """The run's resolved configuration, typed; its `run_dir` is where the folder lies now. RunError names the file."""
    keys = [field.name for field in fields(TrainConfig)]
    known = {key: value for key, value in read_config(run).items() if key in keys}
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainConfig), known))
    except OmegaConfBaseException as error:
        raise RunError(f"{run / 'config.yaml'}: {error}") from error
    assert isinstance(typed, TrainConfig)
    return replace(typed, run_dir=str(run.absolute()))


def updates_of(run: Path) -> list[Path]:
    """The folders of a run's finished updates, in order."""
    return sorted(file.parent for file in (run / UPDATES).glob(f"*/{UPDATED}"))


def refuse_updated(run: Path) -> None:
    """RunError for a run whose knowledge base has followed its documents since: its own tables are not of it."""
    if (run / UPDATES).is_dir():
        raise RunError(
            f"{run}: was updated since it was trained; jobs/update.py goes on, and its tables are in {UPDATES}/"
        )


def trained_run(run: Path) -> Path:
    """The run whose knowledge base a folder is about: of an evaluation or a variant the run around it, else itself."""
    return run.parents[1] if run.parent.name in ("evaluations", "variants") else run


def setting_of(config: Row) -> Setting:
    """What the run's results are about, from its configuration."""
    benchmark = config["benchmark"]
    return Setting(
        benchmark=benchmark["name"],
        method=config["method"]["name"],
        backbone=config["backbone"]["name"],
        metric=benchmark["metric"],
        labels={label: list(spellings) for label, spellings in (benchmark.get("labels") or {}).items()},
        seed=config["seed"],
    )


def read_record(path: Path) -> Row:
    """The JSON object in a file; RunError with its name where there is none."""
    return _object(_text(path), f"{path}")


def read_records(path: Path) -> list[Row]:
    """The objects of a JSON Lines file, [] where the file is not there; RunError with file and line."""
    lines = _text(path).split("\n") if path.exists() else []
    return [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _object(text: str, where: str) -> Row:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise RunError(f"{where}: not a JSON object: {error}") from error


def read_rows(
    folder: Path,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    where: pc.Expression | None = None,
    pattern: str = "*.parquet",
) -> Iterator[Row]:
    """Rows of a folder's Parquet files (of those that match) that satisfy `where`, batch by batch, with the chosen
    columns (None: all).

    Yields nothing where the folder does not exist. RunError where a file lacks a column or has one of another type.
    """
    names = list(columns or schema.names)
    for file in sorted(folder.glob(pattern)):
        try:
            part = ds.dataset(file, format="parquet")
            if missing := [name for name in names if name not in part.schema.names]:
                raise RunError(f"{file}: no column {missing[0]!r}; it has {', '.join(part.schema.names)}")
            for batch in part.replace_schema(schema).to_batches(columns=names, filter=where, batch_size=1024):
                yield from batch.to_pylist()
        except pa.ArrowException as error:
            raise RunError(f"{file}: {error}") from error


def read_fields(folder: Path, columns: Sequence[str], where: pc.Expression | None = None) -> Iterator[Row]:
    """Rows of a folder's Parquet files as `read_rows` gives them, where of documents only some fields are needed: a
    column `documents.id` is the documents with their ids alone. Their texts are then not read from the disk.
    """
    for file in sorted(folder.glob("*.parquet")):
        part = pq.ParquetFile(file)
        leaves = [part.schema.column(i).path for i in range(len(part.schema.names))]  # documents.list.element.id
        named = [(leaf, leaf.partition(".")[0], leaf.rpartition(".")[2]) for leaf in leaves]
        wanted = {name: [leaf for leaf, *ends in named if name in (ends[0], ".".join(ends))] for name in columns}
        if missing := [name for name in columns if not wanted[name]]:
            raise RunError(f"{file}: no column {missing[0]!r}; it has {', '.join(leaves)}")
        for batch in part.iter_batches(1024, columns=list(chain(*wanted.values()))):
            rows = pa.Table.from_batches([batch])
            yield from (rows if where is None else rows.filter(where)).to_pylist()


def read_predictions(folder: Path) -> list[Row]:
    """The predictions of a run, evaluation or variant, in order of id; RunError where there are none."""
    rows = sorted(read_rows(folder / "predictions", PREDICTION), key=lambda row: str(row["id"]))
    if not rows:
        raise RunError(f"{folder / 'predictions'}: no prediction to report on")
    return rows


def read_units(run: Path) -> list[Row]:
    """The units of a run, rows of `schema.UNIT`; of an evaluation or variant without units of its own, those of the run
    around it. [] where none were written.
    """
    folder = run if (run / UNITS).exists() else trained_run(run)
    return list(read_rows(folder, UNIT, pattern=UNITS))


def read_left_out(run: Path) -> list[Row]:
    """What a run left out of its units, rows of `schema.LEFT`."""
    return list(read_rows(run, LEFT, pattern="left_out.parquet"))


def read_passages(run: Path, ids: set[str]) -> dict[str, Row]:
    """Those of the passages `ids` that units of a run may have been made of, by id: the documents of its kept examples
    and those that were found by subjects' names.
    """
    found: dict[str, Row] = {}
    if ids:
        kept = read_rows(run / "traces", TRACE, ("documents",), pc.field("status") == "kept")
        for row in (*kept, *read_rows(run, REQUEST, ("documents",), pattern="requests.parquet")):
            found |= {one["id"]: one for one in row["documents"] or [] if one["id"] in ids}
    return found


def read_traces(run: Path, columns: Sequence[str], where: pc.Expression | None = None) -> list[Row]:
    """Rows of a run's traces; `columns` has `id`. Once the run has units, an example has the columns of its first one
    (`unit_id`, `unit_title`, ...), None where none of its is left.
    """
    rows = list(read_rows(run / "traces", TRACE, columns, where))
    if not (run / UNITS).exists():
        return rows
    first = {example: unit for unit in reversed(read_units(run)) for example in unit["example_ids"]}
    for row in rows:
        own = first.get(row["id"], {})
        told = {f"unit_{key}": own.get(key) for key in ("id", "title", "text")}
        told |= {key: own.get(key) for key in ("source_tokens", "unit_tokens")}
        told |= {"evidence": own["text"]} if own.get("form") == "verbatim" else {}
        row |= {key: value for key, value in told.items() if key in row}
    return rows


def write_rows(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """A Parquet file of these tables, whole or not at all; one of them is held at a time."""
    with scratch_folder(path.parent) as scratch:
        with pq.ParquetWriter(scratch / path.name, schema) as writer:
            for table in tables:
                writer.write_table(table)
        os.replace(scratch / path.name, path)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader sees the old text or the new, never a part."""
    with scratch_folder(path.parent) as scratch:
        (scratch / path.name).write_text(text, encoding="utf-8")
        os.replace(scratch / path.name, path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; is {path.parent} the folder of a run?") from None
