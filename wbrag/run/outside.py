"""What the world outside refuses a job, in one sentence with what to do: the operating system, S3, the model hub, an
endpoint, memory. The sentences are data: outside.toml.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

#: What is never told: keys, and who is named in an address.
SECRET = re.compile(r"\b(?:sk|hf|key)[-_][\w*-]{6,}|(?<=://)[^/@\s]+(?=@)")
OWN_WORDS = 160


@lru_cache(maxsize=1)
def refusals() -> list[Mapping[str, Any]]:
    """All of outside.toml."""
    return list(tomllib.loads(files("wbrag.run").joinpath("outside.toml").read_text(encoding="utf-8"))["refusal"])


def refusal(error: BaseException) -> str | None:
    """What ended a job, in one sentence, if it is of the world outside: where, what was refused, what to do. None for
    any other error, of which a traceback says more. Those that it came of count too, in Ray's workers as well.
    """
    for one in _behind(error):
        own = " ".join(str(one).split("\n\n")[0].split())
        system = os.strerror(one.errno) if isinstance(one, OSError) and one.errno else ""
        said = f"{type(one).__module__}.{type(one).__name__}: {system} {own}"
        for known in refusals():
            if re.search(known["like"], said):
                where = "" if known.get("secret") else _where(one, own)
                return f"{where}: {known['told']}" if where else str(known["told"])
    return None


def _where(error: BaseException, own: str) -> str:
    """The file that it is about, else the error's own words, the first of them."""
    file = error.filename if isinstance(error, OSError) else None
    told = SECRET.sub("...", own if file is None else str(os.fsdecode(file) if isinstance(file, bytes) else file))
    return told if len(told) <= OWN_WORDS else f"{told[:OWN_WORDS]} ..."


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it came of, the first of them first."""
    found: list[BaseException] = []
    following: list[object] = [error]
    while following:
        one = following.pop(0)
        if isinstance(one, BaseException) and not any(one is other for other in found):
            found.append(one)
            following += [getattr(one, "cause", None), one.__cause__]
            following += [] if one.__suppress_context__ else [one.__context__]
    return reversed(found)
