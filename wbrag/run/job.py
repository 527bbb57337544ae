"""Ray's session, and the one plan of all that generators do: read, generate block by block, write, checkpointed."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pyarrow.parquet as pq

from wbrag.config import Cluster, ConfigError, Encoder, TrainConfig, fingerprint
from wbrag.retrieval.encoding import Encoders
from wbrag.run.actors import Dispatcher, Generators, Stage
from wbrag.run.lookup import distinct
from wbrag.run.placement import NODES_SECONDS, Places, gpus_of_engine, placed
from wbrag.run.progress import Counts, shown, watched, working
from wbrag.run.record import RunRecord
from wbrag.run.reuse import reuse, reused

log = logging.getLogger(__name__)

#: Ray's reports about itself, off unless the user set them.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray Data's own actors draw an "error" of each run (ray-project/ray#53727)
    "RAY_LOG_TO_DRIVER": "0",  # what libraries print in the workers while they load; errors say where it is
    # Actors that take no logical CPU are more processes than Ray expects; what a lost node did is asked for again.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node|infinite retries remaining",
}
#: What Ray's C++ writes to the stderr of each driver before it heeds RAY_BACKEND_LOG_LEVEL.
LEVEL_IS_SET = b"Set ray log level from environment variable"
#: What is said while Ray starts is held back for so long; then somebody waits, and wants to see it.
SLOW_SECONDS = 20.0
#: What a stage waits for until its first example begins, by the backbone's kind.
WAITING = {"vllm": "loading the model", "openai": "starting", "scripted": "starting"}
#: The longest folder that Ray's sockets may lie under, bytes: their paths end at 107, and Ray adds so many.
LONGEST_TMPDIR = 107 - len("/ray/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store")
#: What a client of gRPC sends first, and the type of the frame that a server answers with.
PREFACE, SETTINGS_FRAME = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 4
#: The settings of a cluster that say what runs where: where one changes, places and all that is in them are given up.
PLACING = ("engines", "encoders", "gpus", "encoder_gpus", "accelerator", "min_engines")
#: The files that a table of many rows has, about, and the most rows of one. A file comes into being at once: what a
#: killed run had not written yet is asked again.
TABLE_FILES, FILE_ROWS = 100, 1024
#: Bytes of a block that Ray Data reads: larger ones take the room of the rows that wait to become a file, and where
#: that is used up it lets one task go in ten seconds. A block of rows that were generated is far below.
BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """A run in progress: its settings, its folder, its record; `before`: of an update, the folder of the tables as they
    were, whose rows stay where nothing that they were made of has changed (`wbrag.run.reuse`).
    """

    cfg: TrainConfig
    run: Path
    record: RunRecord
    before: Path | None = None


@contextmanager
def ray_session(cluster: Cluster) -> Iterator[None]:
    """Ray for the block: the cluster of RAY_ADDRESS or of an earlier ray.init, else one of this machine's own."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    with _starting():
        import ray
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        owned = not ray.is_initialized()
        logs = _joined(cluster) if owned else ""
    try:
        yield
    except Exception as error:
        if logs:
            error.add_note(f"The workers' own output is in {logs}")
        raise
    finally:
        if owned:
            ray.shutdown()


def _joined(cluster: Cluster) -> str:
    """Join the cluster of RAY_ADDRESS, or start one; returns where the workers' own output is."""
    import ray

    if address := os.environ.get("RAY_ADDRESS"):
        check_address(address)
        try:
            ray.init(logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"RAY_ADDRESS={address}: {' '.join(str(error).split())}") from error
        return "logs/ of Ray's session folder on each node; RAY_LOG_TO_DRIVER=1 brings it here"
    # Ray guards itself with a token. Where none is given it keeps one in the home directory, which may be read-only.
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Logical CPUs, not cores: too few, and a resumed plan waits for ever (wbrag.run.inputs.LEAST).
    try:
        context: Any = ray.init(
            address="local",
            num_cpus=cluster.logical_cpus,
            object_store_memory=cluster.object_store_mib << 20,
            include_dashboard=False,
            logging_level=logging.ERROR,
            _temp_dir=sockets_folder(),
        )
    except OSError as error:
        raise ConfigError(f"Ray cannot start: {error}; TMPDIR or RAY_TMPDIR names a folder for its files") from error
    return f"{context.address_info['session_dir']}/logs"


def check_address(address: str) -> None:
    """ConfigError for an address of a Ray cluster at which none answers, at once: Ray itself tries for minutes."""
    if address.startswith(("http://", "https://")):
        told = "is the address of jobs (`ray job submit --address`); a driver needs that of the head node, HOST:6379"
        raise ConfigError(f"RAY_ADDRESS={address}: {told}, or no RAY_ADDRESS")
    host, _, port = address.rpartition(":")
    if "://" in address or (not host and not port.isdigit()):  # ray://, auto, local
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
            connection.sendall(PREFACE)
            answers = os.environ.get("RAY_USE_TLS") == "1" or connection.recv(9)[3:4] == bytes([SETTINGS_FRAME])
    except (OSError, ValueError) as error:
        raise ConfigError(f"RAY_ADDRESS={address}: no Ray cluster answers there: {error}") from error
    if not answers:
        raise ConfigError(f"RAY_ADDRESS={address}: what answers there is no head node of Ray (HOST:6379)")


