"""The server's routes: search, health, metrics, the MCP tool, a page that tells them, and the pages for review.

Nothing that a page needs is fetched from another machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wbrag.config import ConfigError
from wbrag.serve.guard import Guard
from wbrag.serve.hits import LOG, MOST_HITS, MOST_QUESTIONS, Hit, Served
from wbrag.serve.review_pages import STATIC, Reviewed, review_routes
from wbrag.serve.tool import tool_server
from wbrag.store.files import StoreError

ABOUT = """Passages and knowledge units nearest to a question, each with the ids of the passages to cite.

Where the server has a key, it is to be sent as `Authorization: Bearer KEY`. Whoever has it is trusted to say for whose
eyes a search is (`groups`): the server knows no readers, the application that asks does.
"""
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=10_000)]
K = Annotated[int, Field(ge=1, le=MOST_HITS, description="hits of each question")]
Where = Annotated[str | None, Field(max_length=10_000, description="SQL over the passages' columns: `year > 1990`")]
Groups = Annotated[list[Text] | None, Field(max_length=1000, description="what the reader belongs to; needs a key")]
Writeback = Annotated[bool, Field(description="false: passages alone")]


class Search(BaseModel):
    """One question, or several."""

    model_config = ConfigDict(extra="forbid")
    question: Text | None = None
    questions: Annotated[list[Text], Field(max_length=MOST_QUESTIONS)] = []
    k: K = 5
    where: Where = None
    groups: Groups = None
    writeback: Writeback = True


class Found(BaseModel):
    """A question with its hits, best first."""

    question: str
    hits: list[Hit]


class Results(BaseModel):
    """What was found, in order of the questions."""

    results: list[Found]


class Health(BaseModel):
    """What is served."""

    status: str
    versions: dict[str, int]
    passages: int
    units: int


class Measures:
    """What Prometheus reads."""

    def __init__(self, served: Served) -> None:
        self.registry = CollectorRegistry()
        told = ["route", "status"]
        self.requests = Counter("wbrag_requests", "Requests answered", told, registry=self.registry)
        self.seconds = Histogram(
            "wbrag_request_seconds", "Seconds that a request took", ["route"], registry=self.registry
        )
        self.searching = Histogram("wbrag_search_seconds", "Seconds of a search itself", registry=self.registry)
        self.questions = Counter("wbrag_questions", "Questions searched for", registry=self.registry)
        for store in ("base", "writeback"):
            gauge = Gauge(f"wbrag_{store}_version", f"Version of the {store} store", registry=self.registry)
            gauge.set_function(lambda store=store: served.versions.get(store, 0))  # type: ignore[misc]

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request that was answered."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)


def app_of(served: Served, *, key: str = "", local: bool = False, review: bool | None = None) -> FastAPI:
    """The application. `key`: what a request has to bring, "": nothing; `local`: only hosts of this machine's own name
    are answered, so that no page of the web can reach it under a name of its own; `review`: the pages for review, by
    default where they can be. ConfigError where they cannot.
    """
    measures, tool = Measures(served), tool_server(served)
    mcp = tool.streamable_http_app(json_response=True, stateless_http=True, host="")

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        async with tool.session_manager.run():
            yield
        served.close()

    about = {"title": "wbrag", "description": ABOUT, "version": version("wbrag")}
    app = FastAPI(**about, docs_url=None, redoc_url=None, lifespan=alive, exception_handlers={})  # type: ignore[arg-type]
    app.state.reviewed = _reviewed(served, review)
    _search_routes(app, served, measures, bool(key))
    _state_routes(app, served, measures)
    if app.state.reviewed:
        app.include_router(review_routes(Reviewed(served), key))
    app.mount("/static", StaticFiles(directory=STATIC))
    app.router.routes += mcp.routes
    app.add_exception_handler(RequestValidationError, _in_one_sentence)
    app.add_middleware(Guard, key=key, local=local, answered=measures.answered)
    return app


def _reviewed(served: Served, review: bool | None) -> bool:
    """Whether units can be judged, and are to be."""
    can = served.run is not None and (served.run / "config.yaml").is_file() and served.kb.writeback is not None
    if review and not can:
        raise ConfigError(f"--review: {served.place}: is no run's folder with units, so there is nothing to judge")
    return can if review is None else review


def _search_routes(app: FastAPI, served: Served, measures: Measures, keyed: bool) -> None:
    def answer(asked: Search) -> Results:
        questions = [asked.question] if asked.question else asked.questions
        if not questions or (asked.question and asked.questions):
            raise HTTPException(422, "question or questions: one of the two is needed")
        if asked.groups is not None and not keyed:
            raise HTTPException(403, "groups: are believed only with a key; start the server with --api-key-env")
        how = {"writeback": asked.writeback, "where": asked.where, "groups": asked.groups}
        begin = time.perf_counter()
        try:
            found = served.hits(questions, asked.k, **how)  # type: ignore[arg-type]
        except StoreError as error:
            LOG.error("%s: a search failed: %s", served.place, error)
            raise HTTPException(503, "the knowledge base cannot be searched; the server's log says why") from error
        except ValueError as error:
            raise HTTPException(400, _without_paths(str(error), str(served.place))) from error
        measures.searching.observe(time.perf_counter() - begin)
        measures.questions.inc(len(questions))
        pairs = zip(questions, found, strict=True)
        return Results(results=[Found(question=question, hits=hits) for question, hits in pairs])

    @app.post("/search", tags=["search"])
    def search(asked: Search) -> Results:
        """Search for one question or several."""
        return answer(asked)

    @app.get("/search", tags=["search"])
    def search_by_url(
        question: Annotated[Text, Query()],
        k: Annotated[K, Query()] = 5,
        where: Annotated[Where, Query()] = None,
        groups: Annotated[Groups, Query()] = None,
        writeback: Annotated[Writeback, Query()] = True,
    ) -> Results:
        """Search for one question, as a link or with curl."""
        return answer(Search(question=question, k=k, where=where, groups=groups, writeback=writeback))


def _state_routes(app: FastAPI, served: Served, measures: Measures) -> None:
    @app.get("/health", tags=["state"])
    async def health() -> Health:
        """Whether questions are answered, and from which versions; no key is needed."""
        units = served.kb.writeback
        rows = {"passages": served.kb.base.rows, "units": units.rows if units else 0}
        return Health(status="ok", versions=served.versions, **rows)

    @app.get("/metrics", tags=["state"], response_class=Response)
    async def metrics() -> Response:
        """Counts and seconds, as Prometheus reads them; no key is needed."""
        return Response(generate_latest(measures.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")


async def _in_one_sentence(request: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request, with the name of the field."""
    assert isinstance(error, RequestValidationError)
    told = [f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}" for one in error.errors()]
    return JSONResponse({"detail": "; ".join(told)}, 422)


def _without_paths(told: str, place: str) -> str:
    """An error in one line, without where files of the server's lie."""
    line = " ".join(told.replace(f"{place}/base", "the base").replace(place, "the knowledge base").split())
    return re.split(r", (?:/|rust/)|; give it as", line)[0]
