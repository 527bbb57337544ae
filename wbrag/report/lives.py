"""Which three lives a report tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wbrag.metrics import score
from wbrag.report.evaluation import Setting

Row = Mapping[str, Any]


def lives_to_show(traces: Sequence[Row], predictions: Sequence[Row], setting: Setting) -> list[tuple[str, str]]:
    """Up to three (caption, id): an example whose unit a fixed question read, one gated out, one that got worse.

    A kept and a failed example stand in for the first and the last; the lowest id is taken, not the most beautiful.
    """
    writer = {row["unit_id"]: row["id"] for row in reversed(traces) if row["unit_id"]}
    fixed, worse = None, None
    for row in predictions:
        units = [d["id"] for d in row["documents_writeback"] or [] if d["id"] in writer]
        if not units or row["error"] is not None:
            continue
        answers = (row[f"answer_{side}"] for side in ("base", "writeback"))
        before, after = (score(setting.metric, text, row["golden_answers"], setting.labels) for text in answers)
        fixed = fixed or (writer[units[0]] if after > before else None)
        worse = worse or (row["id"] if after < before else None)
    first: dict[str, str] = {}
    for row in traces:
        first.setdefault(row["status"], row["id"])
    chosen = [
        ("Kept; its unit was read for a test question that write-back fixed.", fixed)
        if fixed
        else ("Kept.", first.get("kept")),
        ("Gated out.", first.get("gated")),
        ("A test question that got worse with write-back.", worse) if worse else ("Failed.", first.get("failed")),
    ]
    return [(caption, key) for caption, key in chosen if key is not None]