def sockets_folder() -> str | None:
    """The folder that Ray's session is to lie in; None, Ray's own choice, where its sockets' paths are short enough."""
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    if (length := len(os.fsencode(chosen))) <= LONGEST_TMPDIR:
        return None
    folder = Path("/tmp") / f"ray-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    if not os.access(folder, os.W_OK):
        told = f"{length} bytes > {LONGEST_TMPDIR}, and {folder} cannot be written"
        raise ConfigError(f"TMPDIR={chosen}: too long for Ray's sockets, {told}; set RAY_TMPDIR to a shorter folder")
    return str(folder)


@contextmanager
def _starting() -> Iterator[None]:
    """Ray starts in the block: without LEVEL_IS_SET on stderr, of which the rest is held back until the end, or for
    SLOW_SECONDS at a time; and with this process's own handler of SIGTERM afterwards, which ray.init takes away.
    """
    handler, stderr, over = signal.getsignal(signal.SIGTERM), os.dup(2), threading.Event()
    with TemporaryFile() as said, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "lance is not fork-safe")  # what Ray forks executes another program

        def let_out() -> None:
            done, at = False, 0
            while not done:
                done = over.wait(SLOW_SECONDS)
                new = os.pread(said.fileno(), os.fstat(said.fileno()).st_size - at, at)
                told = new if done else new[: new.rfind(b"\n") + 1]  # whole lines
                at += len(told)
                for line in told.splitlines(keepends=True):
                    if LEVEL_IS_SET not in line:
                        os.write(stderr, line)

        os.dup2(said.fileno(), 2)
        slow = threading.Thread(target=let_out, daemon=True)
        slow.start()
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            over.set()
            slow.join()
            os.close(stderr)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


class Session(ExitStack):
    """Ray, one set of generators and one of encoders, for one run or for all points of a sweep in this process.

    Ray starts with the first point. The generators stay for the next point where backbone and cluster are the same;
    a point of another backbone replaces them, so that two models never hold one device's memory. The encoders stay
    where the encoder is the same. What they run on is reserved for as long as points ask for the same (PLACING).
    """

    def __init__(self) -> None:
        super().__init__()
        self.generators: Generators | None = None
        self.encoders: Encoders | None = None
        self.places: Places | None = None
        self.keys = {"places": "", "generators": ""}
        self.patience: float | None = None  # None: Ray has not started

    def room(self, cluster: Cluster, engine_gpus: int) -> Places:
        """Places for engines of so many GPUs and for encoders; Ray is started if need be. Nothing is reserved yet.

        ConfigError, with both numbers, where the cluster cannot hold them.
        """
        if self.patience is None:
            with working("starting Ray"):
                self.enter_context(ray_session(cluster))
            self.callback(self.stop)
            self.patience = NODES_SECONDS
        key = fingerprint([getattr(cluster, name) for name in PLACING], engine_gpus)
        if self.places is None or key != self.keys["places"]:
            patience, self.patience = self.patience, 0.0  # nodes are waited for once, not in each point of a sweep
            plan = placed(cluster, engine_gpus, patience)
            self.stop()
            self.generators, self.encoders, self.places, self.keys["places"] = None, None, Places(plan), key
        return self.places

    def open(self, cfg: TrainConfig) -> Generators:
        """The generators for this configuration, with the session's encoders; their engines start when asked for."""
        engine_gpus = gpus_of_engine(cfg.cluster, cfg.backbone)
        places, encoders = self.room(cfg.cluster, engine_gpus), self.lend(cfg.encoder, cfg.cluster, engine_gpus)
        key = fingerprint(cfg.backbone, cfg.cluster)
        if self.generators is None or key != self.keys["generators"]:
            if self.generators:
                self.generators.stop()
            self.generators, self.keys["generators"] = Generators(cfg, places), key
        if places.plan.turns:
            self.generators.make_room, encoders.make_room = encoders.stop, self.generators.stop
        self.generators.encoders = encoders
        return self.generators

    def lend(self, encoder: Encoder, cluster: Cluster, engine_gpus: int = 0) -> Encoders:
        """The encoders of this kind, beside engines of so many GPUs; they start when asked for."""
        places = self.room(cluster, engine_gpus)
        if self.encoders is None or self.encoders.encoder != encoder:
            if self.encoders:
                self.encoders.stop()
            on_gpus = places.encoders if places.plan.encoders else None
            self.encoders = Encoders(encoder, cluster, on_gpus, places.plan.encoder_gpus)
            self.encoders.watched = watched
        return self.encoders

    def stop(self) -> None:
        """End generators and encoders and give their places back; the next point starts new ones."""
        for actors in (self.generators, self.encoders):
            if actors:
                actors.stop()
        if self.places:
            self.places.give_back()


def check_room(cfg: TrainConfig, session: Session | None) -> None:
    """ConfigError where the cluster of a session has too few GPUs for a run, before a large corpus is read for it."""
    if session and cfg.cluster.gpus:
        session.room(cfg.cluster, gpus_of_engine(cfg.cluster, cfg.backbone))


