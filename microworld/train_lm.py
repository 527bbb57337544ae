"""Train a micro model: `python -m microworld.train_lm micro_small --minutes 45`.

The recipe: Llama architecture, AdamW, a curriculum from a few bare sentences to five retrieved documents, and lessons
that read a context once and answer many requests about it (their prompts share the prefix, so its keys and values are
computed once; positions and attention are those of the separate prompts). Time is the budget: the curriculum and the
learning rate follow the share of the minutes used, training checkpoints every two minutes and resumes from there.
`--grow FROM` starts from a smaller trained model: its layers are kept, new ones begin as the identity.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from microworld import lessons, tokenizer
from microworld.lessons import Lesson, School
from microworld.school import open_school

SHAPES = {
    "micro_small": {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4},
    "micro_large": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8},
}
IGNORED = -100


@dataclass
class Progress:
    """What a checkpoint carries beside the weights."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0


def new_model(shape: str, vocabulary: int) -> Any:
    """A fresh Llama of one of SHAPES: heads of 32, tied embeddings, 4,096 positions, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, num_attention_heads=8, num_key_value_heads=8, head_dim=32, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2, rope_theta=10000.0,
        initializer_range=0.04, **SHAPES[shape],
    )  # fmt: skip
    return LlamaForCausalLM(config)


def grow(small: Any, large: Any) -> None:
    """Give `large` the function of `small`: old layers spread among new ones whose outputs start at zero."""
    large.model.embed_tokens.load_state_dict(small.model.embed_tokens.state_dict())
    large.model.norm.load_state_dict(small.model.norm.state_dict())
    old, every = small.model.layers, len(large.model.layers) // len(small.model.layers)
    for i, layer in enumerate(large.model.layers):
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        if i % every == 0:
            for name, tensor in old[i // every].state_dict().items():
                target = layer.get_parameter(name).data
                target[tuple(slice(n) for n in tensor.shape)] = tensor


def encode(lesson: Lesson, tok: Any) -> tuple[list[int], list[tuple[list[int], int]]]:
    """Token ids of the shared prefix, and per turn (ids, where the reply starts)."""
    shared = tok.encode(f"{tokenizer.BEGIN}<|user|>\n{lesson.shared}", add_special_tokens=False)
    turns = []
    for request, reply in lesson.turns:
        asked = tok.encode(f"{request}{tokenizer.END}\n<|assistant|>\n", add_special_tokens=False)
        turns.append((asked + tok.encode(reply + tokenizer.END, add_special_tokens=False), len(asked)))
    return shared, turns


def loss_of(model: Any, lesson: Lesson, tok: Any, prompt_weight: float) -> tuple[torch.Tensor, int]:
    """Mean loss over the replies of a lesson (plus `prompt_weight` times that of the shared text), and the tokens read."""
    from transformers import DynamicCache

    shared, turns = encode(lesson, tok)
    ids = torch.tensor([shared])
    out = model.model(ids, use_cache=True)
    past = [(layer.keys, layer.values) for layer in out.past_key_values.layers]
    loss, read = torch.zeros(()), len(shared)
    if prompt_weight and len(shared) > 8:
        logits = model.lm_head(out.last_hidden_state[0, 4:-1])
        loss = loss + prompt_weight * functional.cross_entropy(logits, ids[0, 5:])
    long = [t for t in turns if len(t[0]) - t[1] > 24]
    for group in (long, [t for t in turns if t not in long]):
        if not group:
            continue
        cache = DynamicCache()
        for i, (k, v) in enumerate(past):
            cache.update(k.expand(len(group), -1, -1, -1), v.expand(len(group), -1, -1, -1), i)
        part, n = _turns_loss(model, group, cache, len(shared))
        loss, read = loss + part / len(turns), read + n
    return loss, read


def _turns_loss(model: Any, turns: list[tuple[list[int], int]], cache: Any, start: int) -> tuple[torch.Tensor, int]:
    """Sum over turns of the reply's mean token loss, given the cache of the prefix they share."""
    longest = max(len(ids) for ids, _ in turns)
    ids = torch.full((len(turns), longest), 2)
    labels = torch.full((len(turns), longest), IGNORED)
    weights = torch.zeros(len(turns), longest)
    for row, (turn, reply_at) in enumerate(turns):
        ids[row, : len(turn)] = torch.tensor(turn)
        labels[row, reply_at - 1 : len(turn) - 1] = torch.tensor(turn[reply_at:])
        weights[row, reply_at - 1 : len(turn) - 1] = (len(turn) - reply_at) ** -0.7
    positions = torch.arange(start, start + longest).expand(len(turns), -1)
    hidden = model.model(ids, past_key_values=cache, position_ids=positions, use_cache=True).last_hidden_state
    chosen = labels != IGNORED
    losses = functional.cross_entropy(model.lm_head(hidden[chosen]), labels[chosen], reduction="none")
    return (losses * weights[chosen]).sum(), ids.numel()


