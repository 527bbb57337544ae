"""WriteBack-RAG: train the knowledge base of a RAG system. `from wbrag import KnowledgeBase` opens one for search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbrag.store.search import KnowledgeBase as KnowledgeBase

    __version__: str


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for, imported only then
    if name == "KnowledgeBase":
        from wbrag.store.search import KnowledgeBase

        return KnowledgeBase
    if name == "__version__":
        from importlib.metadata import version

        return version("wbrag")
    raise AttributeError(f"module 'wbrag' has no attribute {name!r}")
