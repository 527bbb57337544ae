"""Write a world to disk: `python -m microworld.generate --seed 7 --out runs/world-7`.

Makes `corpus.jsonl` and `<benchmark>/{train,test}.jsonl` in FlashRAG's form, and `world.json` last, so that its
existence means the world is complete. Passages stream: one district of about 135 passages is in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from microworld.questions import BENCHMARKS, TRUE, Question, ask, popular
from microworld.world import District, district, famous, size

#: A question and the ids of the passages that state its facts.
Row = tuple[Question, list[str]]


@dataclass(frozen=True)
class Plan:
    """What to generate; `famous` is the share of questions whose answer the micro models know by heart.

    With this `zipf` a third of the test questions of nq ask what a training question asks, as in Natural Questions
    (Lewis et al., 2021, "Question and Answer Test-Train Overlap in Open-Domain Question Answering Datasets": 32.5 %).
    """

    seed: int = 7
    districts: int = 20
    train: int = 500
    test: int = 1000
    zipf: float = 1.0
    famous: float = 0.1


def generate(out: Path, plan: Plan) -> dict[str, Any]:
    """Write the world of `plan` under `out` and return its summary, which is also `world.json`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "world.json").unlink(missing_ok=True)
    draws = _draws(plan)
    asked: dict[tuple[str, int], Row] = {}
    passages = 0
    with _writer(out / "corpus.jsonl") as corpus:
        for number in range(plan.districts):
            place = district(plan.seed, number)
            for p in place.passages:
                corpus.write(json.dumps({"id": p.id, "contents": f"{p.title()}\n{p.text()}"}) + "\n")
            passages += len(place.passages)
            asked.update(_asked(place, draws.pop(number, []), plan.seed))
    summary = {**asdict(plan), "passages": passages, "overlap": _write_questions(out, plan, asked)}
    with _writer(out / "world.json") as file:
        file.write(json.dumps(summary, indent=2) + "\n")
    return summary


class _writer:
    """A text file that appears under its name only once it is whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(path.name + ".part")

    def __enter__(self) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.part.open("w", encoding="utf-8")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is None:
            os.replace(self.part, self.path)


def _draws(plan: Plan) -> dict[int, list[tuple[str, int, int]]]:
    """Per district: (benchmark, number of the question, entity), -1 for one of the famous (asked in district 0)."""
    draws: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for benchmark in BENCHMARKS:
        rng = random.Random(f"{plan.seed}/{benchmark}")
        numbers = popular(plan.districts * size(), 8 * (plan.train + plan.test), plan.zipf, rng)
        for i, entity in enumerate(numbers):
            if rng.random() < plan.famous:
                draws[0].append((benchmark, i, -1))
            else:
                draws[entity // size()].append((benchmark, i, entity % size()))
    return draws


def _asked(place: District, draws: list[tuple[str, int, int]], seed: int) -> dict[tuple[str, int], Row]:
    """The questions of one district with the ids of the passages that state their facts."""
    told: dict[Any, list[str]] = defaultdict(list)
    for p in place.passages:
        for s in p.sentences:
            told[s.fact].append(p.id)
    known = District(tuple(famous()), famous(), place.passages)
    articles = [p.about for p in place.passages if p.about in place.facts]
    asked = {}
    for benchmark, i, entity in draws:
        rng = random.Random(f"{seed}/{benchmark}/{i}")
        where = known if entity < 0 else place
        name = rng.choice(where.entities) if entity < 0 else where.entities[entity]
        if benchmark == "squad" and entity >= 0 and articles:
            name = articles[entity % len(articles)]  # squad asks of articles only; who is popular stays popular
        question = ask(benchmark, name, where, rng) if name else None
        if question:
            asked[benchmark, i] = question, sorted({p for f in question.facts for p in told[f]})
    return asked


def _write_questions(out: Path, plan: Plan, asked: dict[tuple[str, int], Row]) -> dict[str, dict[str, int]]:
    """Both splits of every benchmark; returns how far the test questions overlap with training, per benchmark."""
    overlap = {}
    for benchmark in BENCHMARKS:
        rows = [row for (name, _), row in sorted(asked.items(), key=lambda kv: kv[0]) if name == benchmark]
        train, rest = _unlike(rows, plan.train)
        test, _ = _unlike(rest, plan.test)
        if len(test) < plan.test:
            found = len(train) + len(test)
            sys.exit(f"microworld: {benchmark}: {found} questions for {plan.train + plan.test}; ask for more districts")
        labels = _overlaps(benchmark, [q for q, _ in train], [q for q, _ in test])
        _write_split(out / benchmark / "train.jsonl", "train", train, [""] * len(train))
        _write_split(out / benchmark / "test.jsonl", "test", test, labels)
        overlap[benchmark] = {label: labels.count(label) for label in ("question", "answer", "none")}
    return overlap


def _overlaps(benchmark: str, train: list[Question], test: list[Question]) -> list[str]:
    """What each test question shares with training, by the rule of wbrag.report.overlap: the facts that are
    asked about, else the answer. Where answers are labels, all questions share them, and an equal one is no overlap.
    """
    facts = {question.facts for question in train}
    answers = set() if benchmark in TRUE else {question.answer() for question in train}
    return ["question" if q.facts in facts else "answer" if q.answer() in answers else "none" for q in test]


def _unlike(rows: list[Row], count: int) -> tuple[list[Row], list[Row]]:
    """The first `count` rows of which no two ask the same in the same words, and those after the last of them."""
    unlike: dict[str, Row] = {}
    for at, row in enumerate(rows):
        if len(unlike) == count:
            return list(unlike.values()), rows[at:]
        unlike.setdefault(row[0].text(), row)
    return list(unlike.values()), []


def _write_split(path: Path, split: str, rows: list[Row], labels: list[str]) -> None:
    with _writer(path) as file:
        for i, ((question, passages), overlap) in enumerate(zip(rows, labels, strict=True)):
            metadata: dict[str, Any] = {
                "relations": [f.relation for f in question.facts],
                "subject": question.facts[0].subject.text(),
                "passages": passages,
                "famous": question.famous,
            }
            if overlap:
                metadata["overlap"] = overlap
            row = {"id": f"{split}_{i}", "question": question.text(), "golden_answers": [question.answer()]}
            file.write(json.dumps({**row, "metadata": metadata}) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in asdict(Plan()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = vars(parser.parse_args())
    summary = generate(args.pop("out"), Plan(**args))
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
