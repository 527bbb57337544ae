"""Who is asked about what no rule decides, whether sources bear a sentence out: the generator or an NLI model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import lru_cache

from wbrag.config import ConfigError
from wbrag.llm import LLM
from wbrag.llm.fit import ask
from wbrag.prompts import Prompts
from wbrag.retrieval.encoder import loaded
from wbrag.schema import Document
from wbrag.units.faithful import Critic

#: Longest reply to a claim, in tokens.
VERDICT_TOKENS = 8


def critic_of(critic: str, llm: LLM, prompts: Prompts) -> Critic | None:
    """The critic that `units.critic` names: "llm" is the generator, "none" nobody, any other an NLI cross-encoder."""
    if critic == "none":
        return None
    return llm_critic(llm, prompts) if critic == "llm" else nli_critic(critic)


def llm_critic(llm: LLM, prompts: Prompts) -> Critic:
    """The generator, asked to verify each sentence as a claim by the sources: yes is a reply that begins with SUPPORTS.

    Sources that do not fit are dropped from the tail. The critic raises PromptTooLong where not even the first fits.
    """

    async def supports(sentence: str, sources: Sequence[str]) -> bool:
        lines = [source.split("\n", 1) for source in sources]
        documents = [Document(str(i), "".join(title), text) for i, (*title, text) in enumerate(lines)]
        reply, _ = await ask(llm, prompts, "claim", VERDICT_TOKENS, documents, question=sentence)
        return reply.text.strip().upper().startswith("SUPPORTS")

    return supports


@lru_cache(maxsize=1)
def nli_critic(model: str, device: str | None = None) -> Critic:
    """A cross-encoder for natural-language inference: yes where one source entails the sentence, its likeliest label.

    `model` is a folder, a hub name or `package:<module>`, as an encoder's. Its configuration says which label is
    entailment; ConfigError where none is. Of a source longer than the model reads, the rest is not seen.
    """
    from sentence_transformers import CrossEncoder

    encoder = loaded(CrossEncoder, model, device=device)
    labels = {int(place): str(label).lower() for place, label in encoder.config.id2label.items()}
    entailment = next((place for place, label in labels.items() if label.startswith("entail")), None)
    if entailment is None:
        told = ", ".join(labels.values())
        raise ConfigError(f"units.critic: {model} is no NLI model: none of its labels ({told}) is entailment")

    one_at_a_time = threading.Lock()  # a tokenizer that two threads use at once raises "Already borrowed"

    def entailed(sentence: str, sources: Sequence[str]) -> bool:
        pairs = [(" ".join(source.split()), sentence) for source in sources]
        with one_at_a_time:
            scores = encoder.predict(pairs, show_progress_bar=False)
        return any(int(row.argmax()) == entailment for row in scores)

    async def supports(sentence: str, sources: Sequence[str]) -> bool:
        return await asyncio.to_thread(entailed, sentence, sources)

    return supports
