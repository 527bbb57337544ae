"""What becomes of one question: Algorithm 1 (paper, section 3) for a training example, three answers for a test one.

`algorithm_1` is the method; the rest is its bookkeeping, and the judge that may stand in for labels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from wbrag.config import Gates
from wbrag.distill import UnusableReply, distil, knowledge_unit
from wbrag.gates import document_gate, reason_without_documents, utility_gate, with_documents_needed
from wbrag.llm import LLM, FirstToken, Reply, Token
from wbrag.llm.fit import Render, ask, readable
from wbrag.methods import Answer, Search, Tools, closed_book, method_named, open_method
from wbrag.metrics import normalise
from wbrag.schema import PREDICTION, TRACE, Document, Example, document_rows, documents_of

Metric = Callable[[str, Sequence[str]], float]
Row = dict[str, Any]
T = TypeVar("T")
Told = TypeVar("Told", Reply, FirstToken)

#: No tokenizer makes tokens this long on average: a longer reply means that its endpoint ignored max_tokens.
CHARACTERS_PER_TOKEN = 64


class NoJudgement(ValueError):
    """A reply of the judge that is neither yes nor no; the message holds it."""


async def train_example(
    example: Example,
    documents: Sequence[Document],
    tools: Tools,
    gates: Gates,
    metric: Metric,
    *,
    judge: bool = False,
    paper_plan: bool = False,
    closed_book_answer: str | None = None,
    earlier: Mapping[str, Any] | None = None,
    distils: bool = True,
) -> Row:
    """One row of `schema.TRACE` for one example, whatever becomes of it: kept, gated, or failed with its error.

    `documents` is D = R(q, K) in retrieval order; `metric` is M, from an answer and the golden answers to 0..1. With
    `judge`, `llm_judge` decides, and the labels only tell whether they would have decided the same (`judge_agrees`). An
    exception becomes a failed row that keeps what was known before it; a distiller's reply that can be no passage gates
    the example out, with what is wrong with the reply.

    `calls_saved` are calls of the paper's plan that were not sent: two answers (closed book, with documents) and, past
    the utility gate, one for each document and two calls to distil. Saved are the with-documents answer where the gate
    is decided without it (counted as one call, the least a method takes), every prompt already asked for this example,
    and a `closed_book_answer` that another run has given. `paper_plan` sends them all; the decision is the same.
    Without `distils` a kept example ends at step 5: its unit is written later (`wbrag.units`). `earlier`
    (`schema.EARLIER`) is what became of this example with other documents: what was said of those that are still among
    them is not asked again.
    """
    llm = CountedLLM(tools.llm, remember=not paper_plan)
    tools = replace(tools, llm=llm)
    row: Row = dict.fromkeys(TRACE.names) | _asked(example) | {"documents": document_rows(documents)}
    documents, cut = fitting(example.question, documents, tools, distils)
    tools = replace(tools, search=_fitting_search(example.question, tools, tools.search))
    row |= {"dropped_documents": cut, "closed_book_answer": closed_book_answer}
    started = time.perf_counter()

    async def score(answer: Answer) -> float:
        if judge:
            return await llm_judge(example.question, answer.text, documents, tools)
        return _checked(metric(answer.text, example.golden_answers), answer.text)

    told = Earlier(earlier) if earlier else None
    try:
        await algorithm_1(row, example.question, documents, tools, gates, score, paper_plan, distils, told)
    except UnusableReply as error:  # the generator answered, but not with a passage: a decision, not a fault of the run
        row |= {"status": "gated", "reason": f"{row['reason']}; not distilled: {error}"}
    except Exception as error:  # one bad example must not take its block along
        row |= {"status": "failed", "reason": failure(error)}
    skipped = int(row["status"] == "gated" and row["s_rag"] is None)
    known = int(closed_book_answer is not None) + (told.calls_saved if told else 0)
    row |= {"calls_saved": llm.calls_saved + skipped + known, **llm.spent}
    agrees = labels_agree(row, gates, metric) if judge else None
    return row | {"judge_agrees": agrees, "seconds": time.perf_counter() - started}


async def algorithm_1(
    row: Row,
    question: str,
    documents: Sequence[Document],
    tools: Tools,
    gates: Gates,
    score: Callable[[Answer], Awaitable[float]],
    paper_plan: bool,
    distils: bool,
    earlier: Earlier | None = None,
) -> None:
    """Algorithm 1, steps 1 to 7, for the example (q, a); fills `row` on the way, so that an error loses nothing.

    The golden answers are read by `score` alone: no prompt is made from them.
    """
    method = open_method(tools.method)

    # Step 1: s_nr, from parametric knowledge alone; another run may have asked already.
    known = row["closed_book_answer"]
    answer = await closed_book(question, tools) if known is None else Answer(known, 0, 0, 0)
    s_nr = await score(answer)
    row |= {"closed_book_answer": answer.text, "s_nr": s_nr}

    # Steps 2 and 3: D = R(q, K) is given; s_rag, unless no s_rag could pass the gate any more.
    if not (paper_plan or with_documents_needed(s_nr, gates)):
        row |= {"status": "gated", "reason": reason_without_documents(s_nr, gates)}
        return
    answer = (earlier.over(documents) if earlier else None) or await method(question, documents, tools)
    s_rag = await score(answer)
    row |= {"rag_answer": answer.text, "s_rag": s_rag, "retrievals": answer.retrievals}
    row["dropped_documents"] += answer.dropped_documents

    # Step 4: utility gate.
    utility = utility_gate(s_nr, s_rag, gates)
    row |= {"delta": utility.delta, "reason": utility.reason, "status": "kept" if utility.passed else "gated"}
    if not utility.passed:
        return

    # Step 5: document gate over s_j, the score with document j alone: nothing is searched beside it.
    answers = await _together([_alone(question, one, tools, earlier) for one in documents])
    scores = await _together([score(answer) for answer in answers])
    kept = document_gate(s_nr, scores, gates)
    row |= {"document_answers": [answer.text for answer in answers], "document_scores": scores}
    row |= {"kept_ranks": list(kept.kept_ranks), "fallback": kept.fallback}
    row["reason"] = f"{utility.reason}; {kept.reason}"
    if not distils:
        return

    # Step 6: distillation, k = F(q, D*).
    sources = [documents[rank - 1] for rank in kept.kept_ranks]
    if earlier and (unit := earlier.unit(sources)):
        row |= unit
        return
    distilled = await distil(question, sources, tools.llm, tools.prompts, tools.distil_tokens)
    row |= {"evidence": distilled.evidence}
    row["dropped_documents"] += len(sources) - len(distilled.sources)

    # Step 7: write back; the index stage adds every kept unit to K_wb.
    unit = knowledge_unit([row["id"]], distilled, tools.llm)
    row |= {"unit_id": unit["id"], "unit_title": unit["title"], "unit_text": unit["text"]}
    row |= {"source_tokens": unit["source_tokens"], "unit_tokens": unit["unit_tokens"]}


def fitting(
    question: str, documents: Sequence[Document], tools: Tools, distils: bool = False
) -> tuple[Sequence[Document], int]:
    """The documents as the question's prompts can hold them (`fit.readable`), and how many were cut for that."""

    def prompt(key: str) -> Render:
        return lambda some: tools.prompts.message(key, some, question=question)

    more = getattr(method_named(tools.method.name), "asks", None)
    asked = [(prompt(tools.task), tools.answer_tokens), *(more(question, tools) if more else ())]
    return readable(documents, asked + [(prompt("extract"), tools.distil_tokens)] * distils, tools.llm)


