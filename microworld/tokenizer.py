"""The micro models' tokenizer: byte-level BPE in which a turn of phrase is one token, and so is a word of a name.

The world says and asks everything in a few hundred turns of phrase, so each ("was born in", an instruction) is a token:
texts are less than half as long as cut by words, and training reads that much more of them in its minutes. All other
text, of any language, falls into the pieces that BPE makes of it.

A word is the same token wherever it stands: a line's first word has a space before it too (the normaliser puts it
there), and a reply begins with one. To copy a name is then to repeat tokens, which small models learn soon; with one
token for " Ash" and another for "Ash" at the start of a line or reply, the same training had not begun to read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from microworld.names import FAMOUS_PIECES, PAPERS, PIECES, words
from microworld.relations import FILLERS, LEADS, RELATIONS, polar
from wbrag.prompts import DEFAULTS

#: Tokens that BPE makes, before phrases and names come to them.
VOCABULARY = 768
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

#: Places of documents whose heads are one token each, and the last that lessons show.
RANKS, TAUGHT = range(1, 10), 7


def build(folder: Path) -> None:
    """Train the tokenizer and save it, chat template included, as `AutoTokenizer` reads it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace("\n", "\n ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_cuts()), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [BEGIN, END, PAD, "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_words(), trainer)
    _add_whole(tokenizer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=4096,
    ).save_pretrained(folder)  # fmt: skip


def _cuts() -> str:
    """What is cut out whole: a turn of phrase, a word, a number, a run of signs."""
    turns = "|".join(re.escape(phrase) for phrase in _longest_first((*phrases(), *restatements())))
    return "|".join((rf"(?:{turns})(?!\p{{L}})", r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", r"\s"))


def _longest_first(parts: Iterable[str]) -> list[str]:
    return sorted(parts, key=lambda part: (-len(part), part))


@cache
def phrases() -> frozenset[str]:
    """Every fixed part of the world's sentences and questions and of the prompts, as it stands after a name."""
    said = [t for r in RELATIONS for t in (r.statement, polar(r.statement), *r.questions, r.described)]
    said += [f"{{s}} [SEP] {r.slot}" for r in RELATIONS]
    said += [*FILLERS, *LEADS, *DEFAULTS.values()]
    said += [DEFAULTS["document"].replace("{rank}", str(rank)) for rank in RANKS]
    said += [re.sub(r"\ba (?={)", "an ", t) for t in said]
    said += [t[0].lower() + t[1:] for t in said if t]
    parts = {part.rstrip().replace("\n", "\n ") for t in said for part in re.split(r"{\w+}", t)}
    parts |= {"unknown", "none", "yes", "no", "SUPPORTS", "REFUTES", "[SEP]"}
    spaced = {f" {p.lstrip()}" if p[0].isalnum() or p[0].isspace() or p[0] == "[" else p for p in parts if p.strip()}
    return frozenset(spaced | {"\n \n"})


@cache
def restatements() -> dict[str, str]:
    """What a claim in other words has between its names -> what the statement has there, as `phrases` has them."""
    found = {}
    for relation in RELATIONS:
        for claim in relation.restated:
            for article in ("a", "an"):
                said, stated = (_between(re.sub(r"\ba (?={)", f"{article} ", t)) for t in (claim, relation.statement))
                found[said] = stated
    return found


def _between(template: str) -> str:
    return template.partition("{s}")[2].partition("{o}")[0].rstrip()


def read_alike(tokenizer: Any) -> list[tuple[int, int]]:
    """Tokens that lessons lack, each with the one that it is read like: those of `restatements` with that of the
    statement, and "Document 8" and "Document 9", which no lesson shows, with "Document 7".
    """
    heads = [DEFAULTS["document"].partition("{title}")[0].format(rank=rank) for rank in RANKS if rank >= TAUGHT]
    alike = [*restatements().items(), *((f" {head}", f" {heads[0]}") for head in heads[1:])]
    firsts = [[tokenizer.encode(text, add_special_tokens=False)[0] for text in pair] for pair in alike]
    return [(first, second) for first, second in firsts]


def _words() -> Iterator[str]:
    """What BPE learns its merges from: the words of phrases and the pieces of names."""
    said = re.findall(r"\w+|[^\w\s]+", " ".join(sorted(phrases())))
    pieces = [piece for inventory in (PIECES, FAMOUS_PIECES) for slot in inventory.values() for piece in slot]
    yield from (f" {piece}" for piece in (*said, *pieces))


def _add_whole(tokenizer: Any) -> None:
    """Put phrases and names into the vocabulary; with `ignore_merges` whatever is cut out whole is that one token."""
    from tokenizers import Tokenizer, pre_tokenizers

    content = json.loads(tokenizer.to_str())
    byte_level = pre_tokenizers.ByteLevel(False, use_regex=False)
    vocabulary = content["model"]["vocab"]
    # What came later stands last, so that a model trained before keeps its tokens (`train_lm.grow`).
    whole = [*sorted(phrases()), *(f" {word}" for word in (*words(), *PAPERS)), *sorted(restatements())]
    for text in whole:
        vocabulary.setdefault(byte_level.pre_tokenize_str(text)[0][0], len(vocabulary))
    content["model"]["ignore_merges"] = True
    tokenizer.model = Tokenizer.from_str(json.dumps(content)).model
