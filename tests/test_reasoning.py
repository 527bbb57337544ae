"""What of a reply is scored: nothing that a model thought aloud before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbrag.llm import Token
from wbrag.llm.reasoning import NoAnswer, closes_alone, is_mark, opens, spoken, spoken_tokens

#: A block of reasoning, in the marks of several families, before an answer.
BLOCKS = [
    "<think>\nIs it Rome? No.\n</think>\n\n",
    "<thinking>Is it Rome?</thinking>",
    "<reasoning effort='low'>Is it Rome?</reasoning>\n",
    "<seed:think>Rome?</seed:think>",
    "Is it Rome?\n</think>\n",  # the prompt ended in <think>
    "[THINK]Rome?[/THINK]",
    "\u25c1think\u25b7Rome?\u25c1/think\u25b7",
    "<|START_THINKING|>Rome?<|END_THINKING|><|START_RESPONSE|>",
    "<|begin_of_thought|>Rome?<|end_of_thought|>\n\n<|begin_of_solution|>",
    "<|channel|>analysis<|message|>Rome?<|end|><|start|>assistant<|channel|>final<|message|>",
    "analysisWe think of Rome.assistantfinal",
    "<|channel>thought\nRome?<channel|>",
    "<unused94>thought\nRome?<unused95>",
    "Here is my thought process: Rome?\n\nHere is my response:",
    "<think></think>",
    "<think>one</think> <think>two</think>",
    "<think>Rome?</think>\n<answer>",
    "<inner_monologue>Rome?</inner_monologue>",
    "<chain_of_thought>Rome?</chain_of_thought>\n<final_answer>",
    "<reasoning_content>Rome?</reasoning_content>",
    "&lt;think&gt;Rome?&lt;/think&gt;",
    "<|think|>Rome?<|/think|>",
    "Thinking...\nRome?\n...done thinking.\n\n",
    "<think>Rome?</think><|begin_of_box|>",
    "<answer>",
]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    "end", ["", "\n", "</answer>", "<|return|>", "<|END_RESPONSE|>", "</final_answer>\n<|im_end|>"]
)
def test_the_answer_is_what_stands_behind_the_reasoning(block: str, end: str) -> None:
    assert spoken(f"{block}Paris{end}") == "Paris"


@pytest.mark.parametrize(
    "reply",
    [
        "<think>",
        "  <think>\nIs it Rome?",
        "<Thinking>Is it Rome?",
        "[THINK]Rome",
        "<|channel|>analysis<|message|>Rome?<|end|>",
        "analysisWe think of Rome",
        "<think>one</think><think>two",
    ],
)
def test_a_reply_that_ends_inside_its_reasoning_is_no_answer_and_says_so(reply: str) -> None:
    with pytest.raises(NoAnswer, match=r"ends inside its reasoning, .*; raise backbone\.thinking_tokens"):
        spoken(reply)


def test_where_the_prompt_opened_the_block_a_reply_without_its_end_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="ends inside its reasoning"):
        spoken("Okay, is it Rome", opened=True)
    assert spoken("Okay.</think>Paris", opened=True) == "Paris"
    assert spoken("Paris. <think>Or Rome?") == "Paris."  # it was said before


@given(st.text(st.characters(codec="utf-8", exclude_characters="<[\u25c1"), max_size=60))
def test_a_reply_without_marks_is_its_own_answer(text: str) -> None:
    if not text.lstrip().lower().startswith(("analysis", "here")):
        assert spoken(text) == text.strip()


@pytest.mark.parametrize("text", ["3 < 4 > 2", "I think: Paris", "analysis of it", "a <b>thought</b>", "<p>Paris</p>"])
def test_what_only_looks_like_a_mark_stays(text: str) -> None:
    assert spoken(text) == text


@given(st.sampled_from(BLOCKS), st.integers(1, 7))
def test_tokens_are_cut_where_the_answer_begins_and_ends(block: str, size: int) -> None:
    whole = f"{block}It is Paris<|return|>"
    tokens = [Token(whole[i : i + size], -float(i)) for i in range(0, len(whole), size)]
    kept = spoken_tokens(tokens)
    assert "".join(token.text for token in kept).strip() == "It is Paris"
    assert {token.logprob for token in kept} <= {token.logprob for token in tokens}


def test_how_a_prompt_and_a_reply_tell_that_the_prompt_opened_the_block() -> None:
    assert opens("<|im_start|>assistant\n<think>\n")
    assert not opens("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not opens("<|im_start|>user\nWhat does <think> mean?<|im_end|>\n<|im_start|>assistant\n")
    assert [closes_alone(reply) for reply in ("Rome?</think>Paris", "<think>Rome?</think>Paris", "Paris")] == [
        *(True, False, False)
    ]
    assert [is_mark(token) for token in ("[THINK]", "</think>", "<|channel|>", "<|im_end|>", "</s>")] == [
        *(True, True, True, False, False)
    ]
