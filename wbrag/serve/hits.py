"""Hits with what to cite, from a knowledge base in this process or from a server of one."""

from __future__ import annotations

import json
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

import numpy as np

from wbrag.retrieval.encoder import Encoder
from wbrag.schema import Document
from wbrag.store.place import Place, Where, place_of
from wbrag.store.rows import rows_of
from wbrag.store.search import KnowledgeBase, base_of
from wbrag.store.versions import current, opened_encoder, read_version

LOG = logging.getLogger(__name__)
#: The most questions that one request may have, and hits that it may ask for.
MOST_QUESTIONS, MOST_HITS = 256, 1000


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage or unit that was found. `source`: "base" or "writeback"; `sources`: ids of the passages to cite, of a
    unit those that it was made of, of a passage its own; `version`: that of the store it lies in; `columns`: the other
    keys that a passage's corpus brought, as the file, section and page that it was cut out of.
    """

    id: str
    title: str
    text: str
    score: float
    source: str
    sources: list[str]
    version: int
    columns: dict[str, Any]

    def metadata(self) -> dict[str, Any]:
        """All but the text, as other libraries keep it: the corpus's columns by their names (`source`: the file), and
        which store it lies in as `store`.
        """
        own = {"title": self.title, "score": self.score, "sources": self.sources, "version": self.version}
        return {**self.columns, **own, "id": self.id, "store": self.source}


class How(TypedDict, total=False):
    """How questions are searched for. `writeback` False: passages alone (True); `where`: SQL over the passages' columns
    (None); `groups`: whose eyes it is for, None: nobody's in particular, so only what everybody may see.
    """

    writeback: bool
    where: str | None
    groups: Sequence[str] | None


class Served:
    """A knowledge base that many threads search while its versions change."""

    def __init__(self, kb: Where, follow: float = 0.0) -> None:
        """`kb`: a run's folder or a store; `follow`: seconds between looks for a newer pair, 0: `kb.refresh` looks.
        StoreError, ConfigError: it cannot be opened.
        """
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a model that loads draws bars otherwise
        self.place = place_of(kb)
        run = None if self.place.remote else Path(self.place.root)
        base = base_of(run) if run else None
        #: The folder of the run, None where the knowledge base is one store.
        self.run = run if base else None
        self.base: Place = place_of(base) if base else self.place
        self.units = place_of(f"{self.place}/writeback")
        self.encoder = opened_encoder(self.base, current(self.base))
        self.kb = KnowledgeBase.open(self.place, encoder=self.encoder, follow=follow, columns=True)
        self._encoded, self._cited = Together(self.encoder), dict[str, list[str]]()

    def close(self) -> None:
        """Look for no newer version any more, and let the pair go."""
        self.kb.close()

    @property
    def versions(self) -> dict[str, int]:
        """The version of each store that is searched."""
        units = self.kb.writeback
        return {"base": self.kb.base.version} | ({"writeback": units.version} if units else {})

    def told(self) -> str:
        """What is served, in words."""
        base, units = self.kb.base, self.kb.writeback
        told = f"{base.rows:,} passages (version {base.version})"
        return told + (f", {units.rows:,} units (version {units.version})" if units else ", no units")

    def hits(self, questions: Sequence[str], k: int, **how: Unpack[How]) -> list[list[Hit]]:
        """For each question its k best hits, best first; fewer where fewer are live, more where units stand beside.
        ValueError: what cannot be searched for.
        """
        xq, where, writeback = self._encoded(list(questions)), how.get("where"), how.get("writeback", True)
        given: dict[str, Any] = {"where": where, "questions": list(questions), "groups": list(how.get("groups") or ())}
        try:
            found = self.kb.search(xq, k, writeback=writeback, **given)
        except ValueError:
            if where is None or not writeback:
                raise
            found = self.kb.search(xq, k, writeback=False, **given)  # a column of passages alone: no unit is like that
        self._learn(found)
        return [[self._hit(one) for one in some] for some in found]

    def _learn(self, found: list[list[Document]]) -> None:
        """What all of it cites; a unit's id says its sources, so that stays true."""
        new = {one.id: one.version for some in found for one in some if one.source == "writeback"}
        new = {key: version for key, version in new.items() if key not in self._cited}
        for number in set(new.values()):
            rows = rows_of(self.units, read_version(self.units, number), [key for key in new if new[key] == number])
            for row in rows.select(["id", "source_ids"]).to_pylist():
                self._cited[row["id"]] = list(row["source_ids"] or [])

    def _hit(self, one: Document) -> Hit:
        cited = self._cited.get(one.id, []) if one.source == "writeback" else [one.id]
        own = (one.id, one.title, one.text, float(one.score), one.source, cited, one.version)
        return Hit(*own, dict(one.columns))


class Together:
    """An encoder that many threads ask: what comes while it encodes waits and is then encoded together, which takes
    two thirds of the time of one after the other (a tokenizer that two threads use at once raises "Already borrowed").
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self._list, self._turn = encoder, threading.Lock(), threading.Lock()
        self._waiting: list[tuple[list[str], Future[np.ndarray]]] = []

    def __call__(self, questions: list[str]) -> np.ndarray:
        """Vectors of questions, as `Encoder.encode_queries`."""
        mine: Future[np.ndarray] = Future()
        with self._list:
            self._waiting.append((questions, mine))
        with self._turn:
            if not mine.done():
                with self._list:
                    some, self._waiting = self._waiting, []
                self._encode(some)
        return mine.result()

    def _encode(self, some: list[tuple[list[str], Future[np.ndarray]]]) -> None:
        try:
            xq = self._encoder.encode_queries([question for questions, _ in some for question in questions])
        except Exception as error:
            if len(some) == 1:
                some[0][1].set_exception(error)
            else:  # nobody pays for another's question
                for one in some:
                    self._encode([one])
            return
        for questions, asked in some:
            asked.set_result(xq[: len(questions)])
            xq = xq[len(questions) :]


class Remote:
    """A server of a knowledge base, asked over HTTP."""

    def __init__(self, url: str, api_key: str = "", timeout: float = 30.0) -> None:
        """`url`: the server's, without /search; `timeout`: seconds that an answer may take."""
        self.url, self.timeout = url.rstrip("/") + "/search", timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key.strip():
            self._headers["Authorization"] = f"Bearer {api_key.strip()}"

    def hits(self, questions: Sequence[str], k: int, **how: Unpack[How]) -> list[list[Hit]]:
        """As `Served.hits`. ValueError with the server's words where it refuses, ConnectionError where none answers."""
        asked = {"questions": list(questions), "k": k, **how}
        request = urllib.request.Request(self.url, json.dumps(asked).encode(), self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")
            raise ValueError(f"{self.url}: {error.code}: {_detail(said)}") from None
        except (OSError, HTTPException) as error:
            told = f"{self.url}: no answer ({getattr(error, 'reason', '') or error})"
            raise ConnectionError(f"{told}; is `wbrag serve` running there? give the address that it prints") from None
        return [[Hit(**one) for one in some["hits"]] for some in told["results"]]


def _detail(said: str) -> str:
    """What a server says is wrong, cut where it is long."""
    try:
        return str(json.loads(said)["detail"])[:300]
    except (ValueError, TypeError, KeyError):
        return said[:300]


#: Who finds: for each question its k best hits.
Hits: TypeAlias = Served | Remote


def hits_of(kb: Where, api_key: str = "") -> Hits:
    """Who finds in a knowledge base: of an http(s) URL the server there, asked with this key, else a `Served`."""
    return Remote(str(kb), api_key) if str(kb).startswith(("http://", "https://")) else Served(kb)
