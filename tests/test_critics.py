"""Critics: the generator asked to verify a claim, an NLI cross-encoder, and what becomes of open sentences."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from wbrag.config import ConfigError
from wbrag.llm.fit import PromptTooLong
from wbrag.llm.scripted import ScriptedLLM, read
from wbrag.prompts import Prompts
from wbrag.schema import Document
from wbrag.units.critics import llm_critic, nli_critic
from wbrag.units.faithful import checked, settled

SOURCES = ["Oakwick\nOakwick is a town.", "Ryeflow\nThe Ryeflow is a river. Oakwick is on the Ryeflow."]


def ask(respond: str, sources: Sequence[str] = SOURCES) -> bool:
    return asyncio.run(llm_critic(ScriptedLLM(lambda prompt: respond), Prompts())("Oakwick is old.", sources))


def test_the_generator_is_asked_to_verify_the_sentence_by_the_sources() -> None:
    llm = ScriptedLLM(read)
    critic = llm_critic(llm, Prompts())
    assert asyncio.run(critic("The Ryeflow is on Oakwick.", SOURCES))  # words, not roles: what a scripted reader can
    assert not asyncio.run(critic("The Ryeflow is a town.", SOURCES))
    documents = [
        Document("0", "Oakwick", "Oakwick is a town."),
        Document("1", "Ryeflow", SOURCES[1].partition("\n")[2]),
    ]
    assert llm.prompts[0] == Prompts().message("claim", documents, question="The Ryeflow is on Oakwick.")


@pytest.mark.parametrize(
    ("reply", "yes"),
    [("SUPPORTS", True), (" supports.", True), ("REFUTES", False), ("", False), ("It SUPPORTS", False), ("yes", False)],
)
def test_yes_is_a_reply_that_begins_with_supports(reply: str, yes: bool) -> None:
    assert ask(reply) is yes


def test_a_source_without_a_title() -> None:
    assert ask("SUPPORTS", ["Oakwick is a town."])


def test_sources_that_do_not_fit_are_dropped_from_the_tail() -> None:
    llm = ScriptedLLM(lambda prompt: "SUPPORTS", max_model_len=40)
    asyncio.run(llm_critic(llm, Prompts())("Oakwick is old.", SOURCES))
    assert "Document 1" in llm.prompts[0]
    assert "Document 2" not in llm.prompts[0]
    with pytest.raises(PromptTooLong):
        asyncio.run(llm_critic(ScriptedLLM(read, max_model_len=9), Prompts())("Oakwick is old.", SOURCES))


TEXT = "Oakwick is a town. Oakwick, a town, is on the Ryeflow. Oakwick lies in Norvale. A town is Oakwick, a river."


def test_open_sentences_are_settled_and_the_rest_stays() -> None:
    found = checked("Oakwick", TEXT, SOURCES, "Where is Oakwick?")
    asked: list[str] = []

    async def critic(sentence: str, sources: Sequence[str]) -> bool:
        asked.append(sentence)
        return "on the" in sentence

    result = asyncio.run(settled(found, SOURCES, critic))
    assert [one.kind for one in found.sentences] == ["stated", "open", "foreign", "open"]
    assert [one.kind for one in result.sentences] == ["stated", "supported", "foreign", "unsupported"]
    assert asked == [one.sentence for one in found.sentences if one.kind == "open"]
    assert result.kept == ("Oakwick is a town.", "Oakwick, a town, is on the Ryeflow.")
    assert result.cut[1].reason == "the critic says no"
    assert asyncio.run(settled(result, SOURCES, critic)) == result


def test_without_a_critic_or_sources_nothing_open_is_supported() -> None:
    found = checked("Oakwick", TEXT, SOURCES, "Where is Oakwick?")
    alone = asyncio.run(settled(found, SOURCES, None))
    assert [one.kind for one in alone.sentences] == ["stated", "unsupported", "foreign", "unsupported"]
    assert alone.cut[0].reason == "no critic to ask"
    without = asyncio.run(settled(found, [], llm_critic(ScriptedLLM(read), Prompts())))
    assert [one.kind for one in without.sentences] == [one.kind for one in alone.sentences]


def cross_encoder(folder: Path, labels: dict[int, str]) -> str:
    """A tiny BERT with random weights whose likeliest label is the third, whatever it reads; a real checkpoint."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir(exist_ok=True)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] oakwick is a town old .".split()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ids = {label: place for place, label in labels.items()}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, id2label=labels, label2id=ids, **shape)
    model = BertForSequenceClassification(config)
    model.classifier.bias.data = torch.tensor([0.0, 0.0, 9.0])[: len(labels)]
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("labels", "yes"),
    [
        (["contradiction", "neutral", "ENTAILMENT"], True),
        (["contradiction", "entailment", "neutral"], False),
        (["entailment", "neutral", "contradiction"], False),
    ],
)
def test_a_cross_encoder_says_yes_where_its_own_entailment_is_likeliest(
    tmp_path: Path, labels: list[str], yes: bool
) -> None:
    critic = nli_critic(cross_encoder(tmp_path, dict(enumerate(labels))), device="cpu")

    async def twice() -> list[bool]:
        return list(await asyncio.gather(critic("Oakwick is old.", SOURCES), critic("old " * 99, ["old " * 99])))

    assert asyncio.run(twice()) == [yes, yes]


def test_a_cross_encoder_for_something_else_is_refused(tmp_path: Path) -> None:
    folder = cross_encoder(tmp_path, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    with pytest.raises(
        ConfigError, match=r"units\.critic: .* none of its labels \(label_0, label_1, label_2\) is entail"
    ):
        nli_critic(folder, device="cpu")
