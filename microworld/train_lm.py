"""Train a micro model: `python -m microworld.train_lm micro_small --minutes 45`.

The recipe: Llama architecture, AdamW, a curriculum from a few bare sentences to five retrieved documents, and lessons
that read a context once and answer many requests about it (their prompts share the prefix, so its keys and values are
computed once; positions and attention are those of the separate prompts). Time is the budget: the learning rate follows
the share of the minutes used, the curriculum how far the lessons are learnt; training checkpoints every two minutes and
resumes from there.
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
from microworld.look_back import look_back
from microworld.school import open_school

SHAPES = {
    "micro_small": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4},
    "micro_large": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8},
}
#: Running loss at which bare sentences are learnt well enough to go on to retrieved documents.
FIRST_LEARNT = 0.9
#: What a token of a request counts in the loss; a reply of n tokens counts n ** 0.3.
REQUEST_WEIGHT = 0.05


@dataclass
class Progress:
    """What a checkpoint carries beside the weights."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    first: float = 3.0  # running loss of the first lessons: the curriculum goes on when it has fallen,
    read: float = 3.0  # and again when that of reading has

    @property
    def early(self) -> bool:
        """Whether the first lessons are not learnt yet; once reading has begun it goes on."""
        return self.first > FIRST_LEARNT and self.read == Progress.read


