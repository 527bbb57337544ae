"""The micro models' tokenizer: byte-level BPE in which every name falls into the pieces it is made of.

Words are cut where a name's tail begins; left to itself BPE merges across the seam (" R", "y", "ef", "ord"), and no two
names share a token.

A word is the same token wherever it stands: a line's first word has a space before it too (the normaliser puts it
there), and a reply begins with one. To copy a name is then to repeat tokens, which small models learn soon; with one
token for " Ash" and another for "Ash" at the start of a line or reply, the same training had not begun to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microworld.names import FAMOUS_PIECES, PAPERS, PIECES
from microworld.relations import FILLERS, LEADS, RELATIONS
from wbrag.prompts import DEFAULTS

VOCABULARY = 3072
BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TAILS = ("surname_tail", "place_tail", "river_tail", "company_tail", "book_tail")


def build(folder: Path) -> None:
    """Train the tokenizer and save it, chat template included, as `AutoTokenizer` reads it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace("\n", "\n ")
    tails = "|".join(sorted({tail for slot in _TAILS for tail in PIECES[slot]}, key=len, reverse=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"(?<=\p{{L}})(?:{tails})(?!\p{{L}})"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [BEGIN, END, PAD, "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=4096,
    ).save_pretrained(folder)  # fmt: skip


def _texts() -> Iterator[str]:
    """The world's words; tails stand alone and never behind their stem, so that no merge joins the two."""
    wording = [t for r in RELATIONS for t in (*r.statements, *r.questions, r.polar, r.described, r.slot)]
    for template in (*wording, *FILLERS, *LEADS, *DEFAULTS.values(), "unknown", "none", "[SEP]"):
        for part in template.replace("{", "\x00{").replace("}", "}\x00").split("\x00"):
            if part and not part.startswith("{"):
                yield from [f" {part.lstrip()}"] * 60
    for slot, pieces in (*PIECES.items(), *FAMOUS_PIECES.items(), ("paper", PAPERS)):
        for piece in pieces:
            if slot in _TAILS:
                yield from [f"X{piece}"] * 40
            elif slot != "year":
                yield from [f" {piece}"] * 40
