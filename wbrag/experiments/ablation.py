"""Other thresholds, replayed from the scores that a run recorded: which examples and ranks they would have kept.

Traces hold every score the gates read. So a variant of the gates costs no call for an example whose kept ranks do not
change; where they do, only its distillation is missing; only an example that the run's own gates closed before all
its scores were known has to be asked again from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wbrag.config import ConfigError, Gates
from wbrag.gates import document_gate, utility_gate, with_documents_needed

Row = Mapping[str, Any]

#: The columns of `schema.TRACE` that a replay reads.
TRACE_COLUMNS = (
    *("id", "question", "golden_answers", "metadata", "documents", "status", "reason", "s_nr", "s_rag"),
    *("document_scores", "kept_ranks", "unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens"),
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What other gates would do with one example: `kept_ranks` (() where they close), or None where a score is missing.

    `fallback`: no document passed, the top n_min were taken.
    """

    id: str
    kept_ranks: tuple[int, ...] | None
    fallback: bool = False


def gates_of(own: Gates, thresholds: Mapping[str, Sequence[float]]) -> dict[str, Gates]:
    """The gates to be tried, by name ("tau_doc=0.05"): one threshold at a time is changed, as in the paper's Table 4.

    The run's own value of each threshold is among them. ConfigError for a name that is no threshold, for a tau that is
    not a number below 1, for an n_min that is not a whole number from 1.
    """
    tried = {}
    for name, values in thresholds.items():
        if name not in asdict(own):
            raise ConfigError(f"thresholds.{name}: unknown; known are {', '.join(asdict(own))}")
        if strange := [value for value in values if isinstance(value, bool) or not isinstance(value, int | float)]:
            raise ConfigError(f"thresholds.{name}: {strange[0]!r} is not a number")
        for value in sorted({*values, getattr(own, name)}):
            if not (value >= 1 and value == int(value) if name == "n_min" else 0 <= value < 1):
                raise ConfigError(f"thresholds.{name}: {value} is out of range")
            changed: Any = {name: int(value) if name == "n_min" else float(value)}
            tried[f"{name}={value:g}"] = replace(own, **changed)
    return tried


def replay(row: Row, gates: Gates) -> Replayed:
    """What these gates would do with the example of one trace row (TRACE_COLUMNS).

    A failed example stays out: what failed was a call, which no threshold mends.
    """
    nothing = Replayed(row["id"], ())
    if row["status"] == "failed" or row["s_nr"] is None or not with_documents_needed(row["s_nr"], gates):
        return nothing
    if row["s_rag"] is None:
        return Replayed(row["id"], None)
    if not utility_gate(row["s_nr"], row["s_rag"], gates).passed:
        return nothing
    if row["document_scores"] is None:
        return Replayed(row["id"], None)
    decision = document_gate(row["s_nr"], row["document_scores"], gates)
    return Replayed(row["id"], decision.kept_ranks, decision.fallback)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a variant of the gates takes: units that are there, (id, ranks) to distil, ids to ask from the start."""

    reused: tuple[str, ...]
    to_distil: tuple[tuple[str, tuple[int, ...]], ...]
    to_train: tuple[str, ...]


def plan(traces: Sequence[Row], gates: Gates) -> Plan:
    """The plan of one variant over all examples of a run, by example id, in order of id.

    An example whose distillation gave no passage (gated with its ranks known) is not asked the same again.
    """
    reused, to_distil, to_train = [], [], []
    for row in sorted(traces, key=lambda row: str(row["id"])):
        found = replay(row, gates)
        if found.kept_ranks is None:
            to_train.append(found.id)
        elif found.kept_ranks and list(found.kept_ranks) != list(row["kept_ranks"] or []):
            to_distil.append((found.id, found.kept_ranks))
        elif found.kept_ranks and row["status"] == "kept":
            reused.append(found.id)
    return Plan(tuple(reused), tuple(to_distil), tuple(to_train))


def request_id(example: str, ranks: Sequence[int]) -> str:
    """The id of a request to distil these ranks of an example: one for all variants that need it."""
    return f"{example}@{'+'.join(map(str, ranks))}"