def draw(school: School, rng: random.Random, share: float, grown: bool) -> Lesson:
    """A lesson for this point of the curriculum (`share` of the time used, 0..1)."""
    kind = rng.random()
    if kind < 0.10:
        return lessons.rewriting(school, rng, 3)
    if kind < 0.18:
        return lessons.closed_book(school, rng, 10)
    if not grown and (share < 0.15 or (share < 0.3 and kind < 0.4)):
        return lessons.first_reading(school, rng, 10)
    return lessons.reading(school, rng, 2 if share < 0.3 and not grown else 5, 9)


def learning_rate(share: float, peak: float, steps: int) -> float:
    """Linear warm-up over 100 steps, constant, then a linear fall to 4 % over the last 40 % of the time."""
    return peak * min(1.0, (steps + 1) / 100) * max(0.04, min(1.0, (1 - share) / 0.4))


def train(model: Any, tok: Any, school: School, folder: Path, minutes: float, peak: float, seed: int, grown: bool) -> None:
    """Train until the minutes are used up; every two minutes a checkpoint, every 50 steps a line."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    done, checkpoint = Progress(), folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = Progress(**state["progress"])
    rng = random.Random(f"{seed}/{done.steps}")
    last_save, mean = time.monotonic(), 0.0
    while (share := done.seconds / (60 * minutes)) < 1:
        began = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(share, peak, done.steps)
        total = 0.0
        for _ in range(2 if share < 0.3 else 3):
            loss, read = loss_of(model, draw(school, rng, share, grown), tok, 0.1 if share < 0.3 else 0.0)
            (loss / 3).backward()
            total, done.tokens = total + float(loss.detach()) / 3, done.tokens + read
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done.steps, done.seconds = done.steps + 1, done.seconds + time.monotonic() - began
        mean = 0.98 * mean + 0.02 * total if mean else total
        if done.steps % 50 == 0:
            print(f"{done.steps} steps {done.tokens / 1e6:.2f}M tokens {done.seconds / 60:.1f} min loss {mean:.3f}", flush=True)
        if time.monotonic() - last_save > 120:
            last_save = time.monotonic()
            _checkpoint(checkpoint, model, optimizer, done)
    _checkpoint(checkpoint, model, optimizer, done)


def _checkpoint(path: Path, model: Any, optimizer: Any, done: Progress) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(done)}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    model.save_pretrained(path.parent)


def main() -> None:
    """Command line."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("--out", type=Path, default=Path("microworld/models"))
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--grow", type=Path, help="folder of the trained model to start from")
    parser.add_argument("--school", type=Path, default=Path("runs/school"), help="cache of encoded training worlds")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    folder = args.out / args.name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    tokenizer.build(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    model = new_model(args.name, math.ceil(len(tok) / 64) * 64)
    if args.grow and not (folder / "checkpoint.pt").exists():
        grow(LlamaForCausalLM.from_pretrained(args.grow, dtype=torch.float32), model)
    print(f"{args.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {len(tok)} tokens")
    train(model, tok, open_school(args.school), folder, args.minutes, args.lr, args.seed, bool(args.grow))


if __name__ == "__main__":
    main()
