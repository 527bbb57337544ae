"""What can be no part of a unit: each class by what weak models write, and nothing true and short."""

# ruff: noqa: RUF001 -- other scripts have signs that look like Latin ones

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microworld.relations import FILLERS, RELATIONS
from microworld.world import District, district
from wbrag.prompts import TEMPLATES
from wbrag.units.refusals import bare, refused

TITLE, QUESTION = "Oakwick", "On which river does Oakwick lie?"
REFUSED = {
    "echo": [
        "On which river does Oakwick lie?",
        "The question is on which river does Oakwick lie.",
        "What is the river at Oakwick?",
        "The answer to the question is: 2019-01-01.",
        "The answer to the question 'On which river' is: 'When'.",
        "The document is: 'Document 1 (Title: Oakwick): Oakwick lies on the Ryeflow.'",
        "Document 1 (Title: Oakwick): Oakwick lies on the Ryeflow.",
        "Question: the river of Oakwick.",
        "Evidence: Oakwick lies on the Ryeflow.",
        "Rewrite the evidence into one compact passage.",
        "Give only the short final answer.",
        "The first is a title line that names the subject.",
        "State each fact once, add nothing.",
        "The provided documents tell of Oakwick.",
        "The passage states that Oakwick lies on the Ryeflow.",
        "Verify the claim.",
        "オークウィックはどの川にありますか？",
    ],
    "answer": [
        "The answer is the Ryeflow.",
        "So the final answer is Ryeflow.",
        "Answer: the Ryeflow.",
        "The Ryeflow is the answer.",
        "Ryeflow.",
        "The Ryeflow",
        "the river Ryeflow",
        "91 %",
        "1712",
        "Yes.",
        "no",
        "Yes, it does lie there.",
        "SUPPORTS",
        "Unknown.",
        "The Duke of York and the Earl of Essex.",
        "Nikola Tesla in 1943.",
        "Oakwick",
        "東京。",
        "दिल्ली।",
        "القاهرة.",
    ],
    "empty_list": [
        "-",
        "1.",
        "1. 2. 3.",
        "- \n* \n",
        "Here are the facts:",
        "# \nFacts about the town:\n-",
        "",
        " \n",
        "事実：",
    ],
    "half_sentence": [
        "lies on the Ryeflow since it was founded.",
        "Oakwick lies on the Ryeflow and is known for",
        "Oakwick lies on the.",
        "Oakwick lies on the Ryeflow and...",
        "Oakwick is known for its lamps…",
        ", which lies on the Ryeflow in the north.",
        "東京都は日本の首都で",
        "、日本の首都である。",
        "दिल्ली भारत की राजधानी",
        "القاهرة عاصمة مصر وأكبر",
        "москва лежит на реке.",
    ],
}
FINE = [
    "Oakwick lies on the Ryeflow.",
    "It was him.",
    "Oakwick makes lamps.",
    "Tesla died in 1943.",
    '"Oakwick" is a town (in the north).',
    "- Oakwick lies on the Ryeflow.",
    "iPhone sales rose in 2010.",
    "van Gogh painted it.",
    "al-Khwarizmi wrote it.",
    "1,345,596 people lived there in 2010.",
    "It has vitamin A.",
    "He won the prize.[3]",
    "The question of the river was settled in 1712.",
    "Answers to the letter came from the town.",
    "No town lies there.",
    "True crime is a genre of books.",
    'She wrote the novel "Do You Love Me?"',
    "The document is kept in the archive.",
    "OAKWICK LIES ON THE RYEFLOW.",
    "Berlin ist groß.",
    "Köln liegt am Rhein.",
    "東京都は日本の首都である。",
    "「東京」は首都だ。」",
    "दिल्ली भारत की राजधानी है।",
    "القاهرة عاصمة مصر.",
    "ประเทศไทยอยู่ในเอเชีย",
    "Москва лежит на реке.",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in REFUSED.items() for text in texts])
def test_refused_by_class(kind: str, text: str) -> None:
    assert refused(text, TITLE, QUESTION).partition(":")[0] == kind


@pytest.mark.parametrize("text", FINE)
def test_true_and_short(text: str) -> None:
    assert refused(text, TITLE, QUESTION) == ""


@pytest.mark.parametrize("key", TEMPLATES)
def test_every_prompt_of_some_length_is_known_by_its_words(key: str) -> None:
    longest = max(TEMPLATES[key].split("\n"), key=len)
    text = f"It is told that {longest.format_map(dict.fromkeys(NAMED, 'Oakwick'))} in the town."
    if len(longest.replace("{", "\n").split("\n")[0].split()) > 4:
        assert refused(text, TITLE, QUESTION).startswith("echo: an instruction")


NAMED = "documents request rank title text question evidence answer phrase subject".split()


def test_words_of_other_prompts() -> None:
    told = "Summarise what you have read about {subject} in plain words."
    assert refused("Summarise what you have read about it.", TITLE, QUESTION) == ""
    assert refused("Summarise what you have read about it.", TITLE, QUESTION, [told]).startswith("echo: an instruction")


def test_a_claim_is_no_question_that_could_be_echoed() -> None:
    assert refused("Oakwick lies on the Ryeflow.", TITLE, "Oakwick lies on the Ryeflow.") == ""
    assert refused("Oakwick [SEP] river is known.", TITLE, "Oakwick [SEP] river") == "echo: the question"
    assert refused("He asked who played daisy duke.", TITLE, "who played daisy duke") == "echo: the question"


@pytest.fixture(scope="module")
def place() -> District:
    return district(11, 1)


def test_nothing_that_the_microworld_says_is_refused(place: District) -> None:
    facts = [fact for told in place.facts.values() for fact in told]
    claims = {relation.name: relation.claims for relation in RELATIONS}
    said = [fact.fill(claim) for fact in facts for claim in claims[fact.relation]]
    said += [s.text() for p in place.passages for s in p.sentences]
    assert {text: why for text in (*said, *FILLERS) if (why := refused(text, "", QUESTION))} == {}


@given(st.text(max_size=60), st.text(max_size=20), st.text(max_size=40))
def test_any_text_is_judged(text: str, title: str, question: str) -> None:
    kind = refused(text, title, question).partition(":")[0]
    assert kind in ("", "echo", "answer", "empty_list", "half_sentence")
    if not text.strip():
        assert kind == "empty_list"


def test_a_sentence_loses_the_marker_before_it_and_no_hyphen_in_it() -> None:
    assert bare(" - Tesla (10 July 1856 – 7 January 1943) was **well-known**.") == (
        "Tesla (10 July 1856 – 7 January 1943) was well-known."
    )
    assert bare("2) A well-known town.") == bare("A well-known town.") == "A well-known town."
