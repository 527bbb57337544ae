"""A retriever for LangChain: `Retriever(kb=...)`, a folder, a store or a server's URL."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import PrivateAttr, SecretStr

from wbrag.serve.hits import Hits, hits_of


class Retriever(BaseRetriever):
    """Documents with `metadata["sources"]`, the ids to cite; score, title and version stand there too."""

    kb: str
    k: int = 5
    writeback: bool = True
    where: str | None = None
    groups: list[str] | None = None
    api_key: SecretStr = SecretStr("")
    _hits: Hits = PrivateAttr()

    def __init__(self, *args: Any, **given: Any) -> None:  # noqa: ANN401 - LangChain's
        """Open what is to be searched, after pydantic has looked at the fields: it would wrap what that raises."""
        super().__init__(*args, **given)
        self._hits = hits_of(self.kb, self.api_key.get_secret_value())

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        (found,) = self._hits.hits([query], self.k, writeback=self.writeback, where=self.where, groups=self.groups)
        return [Document(id=one.id, page_content=one.text, metadata=one.metadata()) for one in found]