def _fitting_search(question: str, tools: Tools, search: Search | None) -> Search | None:
    """The search, if there is one, whose documents are as `fitting` has them."""

    async def cut(query: str, k: int) -> list[Document]:
        assert search
        return list(fitting(question, await search(query, k), tools)[0])

    return cut if search else None


async def _alone(question: str, document: Document, tools: Tools, earlier: Earlier | None) -> Answer:
    """The answer with one document, as it was given earlier or asked now."""
    known = earlier.alone(document) if earlier else None
    return known or await open_method(tools.method)(question, [document], replace(tools, search=None))


class Earlier:
    """What became of an example before some of its documents changed (a row of `schema.EARLIER`), and how many calls
    of the paper's plan that spared.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row, self.documents, self.calls_saved = row, documents_of(row["documents"]), 0
        answers = zip(self.documents, row["document_answers"] or [], strict=False)  # none where a gate came before
        self.answers = {(one.title, one.text): answer for one, answer in answers}

    def over(self, documents: Sequence[Document]) -> Answer | None:
        """The answer with these documents; None where they were others, or the method searched for more."""
        read = [[(one.title, one.text, one.score) for one in some] for some in (self.documents, documents)]
        if self.row["rag_answer"] is None or self.row["retrievals"] or read[0] != read[1]:
            return None
        self.calls_saved += 1
        return Answer(self.row["rag_answer"], 0, 0, 0)

    def alone(self, document: Document) -> Answer | None:
        """The answer with this document alone; None where that was not asked."""
        if (told := self.answers.get((document.title, document.text))) is None:
            return None
        self.calls_saved += 1
        return Answer(told, 0, 0, 0)

    def unit(self, sources: Sequence[Document]) -> Row | None:
        """The columns of the unit that was distilled of these very documents; None where it was of others."""
        kept = [self.documents[rank - 1] for rank in self.row["kept_ranks"] or []]
        if self.row["unit_text"] is None or [(d.id, d.contents) for d in kept] != [(d.id, d.contents) for d in sources]:
            return None
        self.calls_saved += 2
        names = ("evidence", "unit_id", "unit_title", "unit_text", "source_tokens", "unit_tokens")
        return {name: self.row[name] for name in names}


async def answer_question(
    example: Example,
    base: Sequence[Document],
    writeback: Sequence[Document],
    tools: Tools,
    merged_search: Search | None = None,
    known: Mapping[str, Any] | None = None,
) -> tuple[Row, int]:
    """One row of `schema.PREDICTION`, whatever becomes of it, and the calls that were not repeated.

    `base` is R(q, K), `writeback` the merged Top-K(R(q, K) u R(q, K_wb)) (paper, section 3.1); where they are equal
    the one reply serves both. A method that searches while it answers has `tools.search` for the base answer, and
    `merged_search`, over both stores, for the other. Context tokens are those of the documents that fitted. What an
    earlier run of the same settings answered (`known`, columns of `schema.KNOWN`) is not asked again, nor is an answer
    over write-back where the documents are those of a known base answer. An exception becomes the row's error.
    """
    llm, method = CountedLLM(tools.llm, remember=True), open_method(tools.method)
    tools = replace(tools, llm=llm)
    row: Row = dict.fromkeys(PREDICTION.names) | _asked(example)
    row |= {"documents_base": document_rows(base), "documents_writeback": document_rows(writeback)}
    answers = {column: value for column, value in (known or {}).items() if value is not None}
    saved = sum(column in answers for column in ("answer_closed_book", "answer_base"))

    async def alone() -> Row:
        return {"answer_closed_book": (await closed_book(example.question, tools)).text}

    async def over(side: str, documents: Sequence[Document], search: Search | None) -> Row:
        documents, _ = fitting(example.question, documents, tools)
        there = replace(tools, search=_fitting_search(example.question, tools, search))
        answer = await method(example.question, documents, there)
        read = documents[: len(documents) - answer.dropped_documents]
        context = llm.count_tokens(tools.prompts.documents(read))
        told = {"answer": answer.text, "context_tokens": context, "retrievals": answer.retrievals}
        return {f"{column}_{side}": value for column, value in told.items()}

    asked = [] if "answer_closed_book" in answers else [alone()]
    if "answer_base" not in answers:
        asked.append(over("base", base, tools.search))
    if "answer_base" in answers and merged_search is None and list(base) == list(writeback):
        same = ("answer", "context_tokens", "retrievals")
        answers |= {f"{column}_writeback": answers.get(f"{column}_base") for column in same}
    else:
        asked.insert(0, over("writeback", writeback, merged_search))
    try:
        for found in await asyncio.gather(*asked):
            answers |= found
        row |= answers
    except Exception as error:  # one bad question must not take its block along
        row["error"] = failure(error)
    return row | llm.spent, llm.calls_saved + saved


async def llm_judge(question: str, answer: str, documents: Sequence[Document], tools: Tools) -> float:
    """A judge in place of labels, who sees none: 1.0 where the generator says yes, the documents bear the answer out;
    0.0 where it says no, or there are none. Raises NoJudgement, and PromptTooLong where not one document fits.
    """
    if not documents:
        return 0.0
    told = {"question": question, "answer": answer}
    render: Render = lambda some: tools.prompts.message("judge", some, **told)  # noqa: E731 - as `fitting`'s
    documents, _ = readable(documents, [(render, tools.answer_tokens)], tools.llm)
    reply, _ = await ask(tools.llm, tools.prompts, "judge", tools.answer_tokens, documents, **told)
    first = normalise(reply.text).split()[:1]
    if first not in (["yes"], ["no"]):
        raise NoJudgement(f"the judge said {reply.text[:60]!r}, neither yes nor no")
    return float(first == ["yes"])


def labels_agree(row: Mapping[str, Any], gates: Gates, metric: Metric) -> bool | None:
    """Whether the utility gate decides by the labels as it did by the judge, from a row of `schema.TRACE`.

    None for a failed row, for one without golden answers, and where the judge's s_nr spared a call that the labels'
    decision would have needed.
    """
    golden = row["golden_answers"]
    if not golden or row["status"] == "failed":
        return None
    s_nr = metric(row["closed_book_answer"], golden)
    if row["s_rag"] is None:
        return None if with_documents_needed(s_nr, gates) else True
    by_labels = utility_gate(s_nr, metric(row["rag_answer"], golden), gates)
    return by_labels.passed == utility_gate(row["s_nr"], row["s_rag"], gates).passed


class CountedLLM:
    """A generator that counts calls, those that ended (`ended`), tokens, and replies that the limit cut or that are
    empty; with `remember` it asks nothing twice.
    """

    def __init__(self, llm: LLM, remember: bool) -> None:
        self.llm, self.remember = llm, remember
        self.max_model_len = llm.max_model_len
        self.count_tokens, self.prompt_tokens = llm.count_tokens, llm.prompt_tokens
        self.calls = self.ended = self.calls_saved = self.prompt_tokens_sent = self.completion_tokens = 0
        self.cut = self.empty = 0
        self._asked: dict[Hashable, asyncio.Task[Any]] = {}

    @property
    def spent(self) -> Row:
        """Calls sent and tokens, as columns of a row."""
        tokens = {"prompt_tokens": self.prompt_tokens_sent, "completion_tokens": self.completion_tokens}
        return {"calls": self.calls, **tokens}

    async def chat(self, content: str, max_tokens: int, *, prefix: str = "", logprobs: bool = False) -> Reply:
        """The generator's reply; for a prompt already asked, or being asked, the reply to that."""
        key = ("chat", content, max_tokens, prefix, logprobs)
        reply = await self._once(key, 1, lambda: self.llm.chat(content, max_tokens, prefix=prefix, logprobs=logprobs))
        return _storable_reply(reply, max_tokens)

    async def mixture(
        self,
        contents: Sequence[str],
        weights: Sequence[float],
        max_tokens: int,
        pooling: str = "probabilities",
        bad_words: Sequence[str] = (),
    ) -> Reply:
        """The generator's reply; as many calls as there are messages, and not sent twice either."""
        asked = (tuple(contents), tuple(weights), max_tokens, pooling, tuple(bad_words))
        reply = await self._once(("mixture", *asked), len(contents), lambda: self.llm.mixture(*asked))
        return _storable_reply(reply, max_tokens)

    async def first_token(self, content: str, candidates: Sequence[str], *, prefix: str = "") -> FirstToken:
        """The generator's probabilities, asked once."""
        key = ("first_token", content, tuple(candidates), prefix)
        return await self._once(key, 1, lambda: self.llm.first_token(content, candidates, prefix=prefix))

    async def _once(self, key: Hashable, calls: int, call: Callable[[], Coroutine[Any, Any, Told]]) -> Told:
        if not self.remember:
            return await self._send(calls, call)
        if key in self._asked:
            self.calls_saved += calls
        else:
            self._asked[key] = asyncio.ensure_future(self._send(calls, call))
        told: Told = await self._asked[key]
        return told

    async def _send(self, calls: int, call: Callable[[], Coroutine[Any, Any, Told]]) -> Told:
        self.calls += calls
        try:
            told = await call()
        finally:
            self.ended += calls
        self.prompt_tokens_sent += told.prompt_tokens
        self.completion_tokens += told.completion_tokens
        self.cut += (
            isinstance(told, Reply) and told.cut is True and not told.tokens
        )  # of FLARE's drafts each is, by its nature
        self.empty += isinstance(told, Reply) and not told.text
        return told


def failure(error: Exception) -> str:
    """What a row says of an error."""
    return _storable(f"{type(error).__name__}: {error}")


def _asked(example: Example) -> Row:
    return asdict(example) | {"golden_answers": list(example.golden_answers)}


async def _together(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results at once, in order; waits for all before the first error is raised, so that every call is counted."""
    tasks = [asyncio.ensure_future(one) for one in work]
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


def _checked(value: float, answer: str) -> float:
    """A score of M; the gates' arithmetic, and the calls they save, hold for 0..1 only."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"metric gave {value!r}, not a score in 0..1, for the answer {answer[:80]!r}")
    return float(value)


def _storable_reply(reply: Reply, max_tokens: int) -> Reply:
    if len(reply.text) > CHARACTERS_PER_TOKEN * max_tokens:
        raise ValueError(f"reply of {len(reply.text)} characters to a call of max_tokens {max_tokens}")
    tokens = tuple(Token(_storable(token.text), token.logprob) for token in reply.tokens)
    return replace(reply, text=_storable(reply.text), tokens=tokens)


def _storable(text: str) -> str:
    """`text` with lone surrogates, which no Arrow column can hold, replaced by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
