"""How a micro model's attention begins: with the parts that reading is made of."""

from __future__ import annotations

from typing import Any

import torch


def look_back(model: Any) -> None:
    """Start some heads as what reading is made of, which would else take most of the training to appear.

    In the first two layers three heads look one, two and three tokens back: their queries and keys are constants whose
    rotary angles meet at that distance. A head of the second layer then finds the earlier place that followed the
    same token. In the later layers a head that looks at a token says that token: values and outputs together are the
    turn between the embedding and the output matrix. All of it trains on from there.
    """
    hidden, heads, size = model.config.hidden_size, model.config.num_attention_heads, model.config.head_dim
    constant, half = slice(hidden - 4, hidden), size // 2
    angles = 10000.0 ** (-torch.arange(6) / half)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 0.08)[:, constant] = 0.16
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.normal_(0, 0.003)
            layer.mlp.down_proj.weight.normal_(0, 0.003)
        for layer, scale in zip(model.model.layers, (0.9, 2.0), strict=False):
            q, k = (p.weight.view(heads, size, hidden) for p in (layer.self_attn.q_proj, layer.self_attn.k_proj))
            layer.self_attn.o_proj.weight.view(hidden, heads, size)[:, :3].normal_(0, 0.02)
            for head, offset in enumerate((1, 2, 3)):
                q[head], k[head] = 0.0, 0.0
                q[head, :6, constant] = scale
                k[head, :6, constant] = scale * torch.cos(offset * angles)[:, None]
                k[head, half : half + 6, constant] = scale * torch.sin(offset * angles)[:, None]
        _find_the_same(model.model.layers[0].self_attn, model.model.layers[1].self_attn, hidden, heads, size)
        turned, basis = (torch.linalg.qr(torch.randn(hidden, hidden))[0] for _ in range(2))
        model.lm_head.weight.copy_(0.5 * model.model.embed_tokens.weight @ turned)
        for layer in model.model.layers[2:]:
            layer.self_attn.v_proj.weight.copy_(basis)
            layer.self_attn.o_proj.weight.copy_(turned.T @ basis.T)


def _find_the_same(first: Any, second: Any, hidden: int, heads: int, size: int) -> None:
    """Head 3 of `second`: its query is the token, its key the token before (as head 0 of `first` wrote it), both seen
    through one random projection onto the slow rotary dimensions."""
    slow = torch.cat([torch.arange(size // 4, size // 2), torch.arange(3 * size // 4, size)])
    seen = torch.randn(len(slow), hidden) / hidden**0.5
    written = torch.randn(hidden, len(slow)) * 0.02
    first.v_proj.weight.view(heads, size, hidden)[0, : len(slow)] = seen
    first.o_proj.weight.view(hidden, heads, size)[:, 0, : len(slow)] = written
    for weight, projection in ((second.q_proj.weight, seen), (second.k_proj.weight, written.T)):
        weight.view(heads, size, hidden)[3] = 0.0
        weight.view(heads, size, hidden)[3, slow] = 2.5 * projection