def new_model(shape: str, vocabulary: int) -> Any:
    """A fresh Llama of one of SHAPES: heads of 32, 4,096 positions, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": vocabulary, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 32,
        "max_position_embeddings": 4096, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 2, "initializer_range": 0.04, **SHAPES[shape],
    }  # fmt: skip
    config = LlamaConfig.from_dict(settings)
    return LlamaForCausalLM(config)


def grow(small: Any, large: Any) -> None:
    """Give `large` the function of `small`: old layers spread among new ones whose outputs start at zero."""
    large.model.embed_tokens.load_state_dict(small.model.embed_tokens.state_dict())
    large.lm_head.load_state_dict(small.lm_head.state_dict())
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
    # The template's space stands before whatever comes first, and makes one token with it.
    before, after = (f" {lesson.shared}", "") if lesson.shared else ("", " ")
    shared = tok.encode(f"{tokenizer.BEGIN}<|user|>{before}", add_special_tokens=False)
    turns = []
    for request, reply in lesson.turns:
        asked = tok.encode(f"{after}{request}{tokenizer.END}<|assistant|>", add_special_tokens=False)
        turns.append((asked + tok.encode(f" {reply}{tokenizer.END}", add_special_tokens=False), len(asked)))
    return shared, turns


def loss_of(model: Any, lesson: Lesson, tok: Any) -> tuple[torch.Tensor, float, int]:
    """What to minimise over a lesson, the part of it that its replies make, and the tokens read."""
    from transformers import DynamicCache

    shared, turns = encode(lesson, tok)
    past = [
        (layer.keys, layer.values)
        for layer in model.model(torch.tensor([shared]), use_cache=True).past_key_values.layers
    ]
    loss, replies, read = torch.zeros(()), 0.0, len(shared)
    long = [t for t in turns if len(t[0]) - t[1] > 24]
    for group in filter(None, (long, [t for t in turns if t not in long])):
        cache = DynamicCache()
        for i, (k, v) in enumerate(past):
            cache.update(k.expand(len(group), -1, -1, -1), v.expand(len(group), -1, -1, -1), i)
        part, of_replies, n = _turns_loss(model, group, cache, len(shared))
        loss, replies, read = loss + part / len(turns), replies + of_replies / len(turns), read + n
    return loss, replies, read


def _turns_loss(
    model: Any, turns: list[tuple[list[int], int]], cache: Any, start: int
) -> tuple[torch.Tensor, float, int]:
    """Sum over turns of the loss, and its part on replies, given the cache of the prefix they share.

    The request counts too, a little: to finish a name that stands in the documents is what teaches looking back.
    """
    longest = max(len(ids) for ids, _ in turns)
    ids = torch.full((len(turns), longest), 2)
    labels = torch.zeros_like(ids)
    weights = torch.zeros(len(turns), longest)
    for row, (turn, reply_at) in enumerate(turns):
        ids[row, : len(turn)] = torch.tensor(turn)
        labels[row, : len(turn) - 1] = torch.tensor(turn[1:])
        weights[row, : reply_at - 1] = REQUEST_WEIGHT
        weights[row, reply_at - 1 : len(turn) - 1] = (len(turn) - reply_at) ** -0.7
    positions = torch.arange(start, start + longest).expand(len(turns), -1)
    hidden = model.model(ids, past_key_values=cache, position_ids=positions, use_cache=True).last_hidden_state
    chosen = weights > 0
    losses = functional.cross_entropy(model.lm_head(hidden[chosen]), labels[chosen], reduction="none")
    is_reply = weights[chosen] != REQUEST_WEIGHT
    weighted = losses * weights[chosen]
    return weighted.sum(), float(weighted.detach()[is_reply].sum()), ids.numel()


def draw(school: School, rng: random.Random, done: Progress, grown: bool) -> tuple[str, Lesson]:
    """A lesson for this point of the curriculum, and its kind: retrieved documents once the first steps are made."""
    kind = rng.random()
    if done.early and not grown:
        most = 1 if done.first > 1.3 else 2 if done.first > 1.1 else 4
        return "first", lessons.first_reading(school, rng, 10, most)
    if kind < 0.16:
        return "rewriting", lessons.rewriting(school, rng, 4)
    if kind < 0.22:
        return "closed book", lessons.closed_book(school, rng, 16)
    if kind < 0.38:
        return "checking", lessons.checking(school, rng, 24, 5)
    if kind < 0.42 and not grown:
        return "first", lessons.first_reading(school, rng, 12, 5)
    most = 5 if grown or done.read < 1.6 else 2 if done.read < 2.0 else 1
    return "reading", lessons.reading(school, rng, most, 12)


def learning_rate(share: float, peak: float, steps: int) -> float:
    """Linear warm-up over 100 steps, constant, then a linear fall to 4 % over the last 40 % of the time."""
    return peak * min(1.0, (steps + 1) / 100) * max(0.04, min(1.0, (1 - share) / 0.4))


def train(
    model: Any, tok: Any, school: School, folder: Path, minutes: float, peak: float, seed: int, grown: bool
) -> None:
    """Train until the minutes are used up; every two minutes a checkpoint, every 50 steps a line."""
    optimizer = torch.optim.AdamW(_groups(model), betas=(0.9, 0.98))
    done, checkpoint = Progress(), folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = Progress(**state["progress"])
    rng, last_save = random.Random(f"{seed}/{done.steps}"), time.monotonic()
    while (share := done.seconds / (60 * minutes)) < 1:
        began = time.monotonic()
        early = done.early and not grown
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(share, peak, done.steps) * (0.1 if group["begun"] and early else 1.0)
        lessons_a_step = 8 if early else 6
        for _ in range(lessons_a_step):
            kind, lesson = draw(school, rng, done, grown)
            loss, replies, read = loss_of(model, lesson, tok)
            (loss / lessons_a_step).backward()
            done.tokens += read
            if kind == "first":
                done.first += 0.01 * (replies - done.first)
            elif kind == "reading":
                done.read += 0.01 * (replies - done.read)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done.steps, done.seconds = done.steps + 1, done.seconds + time.monotonic() - began
        if done.steps % 50 == 0:
            spent = f"{done.steps} steps {done.tokens / 1e6:.2f}M tokens {done.seconds / 60:.1f} min"
            print(f"{spent} loss of first lessons {done.first:.3f}, of reading {done.read:.3f}", flush=True)
        if time.monotonic() - last_save > 120:
            last_save = time.monotonic()
            _checkpoint(checkpoint, model, optimizer, done)
    _checkpoint(checkpoint, model, optimizer, done)


def _groups(model: Any) -> list[dict[str, Any]]:
    """Parameter groups: `begun` is what `look_back` set, which goes slowly at first lest early steps wash it out."""
    layers = len(model.model.layers)
    begun = [f"layers.{i}.self_attn" for i in (0, 1)] + ["embed_tokens", "lm_head"]
    begun += [f"layers.{i}.self_attn.{p}_proj" for i in range(2, layers) for p in "vo"]
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, p in model.named_parameters():
        groups.setdefault((any(b in name for b in begun), p.ndim == 2), []).append(p)
    return [{"params": ps, "begun": b, "weight_decay": 0.05 if matrix else 0.0} for (b, matrix), ps in groups.items()]


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
    if not (folder / "checkpoint.pt").exists():  # a resumed model keeps its tokens
        tokenizer.build(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    model = new_model(args.name, math.ceil(len(tok) / 64) * 64)
    look_back(model)
    if args.grow and not (folder / "checkpoint.pt").exists():
        grow(LlamaForCausalLM.from_pretrained(args.grow, dtype=torch.float32), model)
    print(f"{args.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {len(tok)} tokens")
    train(model, tok, open_school(args.school), folder, args.minutes, args.lr, args.seed, bool(args.grow))


if __name__ == "__main__":
    main()