@contextmanager
def opened(cfg: TrainConfig, session: Session | None) -> Iterator[Generators]:
    """The generators for the block: of `session`, where they outlive it, or of a session of its own.

    A block that fails ends them, so that what broke one point of a sweep does not break the next.
    """
    with nullcontext(session) if session else Session() as current:
        try:
            yield current.open(cfg)
        except BaseException:
            current.stop()
            raise


def checkpoint_folder(job: Job, table: str) -> Path:
    """Where Ray Data notes which ids of a table are written; the name holds the hash of all that changes a result."""
    return job.run / "checkpoints" / job.record.hash / table


def written_ids(job: Job, table: str) -> int:
    """Rows of a table that are written for good; those of a file whose write was cut off do not count."""
    noted = checkpoint_folder(job, table).glob("*.parquet")
    whole = [file for file in noted if not file.name.endswith(".pending.parquet")]
    # Rows that an update reuses are noted nowhere: Ray Data would start an actor to look for their ids in its source.
    return sum(pq.read_metadata(file).num_rows for file in (*whole, *reused(job.run / table)))


def complete(job: Job, table: str, goal: int) -> bool:
    """Whether a table has all its `goal` rows."""
    return written_ids(job, table) == goal


@contextmanager
def checkpoints(folder: Path) -> Iterator[None]:
    """Plans made in the block skip the ids noted in `folder`, and note those they write."""
    from ray.data import DataContext
    from ray.data.checkpoint import CheckpointConfig

    folder.mkdir(parents=True, exist_ok=True)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.use_datasource_v2 = False  # it starts 32 processes to read the footers of one file
    config = CheckpointConfig(id_column="id", checkpoint_path=str(folder), delete_checkpoint_on_success=False)
    config.checkpoint_actor_pool_max_size = 1  # each takes a logical CPU; one filters a hundred thousand ids at once
    context.checkpoint_config = config
    try:
        yield
    finally:
        context.checkpoint_config = None


def file_rows(goal: int, block_rows: int) -> int | None:
    """The rows, at least, of a file of a table of `goal` rows; None where each block is one."""
    rows = min(goal // TABLE_FILES, FILE_ROWS)
    return rows if rows > block_rows else None


def tell_unwhole(stage: str, counts: Counts) -> None:
    """Warn of replies that were cut by the token limit, and of empty ones: they are scored as they are."""
    if counts["cut"]:
        told = "raise backbone.answer_tokens or distil_tokens where they end too early"
        log.warning("%s: %d of %d replies were cut by the token limit; %s", stage, counts["cut"], counts["calls"], told)
    if counts["empty"]:
        log.warning("%s: %d of %d replies are empty and score as such", stage, counts["empty"], counts["calls"])


def generate(job: Job, generators: Generators, stage: Stage, source: Path, table: str, goal: int) -> None:
    """Fill a table of the run: read `source`, let the generators do `stage.work` block by block, write.

    Blocks of a large table are written some together, as one file with one checkpoint. Ids that are written already are
    not read again. RuntimeError where the table does not hold `goal` ids, each once.
    """
    import ray.data

    if job.before:
        stage, source = reuse(stage, source, job.before, job.run / table)
        if complete(job, table, goal):
            return
    if done := written_ids(job, table):
        why = "are done already" if job.before is None else "read what they read before, or are done already"
        log.info("%s: %d of %d examples %s", stage.work, done, goal, why)
    cluster = job.cfg.cluster
    each = cluster.examples_in_flight // cluster.block_rows + 1  # blocks that one engine has at once
    blocks_in_flight = cluster.engines * each
    handles = generators.start()
    with shown(stage.work, done, goal, lambda: generators.counts(1.0), WAITING[job.cfg.backbone.kind]):
        generators.wait()
        started, first = time.perf_counter(), generators.counts() or Counts()
        with checkpoints(checkpoint_folder(job, table)):
            rows = ray.data.read_parquet(str(source))
            rows.repartition(target_num_rows_per_block=cluster.block_rows).map_batches(
                Dispatcher,
                fn_constructor_args=(handles, stage, each),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    size=1,
                    max_concurrent_calls_per_actor=blocks_in_flight,
                    max_tasks_in_flight_per_actor=blocks_in_flight,
                    enable_true_multi_threading=True,
                ),
                num_cpus=0.5,
            ).write_parquet(
                str(job.run / table),
                mode=ray.data.SaveMode.APPEND,
                min_rows_per_file=file_rows(goal, cluster.block_rows),
            )
        counts = (generators.counts() or Counts()) - first
    tell_unwhole(stage.work, counts)
    job.record.add_work(stage.work, counts, time.perf_counter() - started, generators.start_seconds)
    files = sorted((job.run / table).glob("*.parquet"))
    count, ids = distinct(lambda: (pq.read_table(file, columns=["id"])["id"] for file in files))
    if not count == ids == goal:
        raise RuntimeError(f"{job.run / table}: {count} rows with {ids} ids for {goal} examples")
