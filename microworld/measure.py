"""What a micro model can do, on worlds it never saw: `python -m microworld.measure microworld/models/micro_small`.

All prompts are the project's own, over documents that the real retriever returned; `one unit` has a unit in place of
them, closed book none. Greedy decoding with Hugging Face; prints one line per skill and, with `--card`, writes the
model card beside the weights.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microworld import turns
from microworld.lessons import School
from microworld.questions import TASKS, Question, ask
from microworld.reader import Reader
from microworld.relations import LEADS
from microworld.school import open_school
from microworld.turns import PROMPTS, UNKNOWN, documents, untold
from microworld.world import District, Passage, Sentence, famous
from wbrag.config import Gates
from wbrag.distill import evidence_lines, title_and_text
from wbrag.gates import document_gate
from wbrag.metrics import em

SEEDS = (20001, 20002)
#: skill -> (what is counted, floor of micro_small, floor of micro_large), shares in 0..1
FLOORS: dict[str, tuple[str, float, float]] = {
    "single fact": ("right answers, 1-5 retrieved documents of which one holds it", 0.55, 0.70),
    "two hops": ("right answers, 1-5 retrieved documents that hold both facts", 0.35, 0.45),
    "one unit": ("right answers, one compact unit that holds the fact", 0.90, 0.90),
    "unknown": ("'unknown' where no retrieved document holds the answer", 0.0, 0.0),
    "famous, closed book": ("right answers about the famous", 0.0, 0.0),
    "unknown, closed book": ("'unknown' (claims: denied) about anybody else", 0.0, 0.0),
    "verification": ("right yes/no and SUPPORTS/REFUTES, documents hold the fact", 0.80, 0.80),
    "relevance": ("right yes/no on whether documents help, half of each", 0.80, 0.80),
    "support": ("right yes/no on whether documents support an answer, half of each", 0.80, 0.80),
    "extraction recall": ("evidence sentences found in the documents that the gates retain", 0.0, 0.0),
    "extraction precision": ("extracted lines that stand in the documents", 0.0, 0.0),
    "facts kept": ("extracted facts that stand in the unit", 0.90, 0.90),
    "units supported": ("units all of whose sentences stand in their documents", 0.90, 0.90),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with the documents it is asked over."""

    question: Question
    page: tuple[Passage, ...]

    @property
    def held(self) -> bool:
        """Whether the documents state every fact the answer takes."""
        stated = {s.fact for p in self.page for s in p.sentences}
        return all(f in stated for f in self.question.facts)

    def prompt(self) -> str:
        """The project's own prompt."""
        task, question = TASKS[self.question.benchmark], self.question.text()
        return PROMPTS.message(task, documents(self.page, None), question=question)


