"""Who works where: the lease on a run folder, and turns in making what runs share.

Both are a file that a process locks (flock) and writes its name into. A process that is killed lets go of its lock, so
that the next one takes over at once. Where hosts do not see each other's locks (a network file system that keeps them
to one host), the file's time tells: its holder renews it, and one on another host that has not done so for
SILENT_SECONDS, by the file system's own clock, is taken for dead.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

from wbrag.config import ConfigError
from wbrag.store.files import make_folder

log = logging.getLogger(__name__)

#: The file that a run folder's holder locks.
LEASE = "lease.json"
#: How often a holder renews its file's time.
BEAT_SECONDS = 5.0
#: A holder on another host whose lock is not seen here, and whose file is older, is taken for dead.
SILENT_SECONDS = 60.0
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 10.0

#: The leases of this process: what it holds already it may ask for again.
_own: set[Path] = set()


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a file."""

    host: str
    pid: int
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


def own_command() -> str:
    """The command that started this process, as a shell takes it."""
    program = sys.argv[0].split() if sys.argv[0].startswith("wbrag ") else ["python", sys.argv[0]]
    return shlex.join([*program, *sys.argv[1:]])


@contextmanager
def leased(folder: Path) -> Iterator[None]:
    """A run folder for this process alone during the block; it is made, and goes again where nothing was put in it.

    ConfigError, with host, process, time and command of its holder, where another process works in it.
    """
    file = folder.absolute() / LEASE
    if file in _own:
        yield
        return
    try:
        with in_turn(file, patient=False):
            _own.add(file)
            yield
    finally:
        _own.discard(file)
        with suppress(OSError):  # not empty, as a rule
            folder.rmdir()


@contextmanager
def in_turn(file: Path, patient: bool = True) -> Iterator[None]:
    """The block when no other process is in one with this file. Who waits says for whom; a dead one lets go. The
    impatient get a ConfigError that names the holder.
    """
    make_folder(file.parent)
    descriptor = _taken(file, patient)
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    text = json.dumps(asdict(Holder(socket.gethostname(), os.getpid(), since, own_command())))
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    os.fsync(descriptor)  # so that other hosts read it
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(file, descriptor, text, ended), daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        if _text(file) == text:
            file.unlink(missing_ok=True)  # before the lock goes: nobody takes a file that is about to be removed
        os.close(descriptor)


def _beat(file: Path, descriptor: int, text: str, ended: threading.Event) -> None:
    """Renew the file's time until the end. A process that was thought dead, and finds another in its place, ends."""
    while not ended.wait(BEAT_SECONDS):
        if _text(file) not in ("", text):
            log.error("%s was taken over by %s: this process ends", file, _holder(_text(file)))
            os.kill(os.getpid(), signal.SIGTERM)
            return
        os.utime(descriptor)


def _taken(file: Path, patient: bool) -> int:
    """A descriptor of the file, locked, once no living process holds it. ConfigError where one does, for the impatient.

    Whether a holder on another host lives is seen by its file's time, which changes or grows old, with its lock seen
    here or not.
    """
    here, started, said, first = socket.gethostname(), time.monotonic(), 0.0, 0.0
    while True:
        descriptor = _locked(file)
        holder, beat = _holder(_text(file)), _beaten(file)
        if descriptor is not None:
            if holder is None or holder.host == here or _now(file.parent) - beat >= SILENT_SECONDS:
                return descriptor
            os.close(descriptor)
        first = first or beat
        if holder and not patient:
            silent = _now(file.parent) - beat
            # The lock of a host that died stays for a while (NFS 4): a job that Slurm queued again is there earlier.
            if beat != first or (descriptor is None and (holder.host == here or silent >= 2 * SILENT_SECONDS)):
                raise ConfigError(_refusal(file, holder, silent))
        if time.monotonic() >= said + SECONDS_BETWEEN_LINES or not said:
            said = time.monotonic()
            log.info("waiting for %s, which has %s: %.0f s", holder or "another process", file, said - started)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _locked(file: Path) -> int | None:
    """A descriptor, with the lock, of the file that is at this path, made if need be; None where another has it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except FileNotFoundError:
            pass  # its holder has removed it meanwhile
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            told = f"{file}: this file system locks no files ({error.strerror})"
            raise ConfigError(f"{told}; give run_dir and cache_dir on one that does") from error
        os.close(descriptor)


def _refusal(file: Path, holder: Holder, silent: float) -> str:
    told = f"{file.parent} is in use by {holder}; let it end, or choose another folder"
    if silent < SILENT_SECONDS:
        return told
    return f"{told}; it gave no sign of life for {silent:.0f} s: where its host is gone for good, remove {file}"


def _text(file: Path) -> str:
    """What the file says; "" where it is not there."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _holder(text: str) -> Holder | None:
    """Who is named; None where a process has the file and has not written yet who it is."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _beaten(file: Path) -> float:
    """The file's time; 0 where it is not there."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _now(folder: Path) -> float:
    """The time by the clock of the folder's file system, which may be another host's."""
    with TemporaryFile(dir=folder) as new:
        return os.fstat(new.fileno()).st_mtime
