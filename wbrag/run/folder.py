"""The run folder as its readers see it: settings, tables and JSON in; files out, each whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
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
from wbrag.run.lookup import Keyed, Rows, batched
from wbrag.schema import LEFT, PREDICTION, REQUEST, TRACE, UNIT
from wbrag.store.files import scratch_folder

Row = dict[str, Any]

#: The files of a run's units, beside the store that is made of them, and of what was left out of them.
UNITS, LEFT_OUT = "units.parquet", "left_out.parquet"
#: Units that wait until a person accepts them.
WAITING = "waiting.parquet"
#: The folder of a run's questions with what was retrieved for them: train.parquet and test.parquet.
QUESTIONS = "questions"
#: The folder of a run's updates, each a folder of the same tables; and the file that says that one is finished.
UPDATES, UPDATED = "updates", "update.json"
#: Backbones that are named for how a model is reached.
REACHED = ("hf", "openai")
#: The folder of the certificates of what was purged from a run.
PURGES = "purges"
CONFIG_KEYS = ("benchmark", "method", "backbone", "gates", "k", "seed")
#: The columns of a trace that tell of its unit, and what a unit calls them.
OF_UNIT = {"unit_id": "id", "unit_title": "title", "unit_text": "text"}
OF_UNIT |= {name: name for name in ("source_tokens", "unit_tokens")}


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


def tables_now(run: Path) -> Path:
    """The folder of a run's tables as they are now: of its last update, or its own."""
    return [run, *updates_of(run)][-1]


def follows(run: Path) -> bool:
    """Whether a run has a base of its own by now, as it was updated or something was purged from it."""
    return (run / UPDATES).is_dir() or (run / PURGES).is_dir()


def refuse_updated(
    run: Path, instead: str = "wbrag update goes on, another run_dir begins anew", other: str = ""
) -> None:
    """RunError, with what to do `instead`, for a run whose knowledge base has followed its documents since: its own
    tables are not of it. `other`: the settings that are asked for and are not the run's.
    """
    if follows(run):
        what = f"passages were purged ({PURGES}/)" if (run / PURGES).is_dir() else "was updated"
        asked = f", and with other settings ({other})" if other else ""
        raise RunError(f"{run}: {what} since it was trained{asked}; {instead}")


def trained_run(run: Path) -> Path:
    """The run whose knowledge base a folder is about: of an evaluation or a variant the run around it, else itself."""
    return run.parents[1] if run.parent.name in ("evaluations", "variants") else run


def model_called(backbone: Row) -> str:
    """What reports call a generator: its name, or its model where that name says only how it is reached."""
    name, model = str(backbone["name"]), str(backbone.get("model") or "")
    if name not in REACHED or not model:
        return name
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def setting_of(config: Row) -> Setting:
    """What the run's results are about, from its configuration."""
    benchmark = config["benchmark"]
    return Setting(
        benchmark=benchmark["name"],
        method=config["method"]["name"],
        backbone=model_called(config["backbone"]),
        metric=benchmark["metric"],
        labels={label: list(spellings) for label, spellings in (benchmark.get("labels") or {}).items()},
        seed=config["seed"],
        language=benchmark.get("language") or "en",
    )


def read_record(path: Path) -> Row:
    """The JSON object in a file; RunError with its name where there is none."""
    return _object(_text(path), f"{path}")


def read_records(path: Path) -> list[Row]:
    """The objects of a JSON Lines file, [] where the file is not there; RunError with file and line."""
    lines = _text(path).split("\n") if path.exists() else []
    return [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all; ValueError for what is not a number."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSON Lines, whole or not at all."""
    write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))


def _object(text: str, where: str) -> Row:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise RunError(f"{where}: not a JSON object: {error}") from error


class Reread:
    """Rows that are read anew, batch by batch, each time they are gone through; true where there are any."""

    def __init__(self, read: Callable[[], Iterable[Row]]) -> None:
        self.read = read

    def __iter__(self) -> Iterator[Row]:
        return iter(self.read())

    def __bool__(self) -> bool:
        return any(True for _ in self)


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
    for rows in read_tables(folder, schema, columns, where, pattern):
        yield from rows.to_pylist()


