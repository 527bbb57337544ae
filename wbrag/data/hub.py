"""Files of a data set on a Hugging Face hub: `hf://datasets/OWNER/NAME[@REVISION]/PATH`, fetched once and checked.

Hub, token and cache are those of the environment: HF_ENDPOINT, HF_TOKEN, HF_HOME. A download that was cut short goes on
where it was.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from wbrag.data.flashrag import InputError

log = logging.getLogger(__name__)

SCHEME = "hf://"
_URL = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")


def fetched(url: str, sha256: Callable[[Path], str]) -> Path:
    """Where a file of the hub lies on this machine, after it was fetched, if it had to be, and its content was held
    against the hash that the hub names it by. InputError, with what to do, where it cannot be had or is damaged.
    """
    if not (parts := _URL.fullmatch(url)):
        raise InputError(f"{url}: a file of a hub is hf://datasets/OWNER/NAME/PATH, or .../NAME@REVISION/PATH")
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    repo, revision, path = parts.groups()
    if not isinstance(try_to_load_from_cache(repo, path, repo_type="dataset", revision=revision), str):
        log.info("fetching %s", url)
    try:
        found = Path(hf_hub_download(repo, path, repo_type="dataset", revision=revision))
    except (errors.HFValidationError, errors.RemoteEntryNotFoundError, OSError) as error:
        raise InputError(_why_not(error, url)) from error
    _check(found, url, sha256)
    return found


def _check(found: Path, url: str, sha256: Callable[[Path], str]) -> None:
    """InputError where a file is not what its name in the hub's cache says: sha256 of a large file, git's of any."""
    blob = found.resolve()
    wanted = blob.name
    if re.fullmatch(r"[0-9a-f]{64}", wanted):
        is_ = sha256(blob)
    elif re.fullmatch(r"[0-9a-f]{40}", wanted):
        data = blob.read_bytes()
        is_ = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    else:
        return  # a cache without links: the client has checked the size
    if is_ != wanted:
        blob.unlink()
        raise InputError(
            f"{url}: what came is damaged: its hash is {is_}, the hub's {wanted}; ask again to fetch it anew"
        )


def _why_not(error: Exception, url: str) -> str:
    """In one sentence: which file, what is wrong with it, and what to do."""
    from huggingface_hub import constants, errors

    match error:
        case errors.GatedRepoError():
            told = "is gated: accept its terms on the hub, and set HF_TOKEN to a token of that account"
        case errors.RepositoryNotFoundError():
            told = "its data set is not there, or is private: check the name, or set HF_TOKEN"
        case errors.RevisionNotFoundError():
            told = "there is no such revision"
        case errors.RemoteEntryNotFoundError():
            told = "there is no such file in its data set"
        case errors.HfHubHTTPError():
            told = f"is refused with status {error.response.status_code}: check HF_TOKEN"
        case _:
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            told = (
                f"cannot be fetched, and is not in {constants.HF_HUB_CACHE} ({cause}): check HF_ENDPOINT, the network"
            )
            told += " and the disk, and ask again: it goes on where it was"
    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
    return f"{url} {told} ({constants.ENDPOINT}, {token})"
