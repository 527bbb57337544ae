"""Train the micro models, from nothing and from the smaller one; the last line gives a trained one the words it lacks:

    python -m microworld.train_lm micro_small --minutes 46
    python -m microworld.train_lm micro_small --minutes 14 --lr 1e-3 --grow microworld/models/micro_small --compare
    python -m microworld.train_lm micro_large --lr 8e-4 --grow microworld/models/micro_small
    python -m microworld.train_lm micro_small --minutes 0 --grow microworld/models/micro_small

The recipe: Llama architecture, AdamW, a curriculum from a few bare sentences to seven retrieved documents, and lessons
that read a context once and answer many requests about it (their prompts share the prefix, so its keys and values are
computed once; positions and attention are those of the separate prompts). Time is the budget: the learning rate follows
the share of the minutes used, the curriculum how far the lessons are learnt; training checkpoints every two minutes and
resumes from there: `checkpoint.pt` of a training that is done is removed before another one into the same folder.
`--grow FROM` starts from a trained model, smaller or equal: its layers are kept, new ones begin as the identity, and
tokens that its vocabulary lacks are read as those they stand for. With no minutes that is all.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from microworld import tokenizer
from microworld.comparing import Shown, compare, spare_heads
from microworld.curriculum import Progress, draw, learning_rate
from microworld.lesson_loss import encode, loss_of
from microworld.lessons import Lesson, School, checking, reading
from microworld.look_back import ROPE_THETA, look_back
from microworld.school import open_school

SHAPES = {
    "micro_small": {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 5},
    "micro_large": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 10},
}


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


def grow(small: Any, large: Any, alike: Sequence[tuple[int, int]] = ()) -> None:
    """Give `large` the function of `small`: old layers spread among new ones whose outputs start at zero.

    alike: (token that `small` may not have, the one that it is read as at first). No new token is ever said at first.
    """
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        old_rows, rows = small.get_parameter(name).data, large.get_parameter(name).data
        rows[:] = old_rows[-1]  # the vocabulary is padded: this one is no token
        rows[: len(old_rows)] = old_rows
    for new, known in alike:
        large.model.embed_tokens.weight.data[new] = large.model.embed_tokens.weight.data[known]
    large.model.norm.load_state_dict(small.model.norm.state_dict())
    old, every = small.model.layers, len(large.model.layers) // len(small.model.layers)
    for i, layer in enumerate(large.model.layers):
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
        if i % every == 0:
            for name, tensor in old[i // every].state_dict().items():
                target = layer.get_parameter(name).data
                target[tuple(slice(n) for n in tensor.shape)] = tensor


def examples_of(drawn: Iterable[Lesson], tok: Any) -> list[Shown]:
    """The requests of these lessons that put something forward."""
    found = []
    for lesson in drawn:
        shared, rows = encode(lesson, tok)
        found += [Shown(shared + r.ids[: r.reply_at], len(shared) + r.right[0], r.right[1]) for r in rows if r.right]
    return found


def learn_to_compare(model: Any, tok: Any, school: School) -> None:
    """Set the heads of `comparing` in a model that reads, by what it holds on 100 lessons."""
    rng = random.Random("compare")
    drawn = [reading(school, rng, 5, 12) if i % 5 < 3 else checking(school, rng, 16, 16) for i in range(100)]
    tests = [draw(school, rng, Progress(read=1.0), grown=True)[1] for _ in range(8)]

    @torch.no_grad()
    def loss() -> float:
        return sum(loss_of(model, lesson, tok)[1] for lesson in tests)

    spare = [spare_heads(model, layer, loss) for layer in (-2, -1)]
    verdicts = [
        tuple(tok.encode(f" {word}", add_special_tokens=False)[0] for word in pair)
        for pair in (("no", "yes"), ("REFUTES", "SUPPORTS"))
    ]
    compare(model, examples_of(drawn, tok), (spare[0][0], spare[1][:2]), verdicts)


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
    while done.seconds < 60 * args.minutes:
        share = done.seconds / (60 * args.minutes)
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
    parser.add_argument("--compare", action="store_true", help="set heads that compare, in a model that reads (--grow)")
    parser.add_argument("--school", type=Path, default=Path("runs/school"), help="cache of encoded training worlds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1 if torch.cuda.is_available() else os.cpu_count())
    args = parser.parse_args()
    if args.compare and not args.grow:
        parser.error("--compare needs --grow: it reads what a trained model holds")
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
        grow(LlamaForCausalLM.from_pretrained(args.grow, dtype=torch.float32), model, tokenizer.read_alike(tok))
    if not rank:
        print(f"{args.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, {len(tok)} tokens")
    school = open_school(args.school)
    if args.compare:
        learn_to_compare(model, tok, school)
    train(model, tok, school, folder, rank, args)


if __name__ == "__main__":
    main()
