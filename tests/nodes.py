"""A Ray of several nodes on this machine, for tests: a head for the driver alone, workers that declare CPUs and a GPU.

Ray schedules by what nodes declare, so a GPU that is not there is given, shared and waited for like a real one. As a
program this module holds the nodes, in a process of its own: they would replace what Ray keeps for the test process.
They end with its standard input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
#: What each node declares. The job's driver joins the head.
NODES: dict[str, dict[str, Any]] = {
    "head": {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False},
    "gpu": {"num_cpus": 4, "num_gpus": 1, "resources": {"accelerator_type:H200": 1}},
    "cpu": {"num_cpus": 4, "num_gpus": 0},
}


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
    """The running nodes: Ray's address and the process id of each node's raylet, which is the parent of its workers."""

    address: str
    raylets: dict[str, int]

    def job(self, log: Path, name: str, *overrides: str) -> Ended:
        """A job as a user starts it on this Ray; what it prints goes to `log`."""
        environment = os.environ | {"RAY_ADDRESS": self.address, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *overrides]
        ran: dict[str, set[tuple[int, str]]] = {node: set() for node in self.raylets}
        begun = time.monotonic()
        with log.open("wb") as out:
            driver = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=out, stderr=out)
            while driver.poll() is None:
                for node, raylet in self.raylets.items():
                    ran[node] |= workers(raylet)
                time.sleep(0.3)
        return Ended(driver.returncode, log.read_text(), time.monotonic() - begun, ran)


def workers(raylet: int) -> set[tuple[int, str]]:
    """Process id and title of all that a node runs for jobs now."""
    found = set()
    for process in psutil.Process(raylet).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            title = " ".join(process.cmdline())
            if title.startswith("ray::"):
                found.add((process.pid, title))
    return found


@contextmanager
def started() -> Iterator[Nodes]:
    """NODES, for the block."""
    folder = tempfile.mkdtemp(prefix="ray")  # in /tmp: the path of a socket may have 107 bytes
    found = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES")}
    own = {"RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with Path(folder, "log").open("wb") as log:
        holder = subprocess.Popen([sys.executable, __file__], env=found | own, stderr=log, **pipes)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        told = next((line for line in holder.stdout if line.startswith("{")), None)
        assert told, Path(folder, "log").read_text()
        yield Nodes(**json.loads(told))
    finally:
        holder.stdin.close()
        holder.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def hold() -> None:
    """Start NODES, tell of them in one line, and end them when nobody listens any more."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        raylets = {}
        for name, declared in NODES.items():
            node = cluster.add_node(**declared)
            raylets[name] = node.all_processes["raylet"][0].process.pid
        sys.stdout.write(json.dumps({"address": cluster.address, "raylets": raylets}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    hold()
