"""How a micro model's attention begins: with the parts of reading, which else take most of the training to appear."""

from __future__ import annotations

from typing import Any

import torch

#: Angles by position fall so fast over the dimensions of a head that all but the first few hardly turn: the rest
#: compare contents at any distance, the first tell positions apart.
ROPE_THETA = 1e12
TURNING = 4
#: What stands where in the hidden state: the token's code, those of some before it, whether it is the begin token, what
#: followed the same two tokens (and the same one) earlier, whether nothing did; then a constant.
CODE, BEFORE, TWO_BEFORE, BEGINS = slice(0, 24), slice(24, 48), slice(48, 60), 60
PAIR_UNSEEN, UNSEEN, AFTER_PAIR, AFTER = 61, 62, slice(64, 87), slice(88, 111)
THREE_BEFORE, SIX_BEFORE, SEVEN_BEFORE = slice(112, 124), slice(124, 136), slice(136, 148)
#: Whether the answer that is to be judged never stood two places after the subject of its question: for answers of one
#: token and of two, seen from where the reply begins ("... SUBJECT tail \\n Answer: ANSWER end assistant").
UNTOLD = (63, 148)
FREE, CONSTANT = slice(149, 252), slice(252, 256)


def look_back(model: Any) -> None:
    """Set the embeddings and some heads of a fresh model of 256 dimensions, heads of 32 and ROPE_THETA.

    Every token gets a random code of signs. In the first two layers heads look some tokens back; the first layer's
    write down the codes they see. In the second layer a head looks for the place after the last two tokens' earlier
    occurrence and says what stands there, another for that after the last token's. Two more look for an answer two
    places after the subject of its question: "Who wrote *Moby-Dick*? Answer: *Melville*" is borne out by "*Moby-Dick*
    was written by *Melville*", since a turn of phrase is one token. Each rests on the begin token where there is no
    such place, and says so. In the later layers a head that looks at a token says that token: values and outputs
    together are the turn between embedding and output matrix. All of it trains on from there.
    """
    hidden, heads, size = model.config.hidden_size, model.config.num_attention_heads, model.config.head_dim
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding.zero_()[:, FREE].normal_(0, 0.08)
        embedding[:, CODE] = 0.25 * torch.sign(torch.randn(len(embedding), 24))
        embedding[:, CONSTANT] = 0.16
        embedding[model.config.bos_token_id, BEGINS] = 1.0
        for layer in model.model.layers:
            for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
                weight.zero_()[FREE].normal_(0, 0.003)
        for layer, scale, offsets in zip(
            model.model.layers, (1.6, 2.1), ((1, 2, 3, 1, 2, 6, 7), (1, 2, 3)), strict=False
        ):
            q, k, _, o = by_head(layer.self_attn, heads, size, hidden)
            for head, offset in enumerate(offsets):
                look(q[head], k[head], scale, offset)
                o[FREE, head].normal_(0, 0.02)
        _, _, v, o = by_head(model.model.layers[0].self_attn, heads, size, hidden)
        _say(v[0], o[:, 0], CODE, BEFORE, 0.11)
        _say(v[1], o[:, 1], slice(0, 12), TWO_BEFORE, 0.11)
        _say(v[2], o[:, 2], slice(0, 12), THREE_BEFORE, 0.11)
        _say(v[5], o[:, 5], slice(0, 12), SIX_BEFORE, 0.11)
        _say(v[6], o[:, 6], slice(0, 12), SEVEN_BEFORE, 0.11)
        q, k, v, o = by_head(model.model.layers[1].self_attn, heads, size, hidden)
        pair = ((slice(0, 12), BEFORE.start), (slice(BEFORE.start, BEFORE.start + 11), TWO_BEFORE.start))
        _find(q[3], k[3], pair)
        _find(q[4], k[4], ((slice(0, 23), BEFORE.start),))
        for head, answer, subject in ((5, TWO_BEFORE, SIX_BEFORE), (6, THREE_BEFORE, SEVEN_BEFORE)):
            wanted = (slice(at.start, at.start + n) for at, n in ((answer, 12), (subject, 11)))
            _find(q[head], k[head], tuple(zip(wanted, (BEFORE.start, THREE_BEFORE.start), strict=True)), 2.2)
            v[head], o[:, head] = 0.0, 0.0
        for head, after in ((3, AFTER_PAIR), (4, AFTER)):
            _say(v[head], o[:, head], slice(0, 23), after, 0.11)
        for head, unseen in ((3, PAIR_UNSEEN), (4, UNSEEN), (5, UNTOLD[0]), (6, UNTOLD[1])):
            v[head, 31, BEGINS], o[unseen, head, 31] = 1.0, 0.06
        turned, basis = (torch.linalg.qr(torch.randn(hidden, hidden))[0] for _ in range(2))
        model.lm_head.weight.copy_(0.5 * embedding @ turned)
        for layer in model.model.layers[2:]:
            layer.self_attn.v_proj.weight.copy_(basis)
            layer.self_attn.o_proj.weight.copy_(0.2 * turned.T @ basis.T)


def by_head(attention: Any, heads: int, size: int, hidden: int) -> tuple[torch.Tensor, ...]:
    """Views of query, key and value weights as (heads, size, hidden), and of the output's as (hidden, heads, size)."""
    qkv = (p.weight.view(heads, size, hidden) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    return *qkv, attention.o_proj.weight.view(hidden, heads, size)


def look(q: torch.Tensor, k: torch.Tensor, scale: float, offset: int) -> None:
    """A head that looks `offset` tokens back: its query and key are constants whose rotary angles meet there."""
    half = len(q) // 2
    angles = offset * ROPE_THETA ** (-torch.arange(3) / half)
    q[:], k[:] = 0.0, 0.0
    q[:3, CONSTANT] = scale
    k[:3, CONSTANT] = scale * torch.cos(angles)[:, None]
    k[half : half + 3, CONSTANT] = scale * torch.sin(angles)[:, None]


def _find(q: torch.Tensor, k: torch.Tensor, matches: tuple[tuple[slice, int], ...], rest: float = 2.05) -> None:
    """A head whose query's dimensions (slices) have to equal the key's (from a start on), else it rests on begin."""
    half = len(q) // 2
    still = [*range(TURNING, half), *range(half + TURNING, 2 * half)]
    q[:], k[:] = 0.0, 0.0
    for wanted, start in matches:
        for i in range(wanted.stop - wanted.start):
            at = still.pop(0)
            q[at, wanted.start + i] = k[at, start + i] = 1.5
    q[still[-1], CONSTANT], k[still[-1], BEGINS] = rest, rest


def _say(v: torch.Tensor, o: torch.Tensor, seen: slice, written: slice, scale: float) -> None:
    """A head's value is the dimensions `seen`, its output puts them into `written`."""
    v[:], o[:] = 0.0, 0.0
    for i in range(seen.stop - seen.start):
        v[i, seen.start + i] = 1.0
        o[written.start + i, i] = scale
