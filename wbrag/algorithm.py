"""Algorithm 1 (paper, section 3) for one example: `algorithm_1` is the method, the rest is its bookkeeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from wbrag.config import Gates
from wbrag.distill import UnusableReply, distil, knowledge_unit
from wbrag.gates import document_gate, reason_without_documents, utility_gate, with_documents_needed
from wbrag.judging import Judge, labels_agree
from wbrag.llm import LLM, FirstToken, Reply, Token
from wbrag.methods import Answer, Method, Tools, closed_book
from wbrag.schema import TRACE, Document, Example, document_rows

Metric = Callable[[str, Sequence[str]], float]
Row = dict[str, Any]
T = TypeVar("T")
Told = TypeVar("Told", Reply, FirstToken)

#: No tokenizer makes tokens this long on average: a longer reply means that its endpoint ignored max_tokens.
CHARACTERS_PER_TOKEN = 64


async def train_example(
    example: Example,
    documents: Sequence[Document],
    tools: Tools,
    gates: Gates,
    metric: Metric,
    *,
    method: Method,
    judge: Judge | None = None,
    paper_plan: bool = False,
    closed_book_answer: str | None = None,
    distils: bool = True,
) -> Row:
    """One row of `schema.TRACE` for one example, whatever becomes of it: kept, gated, or failed with its error.

    `documents` is D = R(q, K) in retrieval order; `metric` is M, from an answer and the golden answers to 0..1. With a
    `judge`, its scores decide, and the labels only tell whether they would have decided the same (`judge_agrees`). An
    exception becomes a failed row that keeps what was known before it; a distiller's reply that can be no passage gates
    the example out, with what is wrong with the reply.

    `calls` are the calls sent to the generator. `calls_saved` are those of the paper's plan that were not sent. The
    plan has two answers (closed book, with documents) and, past the utility gate, one for each document and two calls
    to distil: 2 or 2 + K + 2 calls under naive RAG; REPLUG's answer with documents is K calls. Saved are the
    with-documents answer where the gate is decided without it (counted as one call, the least a method takes) and
    every prompt already asked for this example.
    `paper_plan` sends them all; the decision is the same either way. A `closed_book_answer` that another run of the
    same generator and prompt has given is a call saved too. Without `distils` a kept example ends at step 5: its unit
    is written later, from several examples or without the generator (`wbrag.units`).
    """
    row: Row = dict.fromkeys(TRACE.names) | {
        "id": example.id,
        "question": example.question,
        "golden_answers": list(example.golden_answers),
        "metadata": example.metadata,
        "documents": document_rows(list(documents)),
        "dropped_documents": 0,
        "closed_book_answer": closed_book_answer,
    }
    llm = CountedLLM(tools.llm, remember=not paper_plan)
    started = time.perf_counter()
    try:
        how = (gates, metric, method, judge, paper_plan, distils)
        await algorithm_1(row, example, documents, replace(tools, llm=llm), *how)
    except UnusableReply as error:  # the generator answered, but not with a passage: a decision, not a fault of the run
        row |= {"status": "gated", "reason": f"{row['reason']}; not distilled: {error}"}
    except Exception as error:  # one bad example must not take its block along
        row |= {"status": "failed", "reason": _storable(f"{type(error).__name__}: {error}")}
    skipped = int(row["status"] == "gated" and row["s_rag"] is None)
    known = int(closed_book_answer is not None)
    return row | {
        "calls": llm.calls,
        "calls_saved": llm.calls_saved + skipped + known,
        "prompt_tokens": llm.prompt_tokens_sent,
        "completion_tokens": llm.completion_tokens,
        "judge_agrees": labels_agree(row, gates, metric) if judge else None,
        "seconds": time.perf_counter() - started,
    }


async def algorithm_1(
    row: Row,
    example: Example,
    documents: Sequence[Document],
    tools: Tools,
    gates: Gates,
    metric: Metric,
    method: Method,
    judge: Judge | None,
    paper_plan: bool,
    distils: bool,
) -> None:
    """Algorithm 1, steps 1 to 7, for the example (q, a); fills `row` on the way, so that an error loses nothing.

    The golden answers are read by `score` alone: no prompt is made from them.
    """
    question = example.question

    async def score(answer: Answer) -> float:
        if judge:
            return await judge(question, answer.text, documents, tools)
        return _checked(metric(answer.text, example.golden_answers), answer.text)

    # Step 1: s_nr, from parametric knowledge alone; another run may have asked already.
    known = row["closed_book_answer"]
    answer = await closed_book(question, tools) if known is None else Answer(known, 0, 0, 0)
    s_nr = await score(answer)
    row |= {"closed_book_answer": answer.text, "s_nr": s_nr}

    # Steps 2 and 3: D = R(q, K) is given; s_rag, unless no s_rag could pass the gate any more.
    if not (paper_plan or with_documents_needed(s_nr, gates)):
        row |= {"status": "gated", "reason": reason_without_documents(s_nr, gates)}
        return
    answer = await method.answer(question, documents, tools)
    s_rag = await score(answer)
    row |= {"rag_answer": answer.text, "s_rag": s_rag, "retrievals": answer.retrievals}
    row |= {"dropped_documents": answer.dropped_documents}

    # Step 4: utility gate.
    utility = utility_gate(s_nr, s_rag, gates)
    row |= {"delta": utility.delta, "reason": utility.reason, "status": "kept" if utility.passed else "gated"}
    if not utility.passed:
        return

    # Step 5: document gate over s_j, the score with document j alone: nothing is searched beside it.
    answers = await _together([method.answer(question, [one], replace(tools, search=None)) for one in documents])
    scores = await _together([score(answer) for answer in answers])
    kept = document_gate(s_nr, scores, gates)
    row |= {"document_answers": [answer.text for answer in answers], "document_scores": scores}
    row |= {"kept_ranks": list(kept.kept_ranks), "fallback": kept.fallback}
    row["reason"] = f"{utility.reason}; {kept.reason}"
    if not distils:
        return

    # Step 6: distillation, k = F(q, D*).
    sources = [documents[rank - 1] for rank in kept.kept_ranks]
    distilled = await distil(question, sources, tools.llm, tools.prompts, tools.distil_tokens)
    row |= {"evidence": distilled.evidence}
    row["dropped_documents"] += len(sources) - distilled.documents_read

    # Step 7: write back; the index stage adds every kept unit to K_wb.
    unit = knowledge_unit([example.id], distilled, sources, tools.llm)
    row |= {"unit_id": unit.id, "unit_title": unit.title, "unit_text": unit.text}
    row |= {"source_tokens": unit.source_tokens, "unit_tokens": unit.unit_tokens}


class CountedLLM:
    """A generator that counts calls, those that ended (`ended`), and tokens; with `remember` it asks nothing twice."""

    def __init__(self, llm: LLM, remember: bool) -> None:
        self.llm, self.remember = llm, remember
        self.max_model_len = llm.max_model_len
        self.calls = self.ended = self.calls_saved = self.prompt_tokens_sent = self.completion_tokens = 0
        self._asked: dict[Hashable, asyncio.Task[Any]] = {}

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

    def count_tokens(self, text: str) -> int:
        """As the generator's."""
        return self.llm.count_tokens(text)

    def prompt_tokens(self, content: str) -> int:
        """As the generator's."""
        return self.llm.prompt_tokens(content)

    async def _once(self, key: Hashable, calls: int, ask: Callable[[], Coroutine[Any, Any, Told]]) -> Told:
        if not self.remember:
            return await self._send(calls, ask)
        if key in self._asked:
            self.calls_saved += calls
        else:
            self._asked[key] = asyncio.ensure_future(self._send(calls, ask))
        told: Told = await self._asked[key]
        return told

    async def _send(self, calls: int, ask: Callable[[], Coroutine[Any, Any, Told]]) -> Told:
        self.calls += calls
        try:
            told = await ask()
        finally:
            self.ended += calls
        self.prompt_tokens_sent += told.prompt_tokens
        self.completion_tokens += told.completion_tokens
        return told


async def _together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results at once, in order; waits for all before the first error is raised, so that every call is counted."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for error in (result for result in results if isinstance(result, BaseException)):
        raise error
    return [result for result in results if not isinstance(result, BaseException)]


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
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