def read_tables(
    folder: Path,
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
    where: pc.Expression | None = None,
    pattern: str = "*.parquet",
) -> Iterator[pa.Table]:
    """What `read_rows` gives, as Arrow has it: some thousand rows at a time."""
    names = list(columns or schema.names)
    for file in sorted(folder.glob(pattern)):
        try:
            part = ds.dataset(file, format="parquet")
            if missing := [name for name in names if name not in part.schema.names]:
                raise RunError(f"{file}: no column {missing[0]!r}; it has {', '.join(part.schema.names)}")
            part = part.replace_schema(schema)
            if where is not None and not part.count_rows(filter=where):
                continue  # of a file without such rows, only what tells them is read
            for batch in part.to_batches(columns=names, filter=where, batch_size=1024):
                yield pa.Table.from_batches([batch])
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


def unit_rows(run: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The units of a run, rows of `schema.UNIT`, batch by batch, with the chosen columns (None: all); of an evaluation
    or variant without units of its own, those of the run around it.
    """
    folder = run if (run / UNITS).exists() else trained_run(run)
    return read_rows(folder, UNIT, columns, pattern=UNITS)


def read_waiting(run: Path) -> list[Row]:
    """The units of a run or update that wait for a person; none where nothing was checked."""
    return list(read_rows(run, UNIT, pattern=WAITING))


def read_left_out(run: Path) -> list[Row]:
    """What a run left out of its units, rows of `schema.LEFT`."""
    return list(read_rows(run, LEFT, pattern=LEFT_OUT))


def read_passages(run: Path, ids: set[str]) -> dict[str, Row]:
    """Those of the passages `ids` that units of a run may have been made of, by id: the documents of its kept examples
    and those that were found by subjects' names.
    """
    found: dict[str, Row] = {}
    wanted = pa.array(sorted(ids), pa.string())
    kept = read_tables(run / "traces", TRACE, ("documents",), pc.field("status") == "kept")
    for rows in chain(kept, read_tables(run, REQUEST, ("documents",), pattern="requests.parquet")):
        if len(found) == len(ids):
            break
        there = pc.list_flatten(rows["documents"])
        some = there.filter(pc.is_in(pc.struct_field(there, "id"), value_set=wanted)).to_pylist()
        found = {one["id"]: one for one in some} | found
    return found


def read_traces(run: Path, columns: Sequence[str], ids: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of a run's traces, of these examples or of all, batch by batch; `columns` has `id`. Once the run has units,
    an example has the columns of its first one (`unit_id`, `unit_title`, ...), None where none of its is left.
    """
    where = None if ids is None else pc.field("id").isin(pa.array(ids, pa.string()))
    told = {name: own for name, own in OF_UNIT.items() if name in columns}
    evidence = ("form", "text") if "evidence" in columns else ()
    if not (told or evidence) or not (run / UNITS).exists():
        yield from read_rows(run / "traces", TRACE, columns, where)
        return
    units = units_of_examples(run, list(dict.fromkeys([*told.values(), *evidence])), ids)
    for some in read_tables(run / "traces", TRACE, columns, where):
        places = units.find(some["id"])
        found = iter(units.table.take(places[places >= 0]).to_pylist())
        for row, there in zip(some.to_pylist(), places >= 0, strict=True):
            own = next(found) if there else {}
            row |= {name: own.get(key) for name, key in told.items()}
            row |= {"evidence": own["text"]} if evidence and own.get("form") == "verbatim" else {}
            yield row


def units_of_examples(run: Path, columns: Sequence[str], ids: Sequence[str] | None = None) -> Keyed:
    """The units of a run, with these columns of `schema.UNIT`, once for each example behind them: found by `example`,
    an example's first one first. Of all examples, or of these.
    """
    schema = pa.schema([("example", pa.string()), *(UNIT.field(name) for name in columns)])
    tables = [schema.empty_table()]
    for some in read_tables(run, UNIT, (*columns, "example_ids"), pattern=UNITS):
        at, examples = (work(some["example_ids"]) for work in (pc.list_parent_indices, pc.list_flatten))
        rows = pa.table([examples, *(some[name].take(at) for name in columns)], schema=schema)
        tables.append(rows if ids is None else rows.filter(pc.field("example").isin(pa.array(ids, pa.string()))))
    return Keyed(Rows.of(pa.concat_tables(tables).combine_chunks().to_batches(), schema), "example")


def tables_of(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows as tables of some thousands; one without rows where there are none."""
    batches = batched(rows)
    yield pa.Table.from_pylist(next(batches, []), schema)
    yield from (pa.Table.from_pylist(some, schema) for some in batches)


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


def now() -> str:
    """The time, in UTC, as notes tell it."""
    return datetime.now(UTC).isoformat(" ", "seconds")
