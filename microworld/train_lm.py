"""Train the micro models, from nothing and from the smaller one:

    python -m microworld.train_lm micro_small
    python -m microworld.train_lm micro_large --lr 8e-4 --grow microworld/models/micro_small

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
import multiprocessing
import os
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn import functional

from microworld import tokenizer
from microworld.curriculum import Progress, draw, learning_rate
from microworld.lessons import Lesson, School
from microworld.look_back import ROPE_THETA, look_back
from microworld.school import open_school

SHAPES = {
    "micro_small": {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 5},
    "micro_large": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 10},
}
#: What a token of a request counts in the loss; a reply of n tokens counts n ** 0.3.
REQUEST_WEIGHT = 0.05


def new_model(shape: str, vocabulary: int) -> Any:
    """A fresh Llama of one of SHAPES: heads of 32, 4,096 positions, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": vocabulary, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 32,
        "max_position_embeddings": 4096, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 2, "initializer_range": 0.04,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA}, **SHAPES[shape],
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


def train(model: Any, tok: Any, school: School, folder: Path, rank: int, args: argparse.Namespace) -> None:
    """One process's part of training until the minutes are used up; the first writes checkpoints and lines.

    Every process draws lessons of its own; gradients and progress are averaged, so all hold the same model.
    """
    optimizer = torch.optim.AdamW(_groups(model), betas=(0.9, 0.98))
    done, checkpoint, grown = Progress(), folder / "checkpoint.pt", bool(args.grow)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = Progress(**state["progress"])
    rng, began = random.Random(f"{args.seed}/{done.steps}/{rank}"), time.monotonic()
    last_save = began
    while (share := done.seconds / (60 * args.minutes)) < 1:
        early = done.early and not grown
        for group in optimizer.param_groups:
            slower = 1.0 if not group["begun"] else 0.1 if early else 0.3
            group["lr"] = slower * learning_rate(share, args.lr, done.steps)
        tokens, lessons_a_step = 0, max(1, (8 if early else 6) // args.workers)
        for _ in range(lessons_a_step):
            kind, lesson = draw(school, rng, done, grown)
            loss, replies, read = loss_of(model, lesson, tok)
            (loss / lessons_a_step).backward()
            tokens += read
            done.note(kind, replies)
        began, seconds = time.monotonic(), time.monotonic() - began
        seconds, tokens_of_all, done.first, done.read, done.check = _averaged(
            model, [seconds, tokens * args.workers, done.first, done.read, done.check]
        )
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done.steps, done.seconds, done.tokens = done.steps + 1, done.seconds + seconds, done.tokens + tokens_of_all
        if rank:
            continue
        if done.steps % 50 == 0:
            print(done, flush=True)
        if time.monotonic() - last_save > 120:
            last_save = time.monotonic()
            _checkpoint(checkpoint, model, optimizer, done)
    if not rank:
        _checkpoint(checkpoint, model, optimizer, done)


def _averaged(model: Any, figures: list[float]) -> list[float]:
    """Average the gradients over all processes, and these figures."""
    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([torch.tensor(figures), *(g.reshape(-1) for g in gradients)])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    at = len(figures)
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    return [float(x) for x in flat[: len(figures)]]


def _groups(model: Any) -> list[dict[str, Any]]:
    """Parameter groups: `begun` is what `look_back` set, which goes slowly lest early steps wash it out."""
    begun = [f"layers.{i}.{part}" for i in (0, 1) for part in ("self_attn", "input_layernorm")]
    begun += ["embed_tokens", "lm_head"]
    begun += [f"self_attn.{p}_proj" for p in "vo"]
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, p in model.named_parameters():
        groups.setdefault((any(b in name for b in begun), p.ndim == 2), []).append(p)
    return [{"params": ps, "begun": b, "weight_decay": 0.05 if matrix else 0.0} for (b, matrix), ps in groups.items()]


def _checkpoint(path: Path, model: Any, optimizer: Any, done: Progress) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": vars(done)}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    # Half the bytes in the repository; the config still says float32, which is what they are computed in.
    model.save_pretrained(path.parent, state_dict={name: p.bfloat16() for name, p in model.state_dict().items()})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("--out", type=Path, default=Path("microworld/models"))
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--grow", type=Path, help="folder of the trained model to start from")
    parser.add_argument("--school", type=Path, default=Path("runs/school"), help="cache of encoded training worlds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1 if torch.cuda.is_available() else os.cpu_count())
    args = parser.parse_args()
    folder = args.out / args.name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "checkpoint.pt").exists():  # a resumed model keeps its tokens
        tokenizer.build(folder)
    open_school(args.school)  # once, before every process reads it
    with tempfile.TemporaryDirectory() as meeting:
        with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as processes:
            list(processes.map(_work, range(args.workers), *([x] * args.workers for x in (meeting, folder, args))))


def _work(rank: int, meeting: str, folder: Path, args: argparse.Namespace) -> None:
    """One training process: a thread and a model of its own, on the GPU where there is one."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    distributed.init_process_group("gloo", f"file://{meeting}/processes", rank=rank, world_size=args.workers)
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    torch.manual_seed(args.seed)
    tok = AutoTokenizer.from_pretrained(folder)
    model = new_model(args.name, math.ceil(len(tok) / 64) * 64)
    look_back(model)
    if args.grow:
        grow(LlamaForCausalLM.from_pretrained(args.grow, dtype=torch.float32), model)
    if not rank:
        print(f"{args.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {len(tok)} tokens")
    train(model, tok, open_school(args.school), folder, rank, args)


if __name__ == "__main__":
    main()
