"""A Ray of several nodes on this machine, for tests: a head for the driver alone, workers that declare CPUs and a GPU.

Ray schedules by what nodes declare, so a GPU that is not there is given, shared and waited for like a real one. As a
program this module holds the nodes, in a process of its own: they would replace what Ray keeps for the test process.
It starts a node again whose name it is told, and the nodes end with its standard input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from canaries import SECRETS
from forked import start_program

ROOT = Path(__file__).parents[1]
#: What each node declares. The job's driver joins the head.
NODES: dict[str, dict[str, Any]] = {
    "head": {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False},
    "gpu": {"num_cpus": 4, "num_gpus": 1, "resources": {"accelerator_type:H200": 1}},
    "cpu": {"num_cpus": 4, "num_gpus": 0},
}
#: A raylet that is gone is noticed in 2 s, where Ray takes 15. One that is slow may be as slow as ever.
SOON_MISSED = {"initial_delay_ms": "1000", "period_ms": "500", "failure_threshold": "3"}
#: Nodes and jobs have to agree, and a Ray that the test process started meanwhile says otherwise in its environment.
AUTH = {"RAY_AUTH_MODE": "disabled"}
#: A job that takes longer hangs.
JOB_SECONDS = 240.0


@dataclass(frozen=True)
class Ended:
    """A job that ended: its exit code, what it printed, its seconds, and the processes that Ray's nodes ran for it."""

    code: int
    output: str
    seconds: float
    #: Node -> (process id, title) of all that was seen there; an actor's title begins with "ray::" and its class.
    ran: dict[str, set[tuple[int, str]]] = field(default_factory=dict)

    def processes(self, node: str, name: str) -> set[int]:
        """The processes of a node whose title had this name in it."""
        return {process for process, title in self.ran[node] if name in title}


@dataclass(frozen=True)
class Nodes:
    """The running nodes: Ray's address, the process id of each node's raylet, which is the parent of its workers, where
    Ray keeps its logs, and the process that holds them.
    """

    address: str
    raylets: dict[str, int]
    folder: Path
    holder: subprocess.Popen[str]

    def job(self, log: Path, name: str, *overrides: str) -> Ended:
        """A job on this Ray, with the secrets of `canaries` in its environment; what it prints is added to `log`."""
        environment = os.environ | SECRETS | AUTH | {"RAY_ADDRESS": self.address}
        ran: dict[str, set[tuple[int, str]]] = {node: set() for node in self.raylets}
        begun, script = time.monotonic(), ROOT / "jobs" / f"{name}.py"
        driver = start_program(script, *overrides, folder=log.parent, out=log, err=log, environment=environment)
        while driver.is_alive():
            for node in ran:
                ran[node] |= self.workers(node)
            if time.monotonic() - begun > JOB_SECONDS:
                driver.kill()  # the test that waits for it shall tell what it printed
            time.sleep(0.3)
        return Ended(driver.exitcode, log.read_text(), time.monotonic() - begun, ran)

    def workers(self, node: str) -> set[tuple[int, str]]:
        """Process id and title of all that a node runs for jobs now."""
        found = set()
        with suppress(psutil.NoSuchProcess):  # the node is gone
            for process in psutil.Process(self.raylets[node]).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                    title = " ".join(process.cmdline())
                    if title.startswith("ray::"):
                        found.add((process.pid, title))
        return found

    def kill(self, node: str) -> None:
        """kill -9 of a node: its raylet and all that it runs."""
        raylet = psutil.Process(self.raylets[node])
        kill_all([raylet, *raylet.children(recursive=True)])

    def start(self, node: str) -> None:
        """A node that was killed joins again."""
        assert self.holder.stdin is not None
        self.holder.stdin.write(f"{node}\n")
        self.holder.stdin.flush()
        self.raylets.update(heard(self.holder, self.folder))


def heard(holder: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    """The next thing that the holder of the nodes tells; what Ray prints in between is passed over."""
    assert holder.stdout is not None
    told = next((line for line in holder.stdout if line.startswith("{")), None)
    assert told, (folder / "log").read_text()
    return dict(json.loads(told))


@contextmanager
def started() -> Iterator[Nodes]:
    """NODES, for the block."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # in /tmp: the path of a socket may have 107 bytes
    found = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")}
    own = {"RAY_TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    own |= {f"RAY_health_check_{name}": value for name, value in SOON_MISSED.items()}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (folder / "log").open("wb") as log:
        holder = subprocess.Popen([sys.executable, __file__], env=found | SECRETS | AUTH | own, stderr=log, **pipes)
    assert holder.stdin is not None
    try:
        yield Nodes(**heard(holder, folder), folder=folder, holder=holder)
    finally:
        holder.stdin.close()
        holder.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """kill -9 of those that there still are."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def tell(**told: object) -> None:
    """One line to whoever listens."""
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def hold() -> None:
    """Start NODES and tell of them; start each again that is asked for, until nobody listens any more."""
    from ray.cluster_utils import Cluster

    def raylet(node: Any) -> int:  # noqa: ANN401 - Ray's
        return int(node.all_processes["raylet"][0].process.pid)

    cluster = Cluster()
    try:
        nodes = {name: cluster.add_node(**declared) for name, declared in NODES.items()}
        tell(address=cluster.address, raylets={name: raylet(node) for name, node in nodes.items()})
        for line in sys.stdin:
            name = line.strip()
            cluster.remove_node(nodes[name])  # what is left of it
            nodes[name] = cluster.add_node(**NODES[name])
            tell(**{name: raylet(nodes[name])})
    finally:
        # All at once: a node that is removed takes a second, and leaves its agents behind.
        kill_all(psutil.Process().children(recursive=True))


if __name__ == "__main__":
    hold()
