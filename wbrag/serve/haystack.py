"""A retriever for Haystack: `Retriever(kb)`, a folder, a store or a server's URL."""

from __future__ import annotations

from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret

from wbrag.serve.hits import hits_of


@component
class Retriever:
    """Documents with `meta["sources"]`, the ids to cite; title and version stand there too."""

    def __init__(
        self,
        kb: str,
        k: int = 5,
        writeback: bool = True,
        where: str | None = None,
        groups: list[str] | None = None,
        api_key: Secret | None = None,
    ) -> None:
        """As `Hits.hits`; `api_key`: a server's, `Secret.from_env_var(...)`."""
        self.kb, self.k, self.api_key = kb, k, api_key
        self.how: dict[str, Any] = {"writeback": writeback, "where": where, "groups": groups}
        self._hits = hits_of(kb, api_key.resolve_value() or "" if api_key else "")

    def to_dict(self) -> dict[str, Any]:
        """For pipelines that are written down; of a key the variable that it is in."""
        key = self.api_key.to_dict() if self.api_key else None
        told: dict[str, Any] = default_to_dict(self, kb=self.kb, k=self.k, api_key=key, **self.how)
        return told

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Retriever:
        """Inverse of `to_dict`."""
        if key := data["init_parameters"].get("api_key"):
            data["init_parameters"]["api_key"] = Secret.from_dict(key)
        made: Retriever = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])
    def run(self, query: str, k: int | None = None) -> dict[str, list[Document]]:
        """The hits of one question."""
        (found,) = self._hits.hits([query], k or self.k, **self.how)
        return {"documents": [Document(id=o.id, content=o.text, meta=o.metadata(), score=o.score) for o in found]}
