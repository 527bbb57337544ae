"""Faithful or not at all: verdicts of the rules, checked units, and planted sets of a world and of real passages."""

# ruff: noqa: RUF001 -- other scripts have signs that look like Latin ones

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import XQUAD, Planted, from_microworld, from_xquad

from wbrag.units.faithful import Judged, checked, settled, verdict
from wbrag.units.sentences import sentences, tokens

GILLAN = (
    "Karen Gillan\nKaren Sheila Gillan (born 28 November 1987) is a Scottish actress. She played Amy Pond in the "
    'series "Doctor Who" from 2010 to 2013. Her third film had 1.4 million viewers, 91 % of them women.'
)
THAMES = "River\nThe river rises in Kemble. Locals call the Thames a river of kings."


@pytest.mark.parametrize(
    ("sentence", "what"),
    [
        ("Kara Gillan is a Scottish actress.", "name 'Kara Gillan'"),
        ("Karen Gillan, a Superhero, is an actress.", "name 'Superhero'"),
        ("Karen Amy Gillan is an actress.", "name 'Karen Amy Gillan'"),
        ("Amy Gillan is an actress.", "name 'Amy Gillan'"),
        ("She was seen in London.", "name 'London'"),
        ("Glasgow is where she was born.", "name 'Glasgow'"),
        ("She had 31,288,288 viewers.", "number '31288288'"),
        ("She had 1.4 billion viewers.", "number '1400000000'"),
        ("She had 92% women.", "number '92%'"),
        ("Of 91 viewers 28% were women.", "number '28%'"),
        ("Her fourth film came.", "number '4th'"),
        ("Her four films came.", "number '4'"),
        ("She was born in the 2010s.", "number '2010s'"),
        ("She was born on 28 November 2010.", "date '28 november 2010'"),
        ("She is called “the Doctor Pond”.", "quotation 'the Doctor Pond'"),
        ("Sie heißt „Doktor Who“.", "quotation 'Doktor Who'"),
    ],
)
def test_what_no_source_has_is_foreign(sentence: str, what: str) -> None:
    assert verdict(sentence, [GILLAN], "Karen Gillan") == Judged(sentence, "foreign", what)


@pytest.mark.parametrize(
    "sentence",
    [
        "GILLAN played Pond.",
        "Gillan’s film had 1,400,000 viewers.",
        "The third of her films had 91 percent women.",
        "Three films had 3 viewers.",
        "Born in 1987, Gillan plays in films.",
        "Originally Gillan played in a series.",
        "Known for films, she played Amy.",
        "Actress Karen Gillan played Pond.",
        "Viewers saw Karen Gillan.",
        "She was born on November 28, 1987.",
        "She was born on the 28th of November 1987.",
        'She was in "Doctor Who".',
        "The River Thames rises in Kemble.",
        "The rivers Thames and Kemble rise.",
    ],
)
def test_what_only_says_something_else_is_open(sentence: str) -> None:
    assert verdict(sentence, [GILLAN, THAMES], "Karen Gillan") == Judged(sentence, "open")


