"""The knowledge base in other hands: the MCP tool by the real client, retrievers in the libraries that they are for."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from served_run import UNITS, served_run
from test_serve_page import KEY, listening

from wbrag.serve.app import app_of
from wbrag.serve.hits import Served, hits_of
from wbrag.serve.tool import tool_server
from wbrag.store.files import StoreError

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # Haystack would tell its makers of each pipeline
ROOT = Path(__file__).parents[1]
QUESTION = "Where does Tarnholm lie?"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def address(made: Path) -> Iterator[str]:
    """A server of the run, with a key."""
    with listening(app_of(Served(made), key=KEY)) as address:
        yield address


@pytest.fixture(params=["folder", "server"])
def kb(request: pytest.FixtureRequest, made: Path, address: str) -> tuple[str, str]:
    """The same knowledge base as it may be named, with the key that it takes."""
    return (str(made), "") if request.param == "folder" else (address, KEY)


def expected(made: Path, k: int = 3) -> list[tuple[str, list[str]]]:
    """Ids and what to cite."""
    return [(hit.id, hit.sources) for hit in Served(made).hits([QUESTION], k)[0]]


async def _asked(server: Any, **given: Any) -> Any:  # noqa: ANN401 - the client's
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        assert [one.name for one in tools] == ["search"]
        assert {"question", "k"} == set(tools[0].input_schema["properties"])
        return await client.call_tool("search", given)


def told(result: Any) -> list[tuple[str, list[str]]]:  # noqa: ANN401 - the client's
    assert not result.is_error, result.content
    return [(hit["id"], hit["sources"]) for hit in result.structured_content["result"]]


def test_an_agent_searches_in_process(made: Path) -> None:
    assert told(asyncio.run(_asked(tool_server(Served(made)), question=QUESTION, k=3))) == expected(made)
    refused = asyncio.run(_asked(tool_server(Served(made)), question=QUESTION, k=0))
    assert refused.is_error
    assert "greater than or equal to 1" in refused.content[0].text


def test_an_agent_searches_over_http_with_the_key(made: Path, address: str) -> None:
    import httpx2

    async def asked(key: str) -> Any:  # noqa: ANN401 - the client's
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as http:
            return await _asked(streamable_http_client(f"{address}/mcp", http_client=http), question=QUESTION, k=3)

    assert told(asyncio.run(asked(KEY))) == expected(made)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the client makes of a 401
        asyncio.run(asked("wrong"))


def test_an_agent_starts_the_tool_itself(made: Path) -> None:
    """The command of docs/serving.md, over standard input and output."""
    words = [str(ROOT / "jobs" / "serve.py"), str(made), "--mcp"]
    server = StdioServerParameters(command=sys.executable, args=words, env={"PYTHONPATH": str(ROOT)})
    assert told(asyncio.run(_asked(server, question=QUESTION, k=3))) == expected(made)


def test_langchain_retrieves(made: Path, kb: tuple[str, str]) -> None:
    from langchain_core.retrievers import BaseRetriever

    from wbrag.serve.langchain import Retriever

    retriever = Retriever(kb=kb[0], k=3, api_key=kb[1])
    assert isinstance(retriever, BaseRetriever)
    found = (retriever | (lambda documents: documents)).invoke(QUESTION)
    assert [(one.id, one.metadata["sources"]) for one in found] == expected(made)
    assert {one.metadata["store"] for one in found} == {"base", "writeback"}
    assert all(("year" in one.metadata) <= (one.metadata["store"] == "base") for one in found)
    assert UNITS["harmful"]["text"] in [one.page_content for one in found]
    assert json.loads(json.dumps(found[0].metadata))["title"]
    alone = Retriever(kb=kb[0], k=3, api_key=kb[1], writeback=False, where="year > 1990")
    assert {one.id for one in alone.invoke(QUESTION)} == {"p-0077", "p-1290"}
    assert KEY not in repr(retriever)
    with pytest.raises(StoreError, match=r"/nowhere: no such folder$"):
        Retriever(kb=f"{made}/nowhere")


def test_llama_index_retrieves(made: Path, kb: tuple[str, str]) -> None:
    from llama_index.core.retrievers import BaseRetriever

    from wbrag.serve.llama_index import Retriever

    retriever = Retriever(kb[0], k=3, api_key=kb[1])
    assert isinstance(retriever, BaseRetriever)
    found = retriever.retrieve(QUESTION)
    assert [(one.node.node_id, one.node.metadata["sources"]) for one in found] == expected(made)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert {one.node.node_id for one in Retriever(kb[0], 3, kb[1], where="year > 1990").retrieve(QUESTION)} == {
        "p-0077",
        "p-1290",
    }


def test_haystack_retrieves(made: Path, kb: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from haystack import Pipeline
    from haystack.utils import Secret

    from wbrag.serve.haystack import Retriever

    monkeypatch.setenv("KB_KEY", kb[1])
    pipeline = Pipeline()
    pipeline.add_component("retriever", Retriever(kb[0], k=3, api_key=Secret.from_env_var("KB_KEY", strict=False)))
    written = pipeline.dumps()
    assert KEY not in written
    for one in (pipeline, Pipeline.loads(written, allowed_modules=["wbrag.serve.haystack"])):
        found = one.run({"retriever": {"query": QUESTION}})["retriever"]["documents"]
        assert [(document.id, document.meta["sources"]) for document in found] == expected(made)
    assert len(pipeline.run({"retriever": {"query": QUESTION, "k": 1}})["retriever"]["documents"]) == 1


def test_a_server_that_refuses_or_is_not_there_is_told(address: str, made: Path) -> None:
    with pytest.raises(ValueError, match="401: the API key is missing or wrong"):
        hits_of(address).hits(["x"], 3)
    with pytest.raises(ValueError, match="422: k: Input should be greater"):
        hits_of(address, f" {KEY}\n").hits(["x"], 0)
    with pytest.raises(OSError, match="refused"):
        hits_of("http://127.0.0.1:9").hits(["x"], 3)
