"""The two gates of Algorithm 1 (paper, section 3.2): pure decisions that carry their numbers and their reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wbrag.config import Gates


@dataclass(frozen=True, slots=True)
class Decision:
    """The utility gate's verdict on one example: `delta` is s_rag - s_nr; `reason` says which rule decided."""

    passed: bool
    delta: float
    reason: str


@dataclass(frozen=True, slots=True)
class DocumentDecision:
    """The document gate's verdict: `kept_ranks` are 1-based and ascending."""

    kept_ranks: tuple[int, ...]
    fallback: bool
    reason: str


def utility_gate(s_nr: float, s_rag: float, gates: Gates) -> Decision:
    """Step 4: does retrieval help this example? Passes when delta > tau_delta and s_rag > tau_s, both strictly.

    `s_nr` is the closed-book score and `s_rag` the score with all retrieved documents, both in 0..1. The first rule
    drops what the model knows already or what retrieval does not help, the second an answer that is still wrong.
    """
    delta = s_rag - s_nr
    useful = f"delta {_compared(delta, 'tau_delta', gates.tau_delta)}"
    right = f"s_rag {_compared(s_rag, 'tau_s', gates.tau_s)}"
    failed = useful if not delta > gates.tau_delta else right if not s_rag > gates.tau_s else ""
    told = f"gated: {failed}" if failed else f"passed: {useful} and {right}"
    return Decision(not failed, delta, f"{told} (s_nr {s_nr:.2f}, s_rag {s_rag:.2f})")


def document_gate(s_nr: float, scores: Sequence[float], gates: Gates) -> DocumentDecision:
    """Step 5: which documents help by themselves? Keeps rank j when s_j - s_nr > tau_doc, strictly.

    `scores[j - 1]` is s_j, the score with the document of retrieval rank j alone. Where none passes, the top `n_min` by
    retrieval rank are taken (fewer where fewer were retrieved) and `fallback` is set.
    """
    gains = [s_j - s_nr for s_j in scores]
    kept = tuple(rank for rank, gain in enumerate(gains, 1) if gain > gates.tau_doc)
    told, every = f"tau_doc {gates.tau_doc!r}", ", ".join(_short(gain, gates.tau_doc) for gain in gains)
    if kept:
        many, ranks = len(kept) > 1, ", ".join(map(str, kept))
        gain = f"{len(kept)} of {len(gains)} documents {'gain' if many else 'gains'} more than {told}"
        return DocumentDecision(kept, False, f"{gain}: rank{'s' * many} {ranks} (gains {every})")
    top = tuple(range(1, min(gates.n_min, len(gains)) + 1))
    told = f"fallback to the top {len(top)} of {len(gains)}: no document gains more than {told} (gains {every})"
    return DocumentDecision(top, True, told)


def with_documents_needed(s_nr: float, gates: Gates) -> bool:
    """Whether any s_rag <= 1 could still pass the utility gate; if not, the with-documents call cannot matter.

    Exact in floating point: both rules are monotone in s_rag, so the best score decides.
    """
    return utility_gate(s_nr, 1.0, gates).passed


def reason_without_documents(s_nr: float, gates: Gates) -> str:
    """The reason of an example for which `with_documents_needed` is false: the rule, at the best score there is."""
    return f"{utility_gate(s_nr, 1.0, gates).reason.removesuffix(')')} at best, not asked)"


def _compared(value: float, name: str, threshold: float) -> str:
    relation = ">" if value > threshold else "<="
    return f"{_short(value, threshold)} {relation} {name} {threshold!r}"


def _short(value: float, threshold: float) -> str:
    """Two decimals, or as many as it takes for the number to read on its own side of the threshold."""
    texts = (f"{value:.{digits}f}" for digits in (2, 4, 8))
    return next((text for text in texts if (float(text) > threshold) == (value > threshold)), repr(value))