@pytest.mark.parametrize(
    ("source", "stands", "open_", "foreign"),
    [
        (
            "東京都\n東京都は日本の首都である。人口は１,４００万人で、1943年に統合された。「江戸」と呼ばれた。",
            "人口は1,400万人で、1943年に統合された。",
            "日本は東京都の首都である。",
            ["人口は1,500万人である。", "1944年に統合された。", "「首府」と呼ばれた。", "Tokyoは日本の首都である。"],
        ),
        (
            "दिल्ली\nदिल्ली भारत की राजधानी है। १९११ में गांधी ने नेहरू को पढ़ाया।",
            "1911 में गांधी ने नेहरू को पढ़ाया।",
            "नेहरू ने गांधी को पढ़ाया।",
            ["१९१२ में गांधी ने नेहरू को पढ़ाया।", "दिल्ली “देश” है।"],
        ),
        (
            "القاهرة\nالقاهرة عاصمة مصر. عَلَّمَ أحمدُ عليًا عام ١٩٦٩.",
            "علم أحمد عليا عام 1969.",
            "علم علي أحمد عام 1969.",
            ["علم أحمد عليا عام ١٩٧٠.", "القاهرة «أم الدنيا»."],
        ),
        (
            "Köln\nKöln liegt am Rhein. Am 7. Mai 1945 lehrte Konrad Adenauer Heinrich Böll. Die Schulen sind alt.",
            "Am 7. Mai 1945 lehrte Konrad Adenauer Heinrich Böll.",
            "Die Schule lehrte Heinrich Böll.",
            ["Köln liegt an der Donau.", "Karl Adenauer lehrte.", "Am 8. Mai 1945 lehrte Adenauer."],
        ),
        (
            "Москва\nМосква лежит на реке. Пушкин учил Гоголя в 1830 году.",
            "Пушкин учил Гоголя в 1830 году.",
            "Гоголь учил Пушкина в 1830 году.",
            ["Чехов учил Гоголя.", "Пушкин учил Гоголя в 1831 году."],
        ),
    ],
    ids=["ja", "hi", "ar", "de", "ru"],
)
def test_other_languages(source: str, stands: str, open_: str, foreign: Sequence[str]) -> None:
    assert verdict(stands, [source]) == Judged(stands, "stated")
    assert verdict(open_, [source]) == Judged(open_, "open")
    assert [verdict(one, [source]).kind for one in foreign] == ["foreign"] * len(foreign)


def test_a_title_is_trusted_by_the_verdict_and_held_against_the_sources_by_the_check() -> None:
    text, question = "Kara Gillan is an actress. She played Amy Pond.", "Who played Amy Pond?"
    assert verdict("Kara Gillan is an actress.", [GILLAN], "Kara Gillan").kind == "open"
    found = checked("Kara Gillan", text, [GILLAN], question)
    assert found.title_fault == "foreign: 'kara gillan'"
    assert [(one.kind, one.reason) for one in found.sentences] == [("foreign", "name 'Kara Gillan'"), ("open", "")]


@pytest.mark.parametrize(
    ("title", "fault"),
    [
        ("Karen Gillan", ""),
        ("", ""),
        ("Karen_Gillan", ""),
        ("Early life of Karen Gillan", ""),
        ("Gillan in Doctor Who", ""),
        ("Amy Gillan", "foreign"),
        ("Doctor Who (2014)", "foreign"),
        ("Oakwick", "foreign"),
        ("?!", "foreign"),
        ("Who played Amy Pond?", "echo"),
        ("Rewrite the evidence into one compact", "echo"),
    ],
)
def test_a_title_has_to_stand_in_the_sources_too(title: str, fault: str) -> None:
    assert checked(title, "", [GILLAN], "Who played Amy Pond?").title_fault.partition(":")[0] == fault


def test_a_checked_unit_says_of_each_sentence_what_becomes_of_it() -> None:
    text = (
        "Karen Gillan is a Scottish actress. She had 31,288,288 viewers. Amy Pond played Karen Gillan. The answer to "
        "the question is: Pond. Facts: - Who played Amy Pond? And in the series"
    )
    found = checked("Karen Gillan", text, [GILLAN], "Who played Amy Pond?")
    assert [one.kind for one in found.sentences] == ["open", "foreign", "open", "echo", "echo", "half_sentence"]
    assert [one.sentence for one in found.sentences if one.kind == "open"] == [
        "Karen Gillan is a Scottish actress.",
        "Amy Pond played Karen Gillan.",
    ]
    assert found.kept == ()
    assert found.cut[0].reason == "number '31288288'"


SENTENCE = st.text(st.sampled_from(" .!?(),AaBbé12।東。「」-"), max_size=60)


