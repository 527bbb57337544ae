"""Whose template a call is made of: the run's, else the backbone's, else wbrag.prompts'."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wbrag.config import Backbone, ConfigError, TrainConfig
from wbrag.prompts import DEFAULTS, prompts_of
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


@pytest.mark.parametrize("changes", [{"backbone": scripted(facts="{question}")}, {"prompts": {"facts": "{question}"}}])
def test_an_unknown_key_is_refused_wherever_it_stands(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"prompts \(or backbone\.prompts\): unknown key 'facts'; known"):
        check_settings(replace(TrainConfig(), **changes))