def measure(reader: Reader, school: School, n: int) -> dict[str, tuple[float, int]]:
    """Every skill of FLOORS as (share, number of cases); up to `n` questions each."""
    rng = random.Random("measure")
    everything = [Asked(q, tuple(school.passages[i] for i in r[: rng.randint(1, 5)])) for q, _, r in school.asked]
    plain = [a for a in everything if not a.question.famous]

    def by(names: tuple[str, ...], held: bool) -> list[Asked]:
        return [a for a in plain if a.question.benchmark in names and a.held == held][:n]

    facts = ("nq", "zsre", "squad")
    found = {
        "single fact": _answers(reader, by(facts, True)),
        "two hops": _answers(reader, by(("hotpotqa",), True)),
        "one unit": _answers(reader, [_unit(a, school, rng) for a in by(facts, True)]),
        "unknown": _answers(reader, by(facts, False), UNKNOWN),
        "verification": _answers(reader, by(("boolq", "fever"), True)),
        "relevance": _relevance(reader, by(facts, True)[: n // 2] + by(facts, False)[: n // 2]),
        "support": _support(reader, by(facts, True), rng),
    }
    found |= _closed_book(reader, plain[:n], rng, n)
    found |= _distilled(reader, _gated(reader, by(facts, True)))
    return {skill: found[skill] for skill in FLOORS}


def _share(right: Sequence[bool | float]) -> tuple[float, int]:
    return sum(right) / max(1, len(right)), len(right)


def _answers(reader: Reader, asked: list[Asked], golden: str = "") -> tuple[float, int]:
    replies = reader.replies([a.prompt() for a in asked], 16)
    return _share([em(r, [golden or a.question.answer()]) for r, a in zip(replies, asked, strict=True)])


def _unit(asked: Asked, school: School, rng: random.Random) -> Asked:
    """The question over one unit: three to six facts of its subject, the asked one among them."""
    fact = asked.question.facts[0]
    place = next(p for p in school.places if fact in p.facts.get(fact.subject, ()))
    others = [f for f in place.facts[fact.subject] if f != fact]
    facts = [fact, *rng.sample(others, min(len(others), rng.randint(2, 5)))]
    rng.shuffle(facts)
    return Asked(asked.question, (Passage("u", "", tuple(Sentence(f) for f in facts), fact.subject),))


def _relevance(reader: Reader, asked: list[Asked]) -> tuple[float, int]:
    replies = reader.replies(
        [PROMPTS.message("relevance", documents(a.page, None), question=a.question.text()) for a in asked], 4
    )
    return _share([r == ("yes" if a.held else "no") for r, a in zip(replies, asked, strict=True)])


def _support(reader: Reader, asked: list[Asked], rng: random.Random) -> tuple[float, int]:
    prompts, golden = [], []
    for i, a in enumerate(asked):
        kind = a.question.facts[-1].object.kind
        stated = [s.fact.object for p in a.page for s in p.sentences if s.fact and s.fact.object.kind == kind]
        wrong = [o.text() for o in stated if o.text() != a.question.answer()]
        answer = rng.choice(wrong) if i % 2 and wrong else a.question.answer()
        prompts.append(PROMPTS.message("support", documents(a.page, None), question=a.question.text(), answer=answer))
        golden.append("yes" if answer == a.question.answer() else "no")
    return _share([r == g for r, g in zip(reader.replies(prompts, 4), golden, strict=True)])


def _closed_book(reader: Reader, plain: list[Asked], rng: random.Random, n: int) -> dict[str, tuple[float, int]]:
    place = District(tuple(famous()), famous(), ())
    known = [ask(rng.choice(("nq", "zsre")), rng.choice(place.entities), place, rng) for _ in range(n)]
    questions = [q for q in known if q] + [a.question for a in plain]
    replies = reader.replies(
        [PROMPTS.message(f"closed_book_{TASKS[q.benchmark]}", question=q.text()) for q in questions], 16
    )
    right = [em(r, [q.answer() if q.famous else untold(q)]) for r, q in zip(replies, questions, strict=True)]
    cut = len(questions) - len(plain)
    return {"famous, closed book": _share(right[:cut]), "unknown, closed book": _share(right[cut:])}


def _gated(reader: Reader, asked: list[Asked]) -> list[Asked]:
    """What a run distils: questions answered right over all their documents, with those the document gate retains."""
    replies = reader.replies([a.prompt() for a in asked], 16)
    asked = [a for a, r in zip(asked, replies, strict=True) if em(r, [a.question.answer()])]
    alone = [[Asked(a.question, (passage,)) for passage in a.page] for a in asked]
    found = iter(reader.replies([one.prompt() for ones in alone for one in ones], 16))
    scores = [[em(next(found), [a.question.answer()]) for _ in a.page] for a in asked]
    kept = [document_gate(0.0, s, Gates()).kept_ranks for s in scores]
    return [Asked(a.question, tuple(a.page[rank - 1] for rank in ranks)) for a, ranks in zip(asked, kept, strict=True)]


def _distilled(reader: Reader, asked: list[Asked]) -> dict[str, tuple[float, int]]:
    """The two steps of the distiller in a row, the second on what it reads off the first's reply."""
    texts = [a.question.text() for a in asked]
    extracts = reader.replies(
        [PROMPTS.message("extract", documents(a.page, None), question=t) for t, a in zip(texts, asked, strict=True)],
        256,
    )
    evidence = [evidence_lines(reply) for reply in extracts]
    units = reader.replies(
        [PROMPTS.message("rewrite", question=t, evidence="\n".join(e)) for t, e in zip(texts, evidence, strict=True)],
        256,
    )
    recall: list[float] = []
    precision: list[float] = []
    kept: list[float] = []
    supported: list[float] = []
    for a, extracted, unit in zip(asked, evidence, units, strict=True):
        stated = {s.bare() for p in a.page for s in p.sentences if s.fact}
        wanted = {s.bare() for s in turns.evidence(a.question, a.page)}
        lines = [_bare(line) for line in extracted]
        written = re.split(r"(?<=\.)\s+", title_and_text(unit)[1])
        recall += [w in lines for w in wanted]
        precision += [line in stated for line in lines]
        kept += [line in written for line in set(lines) if line in stated]
        supported.append(all(s in stated for s in written))
    return {
        "extraction recall": _share(recall),
        "extraction precision": _share(precision),
        "facts kept": _share(kept),
        "units supported": _share(supported),
    }


def _bare(line: str) -> str:
    """A line without its lead-in."""
    for lead in LEADS:
        if line.startswith(lead):
            line = line[len(lead) :]
            return line[:1].upper() + line[1:]
    return line


def table(found: dict[str, tuple[float, int]], large: bool) -> str:
    """The figures as a Markdown table with their floors."""
    rows = ["| skill | what is counted | share | cases | floor |", "| --- | --- | ---: | ---: | ---: |"]
    for skill, (share, n) in found.items():
        what, *floors = FLOORS[skill]
        floor = floors[large]
        mark = "" if not floor else f"{floor:.0%}" + ("" if share >= floor else " (missed)")
        rows.append(f"| {skill} | {what} | {share:.1%} | {n} | {mark} |")
    return "\n".join(rows)


def main() -> None:
    """Command line."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", type=int, default=400, help="questions per skill, at most")
    parser.add_argument("--school", type=Path, default=Path("runs/school"))
    parser.add_argument("--card", action="store_true", help="write README.md beside the weights")
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32").eval()
    found = measure(Reader(model, tokenizer), open_school(args.school, SEEDS, 4000), args.n)
    text = table(found, large=args.model.name.endswith("large"))
    print(text)
    if args.card:
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        (args.model / "README.md").write_text(
            CARD.format(name=args.model.name, millions=millions, seeds=SEEDS, table=text)
        )


CARD = """# {name}

A Llama-architecture model of {millions:.1f} M parameters that reads the microworld: made-up people, towns, companies
and books. Trained by `python -m microworld.train_lm` on worlds of other seeds; of no use but for the tests and the
demo of this repository. Licence: Apache-2.0, as the repository.

Measured on worlds of the seeds {seeds}, which training never saw, with the project's own prompts over the
documents that all-MiniLM-L6-v2 returned: `python -m microworld.measure microworld/models/{name} --card`.

{table}
"""


if __name__ == "__main__":
    main()