@given(st.lists(SENTENCE, max_size=3), SENTENCE, st.sampled_from(["", "Aa", "Bb Aa"]))
def test_nothing_is_lost_and_a_second_check_changes_nothing(sources: list[str], text: str, title: str) -> None:
    found = checked(title, text, sources, "Who is Aa?")
    still = [one.sentence for one in found.sentences if one.kind == "open"]
    assert sorted([*found.kept, *still, *(one.sentence for one in found.cut)]) == sorted(sentences(text))
    for one in found.sentences:
        assert [one] == list(checked(title, one.sentence, sources, "Who is Aa?").sentences)


@given(st.lists(SENTENCE, min_size=1, max_size=3), st.sampled_from(["", "Aa"]))
def test_a_sentence_of_a_source_is_stated_and_nothing_in_it_is_foreign(sources: list[str], title: str) -> None:
    for sentence in (one for source in sources for one in sentences(source)):
        if tokens(sentence).words:
            assert verdict(sentence, sources, title) == Judged(sentence, "stated")


@given(SENTENCE, SENTENCE, st.integers(3_000, 10**9), st.sampled_from("{} {:,} १{}".split()))
def test_a_number_that_no_source_has_is_always_foreign(before: str, source: str, number: int, form: str) -> None:
    sentence = f"{before} {form.format(number)} {before}"
    assert verdict(sentence, [source]).kind == "foreign"


def caught(
    planted: Sequence[Planted], record_property: Callable[[str, object], None]
) -> dict[str, tuple[int, int, int]]:
    """For each kind of change, the sentences, those that the rules alone catch, and those caught with the critic."""
    seen: Counter[tuple[str, str]] = Counter()
    for one in planted:

        async def strict(sentence: str, sources: Sequence[str], one: Planted = one) -> bool:
            return one.supported

        found = checked(one.title, one.sentence, one.sources, "What is told?")
        assert found.title_fault == ""
        seen[one.change, "rules"] += bool(found.cut)
        seen[one.change, "critic"] += bool(asyncio.run(settled(found, one.sources, strict)).cut)
        seen[one.change, "all"] += 1
    kinds = dict.fromkeys(one.change for one in planted)
    figures = {kind: (seen[kind, "all"], seen[kind, "rules"], seen[kind, "critic"]) for kind in kinds}
    for kind, (n, rules, critic) in figures.items():
        record_property(kind or "true sentences", f"{n}: cut by the rules alone {rules}, with a strict critic {critic}")
    return figures


def require_bars(figures: dict[str, tuple[int, int, int]]) -> None:
    """At least 95 % of what is false is caught, at most 5 % of what is true is cut, even where nobody can be asked."""
    false = [figures[kind] for kind in figures if kind]
    assert sum(critic for _, _, critic in false) >= 0.95 * sum(n for n, _, _ in false), figures
    for kind, (n, rules, critic) in figures.items():
        assert rules <= critic
        assert critic >= 0.95 * n if kind else critic <= 0.05 * n, figures


def test_planted_in_the_microworld(record_property: Callable[[str, object], None]) -> None:
    planted = from_microworld(seed=5, each=100)
    figures = caught(planted, record_property)
    assert {kind: n for kind, (n, _, _) in figures.items()} == {"": 300, "name": 100, "number": 100, "relation": 100}
    require_bars(figures)
    true = [one for one in planted if not one.change]
    assert sum(verdict(one.sentence, one.sources, one.title).kind == "stated" for one in true) >= 0.95 * len(true)


@pytest.mark.skipif(not XQUAD.exists(), reason=f"{XQUAD.name} of XQuAD is not here: it lies beside the repository")
def test_planted_in_real_passages(record_property: Callable[[str, object], None]) -> None:
    figures = caught(from_xquad(seed=5, each=100), record_property)
    sizes = {kind: n for kind, (n, _, _) in figures.items()}
    assert sizes.pop("") > 200
    assert sizes == {"name": 100, "number": 100, "order": 100}
    require_bars(figures)
