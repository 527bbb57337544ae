"""What the world outside refuses is told in one sentence with what to do, and no key with it."""

from __future__ import annotations

import errno
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.command.faults import refusal, refusals


class RayTaskError(Exception):
    """As Ray brings an error of a worker: beside its text there is the error itself."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::work() failed\n\nTraceback: {cause}")
        self.cause = cause


def library(name: str, text: str) -> Exception:
    """An error of a library that need not be here."""
    return type(name, (Exception,), {})(text)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/run/x.parquet"),
            r"/data/run/x\.parquet: the disk is full",
        ),
        (OSError("[Errno 28] Error writing bytes. Detail: No space left on device"), "the disk is full"),
        (library("LanceError", "LanceError(IO): write failed (os error 28)"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", b"/srv/kb"), "^/srv/kb: this user may not do that"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/kb"), "^/mnt/kb: this is read-only"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), "ulimit -n"),
        (library("NoCredentialsError", "Unable to locate credentials"), "AWS_ACCESS_KEY_ID"),
        (library("ClientError", "An error occurred (NoSuchBucket) when calling PutObject"), "no such bucket"),
        (library("GatedRepoError", "401 Client Error. Access to model x is restricted"), "ask for access"),
        (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "HF_ENDPOINT"),
        (OSError("no-such/model is not a local folder and is not a valid model identifier"), "no such model"),
        (library("APIConnectionError", "Connection error."), "the endpoint does not answer"),
        (library("NotFoundError", "Error code: 404 - model gpt-9 does not exist"), "backbone.model"),
        (library("RateLimitError", "Error code: 429"), "then the same command goes on"),
        (ImportError("Using SOCKS proxy, but the 'socksio' package is not installed."), "ALL_PROXY"),
        (ValueError("Unknown scheme for proxy URL URL('nonsense://u:[secure]@h:1')"), "ALL_PROXY"),
        (RuntimeError("Could not determine home directory."), "set HOME"),
        (Exception("The current node timed out during startup. This could happen"), "the same command again"),
        (MemoryError(), "^there is not enough memory"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "is the server up"),
        (RayTaskError(OSError(errno.EDQUOT, "Disk quota exceeded", "/home/u/x")), "^/home/u/x: the disk quota"),
    ],
)
def test_what_is_refused_is_one_sentence_with_what_to_do(error: Exception, told: str) -> None:
    found = refusal(error)
    assert found is not None
    assert re.search(told, found)
    assert "\n" not in found


def test_what_it_came_of_is_what_is_told() -> None:
    error = RuntimeError("writing failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/full")
    assert (refusal(error) or "").startswith("/full: the disk is full")


def test_any_other_error_keeps_its_traceback() -> None:
    assert refusal(KeyError("x")) is refusal(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=40).map("7{}".format))  # no word of ours
def test_no_key_is_told(key: str) -> None:
    for error in (
        library("AuthenticationError", f"Error code: 401 - Incorrect API key provided: {key}"),
        library("APIConnectionError", f"no answer from https://user:{key}@host/v1"),
        library("GatedRepoError", f"token hf_{key} may not read this"),
    ):
        assert key not in (refusal(error) or key)


def test_every_sentence_says_what_to_do_and_none_is_never_reached() -> None:
    assert all(";" in one["told"] or "?" in one["told"] or "not the right" in one["told"] for one in refusals())
    assert len({one["like"] for one in refusals()}) == len(refusals())
