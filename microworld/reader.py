"""A micro model asked outside the engine: greedy decoding with Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reader:
    """A checkpoint and its tokenizer; `replies` decodes greedily, in batches of similar length."""

    model: Any
    tokenizer: Any

    def replies(self, contents: Sequence[str], tokens: int) -> list[str]:
        """One reply per user message."""
        order = sorted(range(len(contents)), key=lambda i: len(contents[i]))
        found: dict[int, str] = {}
        for at in range(0, len(order), 32):
            batch = order[at : at + 32]
            chats = [[{"role": "user", "content": contents[i]}] for i in batch]
            texts = self.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
            inputs = self.tokenizer(
                texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
            )
            out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            found.update(
                zip(
                    batch,
                    self.tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True),
                    strict=True,
                )
            )
        return [found[i].strip() for i in range(len(contents))]
