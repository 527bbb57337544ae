"""Fixtures that several test modules share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from canaries import SECRETS
from hypothesis import settings
from nodes import Nodes, started
from tiny_model import build_tiny_model

from wbrag.config import Backbone
from wbrag.llm.vllm import VllmEngine
from wbrag.run.job import Session
from wbrag.store.vectors import gpus

# The same examples in every run, however slow the machine: a failure can be repeated.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")
#: Seeds of a test of what happens at a random moment (argument `fault_seed`).
SEEDS, LONG_SEEDS = 2, 20


def pytest_addoption(parser: pytest.Parser) -> None:
    """--long: the counts that faults are to be held in."""
    parser.addoption("--long", action="store_true", help="faults at every seed and in full number")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of a fault at a random moment is one test for each seed."""
    if "fault_seed" in metafunc.fixturenames:
        metafunc.parametrize("fault_seed", range(LONG_SEEDS if metafunc.config.getoption("long") else SEEDS))


@pytest.fixture(scope="session")
def in_full(pytestconfig: pytest.Config) -> None:
    """Skips what takes minutes, before anything is set up for it, but with --long."""
    if not pytestconfig.getoption("long"):
        pytest.skip("minutes: --long")


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether faults are tried in full number."""
    return bool(pytestconfig.getoption("long"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests: 4 logical CPUs (a resumed Ray Data run hangs with fewer), 200 MB of objects."""
    import ray

    sizes = {"num_cpus": 4, "object_store_memory": 200 * 1024**2}
    with pytest.MonkeyPatch.context() as environment:
        for name, secret in SECRETS.items():  # its workers have them, this process has not
            environment.setenv(name, secret)
        ray.init(address="local", include_dashboard=False, log_to_driver=False, **sizes)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def session(ray_session: None) -> Iterator[Session]:
    """Generators and encoders that all trainings of one backbone, encoder and cluster share: who asks for it trains."""
    with Session() as session:
        yield session


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A training takes more than some seconds however little it is trained on: Ray starts a process for every stage."""
    for item in items:
        if "session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked `gpu` is left out where there is no CUDA device."""
    if item.get_closest_marker("gpu") and not gpus():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Nodes]:
    """A Ray of a head without CPUs and two workers, one of which declares a GPU: for jobs, started as users do."""
    with started() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine on the one event loop that the engine knows."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(timeout=280)
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random-weight checkpoint."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def engine(run: object, tiny_model: Path) -> Iterator[VllmEngine]:
    """One real vLLM engine for all tests: 16 sequences at once, 256 tokens each."""
    sizes = {"max_model_len": 256, "max_num_seqs": 16, "kv_cache_gib": 0.1}
    opened = VllmEngine(Backbone("tiny", model=str(tiny_model), dtype="float32", **sizes))
    yield opened
    opened.close()  # while its loop still runs: sockets left open on a stopped one block the interpreter's exit
