"""Whose template a call is made of: the run's, else the backbone's, else wbrag.prompts'."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.config import Backbone, ConfigError, TrainConfig
from wbrag.prompts import DEFAULTS, TEMPLATES, Prompts, placeholders, prompts_of
from wbrag.run.inputs import check_settings, closed_book_identity

QUESTION = "Who wrote it?"


def scripted(**prompts: str) -> Backbone:
    """A backbone with templates of its own."""
    return Backbone(name="scripted", kind="scripted", model="scripted", prompts=prompts)


def test_the_runs_template_comes_before_the_backbones() -> None:
    cfg = TrainConfig(
        backbone=scripted(factoid="B {question}", slot="B slot {question}"), prompts={"slot": "R slot {question}"}
    )
    prompts = prompts_of(cfg)
    assert prompts.message("factoid", question=QUESTION) == f"B {QUESTION}"
    assert prompts.message("slot", question=QUESTION) == f"R slot {QUESTION}"
    assert prompts.message("claim", question=QUESTION) == DEFAULTS["claim"].format(question=QUESTION)


def test_a_closed_book_answer_depends_on_the_backbones_template() -> None:
    plain, own, other = (
        closed_book_identity(TrainConfig(backbone=scripted(**prompts)))
        for prompts in ({}, {"closed_book_factoid": "{question}"}, {"factoid": "{question}"})
    )
    assert plain == other
    assert own["prompts.closed_book_factoid"] == "{question}"


NOT_TEMPLATES = {
    'Reply as JSON, {"answer": "x"}. {question}': r"is no placeholder; it may hold \{question\}; braces .* \{\{ \}\}",
    "Answer {question": r"expected '\}' before end of string; it may hold \{question\}",
    "Answer } {question}": r"Single '\}' encountered",
    "{question!r}": r"\{question\} is no placeholder",
    "{question:>9}": r"\{question\} is no placeholder",
    "{question.text}": r"\{question\.text\} is no placeholder",
    "{} {question}": r"\{\} is no placeholder",
    "{0} {question}": r"\{0\} is no placeholder",
    "{Question}": r"unknown placeholder \{Question\}; it may hold \{question\}",
    "{context} {question}": r"unknown placeholder \{context\}",
    "Answer briefly.": r"\{question\} is missing in 'Answer briefly\.'; it may hold \{question\}",
    "": r"\{question\} is missing in ''",
    "{{question}}": r"\{question\} is missing",
}


@pytest.mark.parametrize("template", NOT_TEMPLATES)
@pytest.mark.parametrize("where", ["run", "backbone"])
def test_a_template_that_asks_nothing_is_refused_with_its_key_and_what_it_may_hold(template: str, where: str) -> None:
    told = rf"prompts\.factoid \(or backbone\.prompts\.factoid\): .*{NOT_TEMPLATES[template]}"
    changes = {"prompts": {"factoid": template}} if where == "run" else {"backbone": scripted(factoid=template)}
    with pytest.raises(ConfigError, match=told):
        check_settings(replace(TrainConfig(), **changes))


@pytest.mark.parametrize(
    ("key", "template", "lacks"),
    [
        ("documents", "{request}", "documents"),
        ("documents", "{documents}", "request"),
        ("document", "({rank}) {title}", "text"),
        ("rewrite", "Rewrite for {question}", "evidence"),
        ("judge", "{question}", "answer"),
        ("about", "Tell all.", "subject"),
    ],
)
def test_each_template_has_placeholders_that_it_cannot_do_without(key: str, template: str, lacks: str) -> None:
    with pytest.raises(ConfigError, match=rf"prompts\.{key} .*\{{{lacks}\}} is missing"):
        Prompts({key: template})


def test_braces_of_its_own_are_doubled_and_rank_and_title_may_be_left_out() -> None:
    prompts = Prompts(
        {"factoid": 'Reply as {{"answer": "x"}}. {question}', "document": "{text}", "rewrite": "{evidence}"}
    )
    assert prompts.message("factoid", question=QUESTION) == f'Reply as {{"answer": "x"}}. {QUESTION}'
    assert prompts.message("factoid", question="{0} }{") == 'Reply as {"answer": "x"}. {0} }{'


@given(st.dictionaries(st.sampled_from(sorted(TEMPLATES)), st.text(max_size=20) | st.sampled_from(["{question}", "{"])))
def test_what_is_not_refused_can_be_filled(overrides: dict[str, str]) -> None:
    try:
        prompts = Prompts(overrides)
    except ConfigError:
        return
    for key in overrides:
        values = {name: f"<{name}>" for name in placeholders(TEMPLATES[key])}
        filled = prompts.templates[key].format(**values)
        assert all(f"<{name}>" in filled for name in placeholders(prompts.templates[key]))


@pytest.mark.parametrize("changes", [{"backbone": scripted(facts="{question}")}, {"prompts": {"facts": "{question}"}}])
def test_an_unknown_key_is_refused_wherever_it_stands(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"prompts \(or backbone\.prompts\): unknown key 'facts'; known"):
        check_settings(replace(TrainConfig(), **changes))
