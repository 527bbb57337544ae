"""How the best passages and the best units of a question become the documents that are read. Pure.

`plain` is the paper's: K places, taken by score alone. `beside` takes no passage's place: the K passages stay, and the
units that are as near to the question as they are come before them; with `named` those that the question names.
"""

from __future__ import annotations

from collections.abc import Sequence

from wbrag.config import ConfigError, Merge
from wbrag.schema import Document
from wbrag.units.sentences import holds


def check_merge(merge: Merge) -> None:
    """ConfigError, naming key and value, for a policy or bound that cannot work."""
    if merge.policy not in ("plain", "beside"):
        raise ConfigError(f"merge.policy={merge.policy!r} is unknown; known are plain, beside")
    for key, value in (("margin", merge.margin), ("room", merge.room)):
        if not 0 <= value <= 2:
            raise ConfigError(f"merge.{key}={value}: a number from 0 to 2 is needed")


def merged(
    passages: Sequence[Document], units: Sequence[Document], k: int, merge: Merge, question: str = ""
) -> list[Document]:
    """The documents of one question from its k best `passages` and its best `units`, both best first.

    plain: the k best of both; of equal scores passages come first. beside: `admitted` units, then the passages.
    """
    if merge.policy == "beside":
        return [*admitted(passages, units, k, merge, question), *passages]
    return sorted([*passages, *units[:k]], key=lambda document: -document.score)[:k]


def admitted(
    passages: Sequence[Document], units: Sequence[Document], k: int, merge: Merge, question: str = ""
) -> list[Document]:
    """The units that stand beside the passages, best first: at most k.

    A unit has to be as near to the question as the best passage, up to `margin` in score, and has to fit: units may
    hold `room` times the characters of the passages. One that is too long is passed over. Without passages all fit.
    With `named` its title has to stand in the question, in any case of letters.
    """
    if merge.named:
        units = [unit for unit in units if holds(question, unit.title)]
    if not passages:
        return list(units[:k])
    room = merge.room * sum(len(document.contents) for document in passages)
    found: list[Document] = []
    for unit in units:
        if unit.score < passages[0].score - merge.margin or len(found) == k:
            break
        if len(unit.contents) <= room:
            found.append(unit)
            room -= len(unit.contents)
    return found
