"""What a lesson costs a model: its requests read over the context they share, and the loss on their replies."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn import functional

from microworld import tokenizer
from microworld.lessons import Lesson
from microworld.turns import Turn

#: What a token of a request counts in the loss, and the right token in place of one that is put forward; a reply of n
#: tokens counts n ** 0.3.
REQUEST_WEIGHT, RIGHT_WEIGHT = 0.05, 0.5


class Row(NamedTuple):
    """Token ids of a turn, where its reply starts, and where which token should follow in place of what is shown."""

    ids: list[int]
    reply_at: int
    right: tuple[int, int] | None = None


def encode(lesson: Lesson, tok: Any) -> tuple[list[int], list[Row]]:
    """Token ids of the shared prefix, and a row per turn."""
    # The template's space stands before whatever comes first, and makes one token with it.
    before, after = (f" {lesson.shared}", "") if lesson.shared else ("", " ")
    shared = tok.encode(f"{tokenizer.BEGIN}<|user|>{before}", add_special_tokens=False)
    turns = []
    for turn in lesson.turns:
        asked = tok.encode(f"{after}{turn.request}{tokenizer.END}<|assistant|>", add_special_tokens=False)
        ids = asked + tok.encode(f" {turn.reply}{tokenizer.END}", add_special_tokens=False)
        turns.append(Row(ids, len(asked), _right(turn, after, tok)))
    return shared, turns


def _right(turn: Turn, after: str, tok: Any) -> tuple[int, int] | None:
    if not turn.shown:
        return None
    before = f"{after}{turn.request}".rpartition(turn.shown)[0].rstrip(" ")
    place = len(tok.encode(before, add_special_tokens=False)) - 1
    return place, tok.encode(f" {turn.right}", add_special_tokens=False)[0]


def loss_of(model: Any, lesson: Lesson, tok: Any) -> tuple[torch.Tensor, float, int]:
    """What to minimise over a lesson, the part of it that its replies make, and the tokens read."""
    from transformers import DynamicCache

    shared, turns = encode(lesson, tok)
    past = [
        (layer.keys, layer.values)
        for layer in model.model(torch.tensor([shared]), use_cache=True).past_key_values.layers
    ]
    loss, replies, read = torch.zeros(()), 0.0, len(shared)
    long = [t for t in turns if len(t.ids) - t.reply_at > 24]
    for group in filter(None, (long, [t for t in turns if t not in long])):
        cache = DynamicCache()
        for i, (k, v) in enumerate(past):
            cache.update(k.expand(len(group), -1, -1, -1), v.expand(len(group), -1, -1, -1), i)
        part, of_replies, n = _turns_loss(model, group, cache, len(shared))
        loss, replies, read = loss + part / len(turns), replies + of_replies / len(turns), read + n
    return loss, replies, read


def _turns_loss(model: Any, turns: list[Row], cache: Any, start: int) -> tuple[torch.Tensor, float, int]:
    """Sum over turns of the loss, and its part on replies, given the cache of the prefix they share.

    The request counts too, a little: to finish a name that stands in the documents is what teaches looking back. Where
    it shows an answer or a claimed object, the right one is what to expect there, so that the two can be compared.
    """
    longest = max(len(turn.ids) for turn in turns)
    ids = torch.full((len(turns), longest), 2)
    labels = torch.zeros_like(ids)
    weights = torch.zeros(len(turns), longest)
    for row, (turn, reply_at, right) in enumerate(turns):
        ids[row, : len(turn)] = torch.tensor(turn)
        labels[row, : len(turn) - 1] = torch.tensor(turn[1:])
        weights[row, : reply_at - 1] = REQUEST_WEIGHT
        weights[row, reply_at - 1 : len(turn) - 1] = (len(turn) - reply_at) ** -0.7
        if right:
            labels[row, right[0]], weights[row, right[0]] = right[1], RIGHT_WEIGHT
    positions = torch.arange(start, start + longest).expand(len(turns), -1)
    hidden = model.model(ids, past_key_values=cache, position_ids=positions, use_cache=True).last_hidden_state
    chosen = weights > 0
    losses = functional.cross_entropy(model.lm_head(hidden[chosen]), labels[chosen], reduction="none")
    is_reply = (weights[chosen] != REQUEST_WEIGHT) & (weights[chosen] != RIGHT_WEIGHT)
    weighted = losses * weights[chosen]
    return weighted.sum(), float(weighted.detach()[is_reply].sum()), ids.numel()
