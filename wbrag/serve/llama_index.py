"""A retriever for LlamaIndex: `Retriever(kb)`, a folder, a store or a server's URL."""

from __future__ import annotations

from typing import Any

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from wbrag.serve.hits import hits_of


class Retriever(BaseRetriever):
    """Nodes with `metadata["sources"]`, the ids to cite; title and version stand there too."""

    def __init__(self, kb: str, k: int = 5, api_key: str = "", **how: Any) -> None:  # noqa: ANN401 - as Hits.hits
        """`how`: `writeback`, `where`, `groups` of `Hits.hits`."""
        super().__init__()
        self._hits, self._k, self._how = hits_of(kb, api_key), k, how

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        (found,) = self._hits.hits([query_bundle.query_str], self._k, **self._how)
        return [
            NodeWithScore(node=TextNode(id_=o.id, text=o.text, metadata=o.metadata()), score=o.score) for o in found
        ]
