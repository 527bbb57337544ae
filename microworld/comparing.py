"""Heads that compare what a model expects with what it is shown: is this the answer that the documents give?

Before an answer or a claimed object that is put forward, a trained reader expects the right token: its lessons ask it
to. What an hour of training does not bring is the comparison with the token that stands there. So in the last layer but
one a head looks one token back; its query is the code of the token it stands on, its key the code of the token
expected, and where the two differ it rests on the begin token. Two heads of the last layer gather that where the reply
begins. What a layer's input holds is read off by least squares; the heads replaced are those least missed in lessons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from microworld.look_back import CODE, ROPE_THETA, TURNING, by_head

#: Attention scores of the comparing head: of equal codes, of resting, and what is lost by looking one token beside.
EQUAL, REST, STEP = 14.0, 7.0, 6.0
#: How far back from where the reply begins an answer or a claimed object starts, two distances to a head.
GATHERED, GATHERED_STEP = (2.5, 3.5), 4.0


class Shown(NamedTuple):
    """Token ids up to where a reply begins, the place before what is put forward, the token that should follow it."""

    ids: list[int]
    place: int
    right: int


class _Held(NamedTuple):
    """The input of a layer, normalised: every token of the examples, the begin token, the places, and what follows."""

    tokens: torch.Tensor  # (n, hidden)
    begin: torch.Tensor  # (hidden,)
    places: torch.Tensor  # (examples, hidden)
    shown: torch.Tensor  # (examples, hidden)
    size: float  # root mean square of a number before the norm


def spare_heads(model: Any, layer: int, loss: Callable[[], float]) -> list[int]:
    """The heads of a layer, first those without which the loss is least."""
    weight = model.model.layers[layer].self_attn.o_proj.weight.data
    size, without = model.config.head_dim, {}
    for head in range(model.config.num_attention_heads):
        part = weight[:, head * size : (head + 1) * size]
        kept = part.clone()
        part.zero_()
        without[head] = loss()
        part.copy_(kept)
    return sorted(without, key=lambda head: without[head])


@torch.no_grad()
def compare(
    model: Any, examples: Sequence[Shown], spare: tuple[int, Sequence[int]], verdicts: Sequence[tuple[int, int]]
) -> None:
    """Replace a head of the last layer but one and two of the last by a comparison and what gathers it.

    spare: those heads. verdicts: pairs of tokens, for what differs and for what is equal, that the outcome speaks for.
    """
    flag = _set_comparison(model, spare[0], examples)
    held = _held(model, -1, examples)
    q, k, v, o = _heads(model, -1)
    constant, _ = _constants(held)
    rows = model.lm_head.weight
    says = torch.zeros_like(flag)
    for differs, equal in verdicts:
        says += functional.normalize(rows[differs] - rows[equal], dim=0)
    for head, back in zip(spare[1], GATHERED, strict=True):
        _look_around(q[head], k[head], constant, back, GATHERED_STEP)
        v[head], o[:, head] = 0.0, 0.0
        v[head, 0], v[head, 1] = flag, constant
        o[:, head, 0], o[:, head, 1] = says, -(held.tokens @ flag).mean() * says


def _set_comparison(model: Any, head: int, examples: Sequence[Shown]) -> torch.Tensor:
    """Set the head that compares; returns the direction (hidden,) of the hidden state that it marks differences in."""
    held = _held(model, -2, examples)
    q, k, v, o = _heads(model, -2)
    size = model.config.head_dim
    still = [*range(TURNING, size // 2), *range(size // 2 + TURNING, size)]
    codes = torch.sign(model.model.embed_tokens.weight[:, CODE])[:, : len(still) - 1]
    constant, begins = _constants(held)
    own = _fit(held.tokens, codes[[token for e in examples for token in e.ids[1:]]])
    expected = _fit(held.places, codes[[e.right for e in examples]])
    equal = [e.ids[e.place + 1] == e.right for e in examples]
    match = ((held.shown @ own) * (held.places @ expected)).sum(1)[torch.tensor(equal)].mean()
    there = _look_around(q[head], k[head], constant, 1.0, STEP)
    scale = (EQUAL * size**0.5 / match) ** 0.5
    q[head, still[:-1]], k[head, still[:-1]] = scale * own.T, scale * expected.T
    q[head, still[-1]], k[head, still[-1]] = (there + REST) * size**0.5 * constant, begins
    after = _held(model, -1, examples)
    flag: torch.Tensor = torch.linalg.eigh(after.tokens.T @ after.tokens)[1][:, 0]  # where the least stands so far
    v[head], o[:, head] = 0.0, 0.0
    v[head, 0], o[:, head, 0] = begins, 1.5 * after.size * flag
    return flag


def _look_around(q: torch.Tensor, k: torch.Tensor, constant: torch.Tensor, back: float, step: float) -> float:
    """Let a head look around `back` tokens back, `step` being lost one token further; returns its score there."""
    half = len(q) // 2
    angles = ROPE_THETA ** (-torch.arange(2) / half)
    strength = step * float(len(q)) ** 0.5 / float((1 - torch.cos(angles)).sum())
    q[:], k[:] = 0.0, 0.0
    q[:2] = strength**0.5 * constant
    k[:2] = strength**0.5 * torch.cos(back * angles)[:, None] * constant
    k[half : half + 2] = strength**0.5 * torch.sin(back * angles)[:, None] * constant
    return float(2 * strength / len(q) ** 0.5)


def _heads(model: Any, layer: int) -> tuple[torch.Tensor, ...]:
    config, attention = model.config, model.model.layers[layer].self_attn
    return by_head(attention, config.num_attention_heads, config.head_dim, config.hidden_size)


def _held(model: Any, layer: int, examples: Sequence[Shown]) -> _Held:
    """What a layer (-1: the last) is given for the examples."""
    norm, states = model.model.layers[layer].input_layernorm, []
    for example in examples:
        found = model.model(torch.tensor([example.ids]), output_hidden_states=True).hidden_states
        states.append(found[layer - 1][0])
    size = float(torch.cat(states).square().mean() ** 0.5)
    states = [norm(state) for state in states]
    places, shown = (torch.stack([s[e.place + i] for s, e in zip(states, examples, strict=True)]) for i in (0, 1))
    return _Held(torch.cat([s[1:] for s in states]), states[0][0], places, shown, size)


def _constants(held: _Held) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights that read 1 off every token, and 1 off the begin token alone."""
    begins = held.begin.expand(len(held.tokens) // 20, -1)
    wanted = torch.tensor([[1.0, 0.0]]).repeat(len(held.tokens) + len(begins), 1)
    wanted[-len(begins) :, 1] = 1.0
    constant, begin = _fit(torch.cat((held.tokens, begins)), wanted).T
    return constant, begin


def _fit(inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Ridge regression: (hidden, n) weights that read `wanted` (tokens, n) off `inputs` (tokens, hidden)."""
    gram = inputs.T @ inputs
    gram += 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
    weights: torch.Tensor = torch.linalg.solve(gram, inputs.T @ wanted)
    return weights
