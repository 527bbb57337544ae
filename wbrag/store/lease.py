"""Who may write to a store: a lease with an expiry, and a token that fences off a holder who lost it.

The lease is the highest-numbered file in `leases/`, created exclusively; the number is the token. `commit` asks
`check_lease` right before it creates a manifest. What is lost if a holder stalls between the two is nothing: the
manifest's own number is created exclusively too (docs/adr/0006).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from wbrag.store.files import StoreError, dump_json, load_json
from wbrag.store.storage import Storage, Store, read, storage_of

FOLDER = "leases"


class LeaseError(StoreError):
    """Somebody else may write to the store, not the caller; the message says who, with both tokens."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a store until it expires or is released; give it to whatever commits."""

    storage: Storage
    holder: str
    token: int
    seconds: float

    def renew(self) -> None:
        """Start the lease's `seconds` anew; LeaseError when it was lost."""
        check_lease(self.storage, self)
        self._write(time.time() + self.seconds)

    def release(self) -> None:
        """Let others write at once; nothing when the lease was lost."""
        if _newest(self.storage)[0] == self.token:
            self._write(0.0)

    def _write(self, expires: float) -> None:
        with self.storage.scratch() as scratch:
            (scratch / "lease").write_bytes(_record(self.holder, expires))
            self.storage.put(_name(self.token), scratch / "lease")


def acquire(store: Store, holder: str, seconds: float = 600) -> Lease:
    """The lease of a store. LeaseError when another holder's has neither expired nor been released.

    `holder` names the job, the same when it is started again: so a resumed job takes over from its dead attempt at
    once, and the attempt, should it still be alive, can commit no more.
    """
    at = storage_of(store)
    while True:
        token, owner, expires = _newest(at)
        if owner != holder and expires > time.time():
            raise LeaseError(f"{at}: {owner!r} holds lease {token} until {_utc(expires)}; {holder!r} cannot have it")
        if at.create(_name(token + 1), _record(holder, time.time() + seconds)):
            for number in _numbers(at):
                if number < token:  # the last one stays, so that numbers rise even if this process dies here
                    at.remove(_name(number))
            return Lease(at, holder, token + 1, seconds)


@contextmanager
def leased(store: Store, holder: str, seconds: float = 600) -> Iterator[Lease]:
    """`acquire`, renewed from a thread however long the block takes, and `release` at the end.

    A lease that was lost meanwhile is not taken back: the next commit under it is refused.
    """
    lease, ended = acquire(store, holder, seconds), threading.Event()
    renewing = threading.Thread(target=_renew_until, args=(ended, lease), daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        ended.set()
        renewing.join()
        lease.release()


def _renew_until(ended: threading.Event, lease: Lease) -> None:
    while not ended.wait(lease.seconds / 4):
        try:
            lease.renew()
        except LeaseError:
            return
        except OSError:  # a disk that is full or a store out of reach may be back in time for the next try
            continue


def check_lease(store: Store, lease: Lease | None) -> None:
    """LeaseError unless whoever has this lease (None: nobody's) may write now: it is the newest and has not expired."""
    at = storage_of(store)
    token, owner, expires = _newest(at)
    if lease is None:
        if expires > time.time():
            raise LeaseError(f"{at}: {owner!r} holds lease {token} until {_utc(expires)}; nobody else can commit")
    elif token != lease.token:
        raise LeaseError(f"{at}: lease {lease.token} of {lease.holder!r} was lost: {owner!r} has lease {token} now")
    elif expires <= time.time():
        raise LeaseError(f"{at}: lease {token} of {owner!r} expired at {_utc(expires)}, it is {_utc(time.time())}")


def _newest(at: Storage) -> tuple[int, str, float]:
    """Token, holder and expiry (Unix seconds) of the newest lease; 0, nobody and 0 when there never was one."""
    token = max(_numbers(at), default=0)
    if not token:
        return 0, "", 0.0
    try:
        record = load_json(read(at, _name(token)), f"{at}/{_name(token)}")
    except StoreError:
        if max(_numbers(at), default=0) == token:
            raise
        return _newest(at)  # a newer one came and this one was removed in between
    return token, record["holder"], record["expires"]


def _numbers(at: Storage) -> list[int]:
    stems = [name.partition(".")[0] for name in at.names(FOLDER) if name.endswith(".json")]
    return [int(stem) for stem in stems if stem.isdigit()]


def _name(token: int) -> str:
    return f"{FOLDER}/{token:06d}.json"


def _record(holder: str, expires: float) -> bytes:
    return dump_json({"holder": holder, "expires": expires})


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
