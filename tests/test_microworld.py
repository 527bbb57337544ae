"""The microworld: determinism, unique names, facts that are told, questions that can be answered, exact prompts."""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from microworld import lessons, questions, turns
from microworld.generate import Plan, _write_questions, generate
from microworld.lessons import School, closed_book, reading, rewriting
from microworld.names import SLOTS, name, renaming, words
from microworld.relations import RELATIONS
from microworld.tokenizer import build, phrases, read_alike, restatements
from microworld.world import district, famous
from wbrag.prompts import Prompts
from wbrag.report.overlap import TrainingQuestions

MODEL = Path(__file__).parents[1] / "microworld" / "models" / "micro_small"
seeds = st.integers(0, 10**6)
#: Transformers has no useful types.
Tokenizer: TypeAlias = Any


@given(seeds, st.sampled_from(sorted(set(SLOTS) - {"year", "profession", "instrument", "product", "genre"})))
@settings(max_examples=20)
def test_names_of_a_kind_are_all_different(seed: int, kind: str) -> None:
    assert len({name(kind, i, seed).text() for i in range(7000)}) == 7000


@given(seeds)
@settings(max_examples=5)
def test_a_district_depends_on_seed_and_number_alone(seed: int) -> None:
    assert district(seed, 3) == district(seed, 3)
    assert district(seed, 3).passages != district(seed + 1, 3).passages


@given(seeds)
@settings(max_examples=5)
def test_every_fact_is_told_and_every_telling_is_a_fact(seed: int) -> None:
    place = district(seed, 0)
    facts = {f for fs in (place.facts | famous()).values() for f in fs}
    assert {s.fact for p in place.passages for s in p.sentences if s.fact} == facts


@given(seeds)
@settings(max_examples=5)
def test_a_renaming_is_a_bijection_that_spares_the_famous(seed: int) -> None:
    renamed = renaming(random.Random(seed))
    assert all(sorted(m) == sorted(m.values()) for m in renamed.values())
    fact = next(iter(famous().values()))[0]
    assert fact.fill("{s} {o}", renamed) == fact.fill("{s} {o}")


def test_a_lead_in_keeps_the_sentence_recoverable() -> None:
    for passage in district(1, 0).passages:
        for s in passage.sentences:
            if s.lead:
                rest = s.text().removeprefix(s.lead)
                assert rest[0].upper() + rest[1:] == s.bare()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world on disk."""
    out = tmp_path_factory.mktemp("world")
    generate(out, Plan(seed=5, districts=6, train=60, test=90))
    return out


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The shipped tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def rows(path: Path) -> list[dict[str, object]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_generation_is_repeatable(world: Path, tmp_path: Path) -> None:
    generate(tmp_path, Plan(seed=5, districts=6, train=60, test=90))
    files = sorted(p.relative_to(world) for p in world.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert all((world / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)


@pytest.mark.parametrize("benchmark", questions.BENCHMARKS)
def test_answers_stand_in_the_passages_named(world: Path, benchmark: str) -> None:
    corpus = {str(r["id"]): str(r["contents"]) for r in rows(world / "corpus.jsonl")}
    asked = rows(world / benchmark / "train.jsonl")
    assert len(asked) == 60
    for row in asked:
        metadata, answers = row["metadata"], row["golden_answers"]
        assert isinstance(metadata, dict)
        assert isinstance(answers, list)
        assert metadata["passages"]
        if benchmark not in ("boolq", "fever"):
            assert any(answers[0].lower() in corpus[p].lower() for p in metadata["passages"])


def test_overlap_is_labelled_and_lifelike(world: Path) -> None:
    summary = json.loads((world / "world.json").read_text())
    labels = [r["metadata"]["overlap"] for r in rows(world / "nq" / "test.jsonl")]  # type: ignore[index]
    assert {x: labels.count(x) for x in ("question", "answer", "none")} == summary["overlap"]["nq"]
    assert min(summary["overlap"]["nq"].values()) > 0


@pytest.mark.parametrize("benchmark", sorted(questions.TRUE))
def test_an_equal_label_is_no_overlap(world: Path, benchmark: str) -> None:
    told = json.loads((world / "world.json").read_text())["overlap"][benchmark]
    assert told["answer"] == 0
    assert min(told["question"], told["none"]) > 0
    tested = [row | {"documents_writeback": []} for row in rows(world / benchmark / "test.jsonl")]
    asked = TrainingQuestions(rows(world / benchmark / "train.jsonl"), tested, labels=True)
    for row in tested:
        metadata = row["metadata"]
        assert isinstance(metadata, dict)
        # The world knows more: it calls a question repeated that asks about the same fact in words of its own.
        assert asked.overlap(row) == metadata["overlap"] or metadata["overlap"] == "question"


@pytest.mark.parametrize("benchmark", questions.BENCHMARKS)
def test_no_split_asks_the_same_in_the_same_words_twice(world: Path, benchmark: str) -> None:
    for split in ("train", "test"):
        asked = [str(row["question"]) for row in rows(world / benchmark / f"{split}.jsonl")]
        assert len(set(asked)) == len(asked)


def test_too_few_districts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nq: 0 questions for 1500; ask for more districts"):
        _write_questions(tmp_path, Plan(), {})
    assert not (tmp_path / "nq").exists()


def test_each_shape_is_a_backbone_and_reproduce_runs_them_all() -> None:
    from microworld import train_lm

    conf = Path(__file__).parents[1] / "conf"
    chosen = {path.stem: yaml.safe_load(path.read_text()) for path in (conf / "backbone").glob("micro_*.yaml")}
    assert {name: (b["name"], b["model"]) for name, b in chosen.items()} == {
        name: (name, f"microworld/models/{name}") for name in train_lm.SHAPES
    }
    assert yaml.safe_load((conf / "reproduce.yaml").read_text())["backbones"] == list(train_lm.SHAPES)


@pytest.fixture(scope="module")
def school() -> School:
    """A school whose rankings are random: lessons do not depend on how near the documents are."""
    place, rng = district(3, 0), random.Random(0)
    asked = [questions.ask(b, e, place, rng) for b in questions.BENCHMARKS for e in place.entities]
    numbers = range(len(place.passages))
    return School((place,), place.passages, tuple((q, 0, tuple(rng.sample(numbers, 10))) for q in asked if q))


def test_lessons_ask_in_the_very_prompts_of_the_project(school: School, tokenizer: Tokenizer) -> None:
    from microworld.lesson_loss import encode

    rng = random.Random(4)
    for lesson in (reading(school, rng, 5, 8), closed_book(school, rng, 8), rewriting(school, rng, 3)):
        shared, turns = encode(lesson, tokenizer)
        for turn, (ids, reply_at, _) in zip(lesson.turns, turns, strict=True):
            chat = [{"role": "user", "content": lesson.shared + turn.request}]
            sent = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            assert shared + ids[:reply_at] == sent


def test_every_turn_of_phrase_is_one_token_wherever_it_stands(tokenizer: Tokenizer) -> None:
    written = [p.replace("\n ", "\n") for p in (*phrases(), *restatements()) if p.strip()]
    assert [p for p in written if len(tokenizer.tokenize(p)) != 1] == []
    said = ["\u0120Ashmouth", "\u0120was\u0120founded\u0120in", "\u01201787", "."]
    assert tokenizer.tokenize(" Ashmouth was founded in 1787.") == said
    assert tokenizer.tokenize("No.\nAshmouth was founded in 1787.")[-4:] == said


def test_any_text_survives_the_tokenizer_and_a_fresh_one_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    build(tmp_path)
    fresh = AutoTokenizer.from_pretrained(tmp_path)
    text = "Caf\u00e9 no. 7: 12,345 na\u00efve words\tand \u6771\u4eac, the Ashbrook was a river."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    texts = [text, *phrases(), *restatements(), *(name("person", i, 5).text() for i in range(300))]
    assert [fresh.encode(t) for t in texts] == [tokenizer.encode(t) for t in texts]


def test_each_restatement_is_a_token_of_its_own_read_as_the_statement(tokenizer: Tokenizer) -> None:
    alike = dict(read_alike(tokenizer))
    named = {tokenizer.decode([new]): tokenizer.decode([known]) for new, known in alike.items()}
    heads = {said: named.pop(said) for said in [said for said in named if said.startswith(" Document")]}
    assert heads == {" Document 8 (Title:": " Document 7 (Title:", " Document 9 (Title:": " Document 7 (Title:"}
    assert named == restatements()
    assert named[" was a pupil of"] == " learned everything from"
    assert named[" was by trade an"] == " worked as an"
    assert not set(named) & phrases()
    ids = {new: known for new, known in alike.items() if tokenizer.decode([new]) in named}
    assert max(ids.values()) < min(ids)
    assert all(len({*r.claims}) == 4 for r in RELATIONS)


def test_every_word_of_a_name_is_one_token(tokenizer: Tokenizer) -> None:
    assert [w for w in words() if len(tokenizer.tokenize(f" {w}")) != 1] == []
    named = {w for kind in SLOTS for i in range(200) for w in name(kind, i, 9).text().split()}
    assert {w for w in named if not w.isdigit()} <= set(words())


def test_a_fresh_model_looks_back(tokenizer: Tokenizer) -> None:
    """Codes are drawn at random and now and then meet: what holds holds on average over starts."""
    import torch

    from microworld.look_back import PAIR_UNSEEN, UNSEEN, UNTOLD, look_back
    from microworld.train_lm import new_model

    told = "Nora Ashwell was born in Cliffham. Vera Ryeson makes cheese. Vera Ryeson was born in Cliffham. Ashwick."
    for template, asked, answer in (
        ("support", "Where was Nora Ashwell born?", "Cliffham"),
        ("judge", "Nora Ashwell [SEP] place of birth", "Ashwick"),
    ):
        request = Prompts().templates[template].format(question=asked, answer=answer)
        told += f"\n\n{request}<|end|><|assistant|>"
    ids = torch.tensor([tokenizer.encode(f"<|begin|><|user|> {told}", add_special_tokens=False)])
    tokens = tokenizer.convert_ids_to_tokens(ids[0])
    flags = torch.zeros(len(tokens), 256)
    for seed in range(6):
        torch.manual_seed(seed)
        model = new_model("micro_small", len(tokenizer))
        model.set_attn_implementation("eager")
        look_back(model)
        with torch.no_grad():
            out = model(ids, output_attentions=True, output_hidden_states=True)
        for head, offset in ((0, 1), (1, 2), (2, 3), (5, 6), (6, 7)):
            assert min(float(out.attentions[0][0, head, i, i - offset]) for i in range(8, len(tokens))) > 0.9
        flags += out.hidden_states[2][0] / 6
    born, makes = (tokens.index(f"\u0120{t}") for t in ("was\u0120born\u0120in", "makes"))
    again = [i for i, t in enumerate(tokens) if t == "\u0120Cliffham"][1]
    assert flags[makes, PAIR_UNSEEN] > 2 * flags[again, PAIR_UNSEEN]
    assert flags[born, UNSEEN] > 2 * flags[again, UNSEEN]
    supported, other = (i for i, t in enumerate(tokens) if t == "<|assistant|>")
    assert flags[other, UNTOLD[0]] > 2 * flags[supported, UNTOLD[0]]


def test_a_grown_model_begins_as_the_one_it_grew_from() -> None:
    import torch

    from microworld.look_back import look_back
    from microworld.train_lm import grow, new_model

    small, large = new_model("micro_small", 64), new_model("micro_large", 64)
    look_back(large)
    grow(small, large)
    ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(small(ids).logits, large(ids).logits, atol=1e-5)
    wider = new_model("micro_small", 128)
    grow(small, wider, [(70, 5)])
    with torch.no_grad():
        assert torch.equal(wider(torch.tensor([[3, 70, 4]])).logits, wider(torch.tensor([[3, 5, 4]])).logits)
        assert torch.equal(wider(ids).logits[..., :64], small(ids).logits)
    assert sum(p.numel() for p in large.parameters()) > 2 * sum(p.numel() for p in small.parameters())


def test_right_replies_hold_what_the_page_says(school: School) -> None:
    rng = random.Random(6)
    for _ in range(100):
        lesson = reading(school, rng, 5, 6)
        extract = Prompts().templates["extract"].split("{")[0]
        for turn in lesson.turns:
            if extract in turn.request and turn.reply != "none":
                assert all(line in lesson.shared for line in turn.reply.splitlines())
    assert turns.UNKNOWN == "unknown"


def test_what_should_stand_in_place_of_what_is_put_forward(school: School, tokenizer: Tokenizer) -> None:
    """The token before an answer or a claimed object is taught the right one; the verdict is whether they are equal."""
    from microworld.lesson_loss import encode

    rng, kinds = random.Random(8), set()
    for _ in range(20):
        lesson = lessons.checking(school, rng, 12, 4)
        for turn, row in zip(lesson.turns, encode(lesson, tokenizer)[1], strict=True):
            assert bool(turn.shown) == bool(row.right)
            if row.right:
                place, right = row.right
                assert f" {turn.shown}".startswith(tokenizer.decode(row.ids[place + 1]))
                assert f" {turn.right}".startswith(tokenizer.decode(right))
                assert (turn.shown == turn.right) == (turn.reply in ("yes", "SUPPORTS"))
                kinds.add(turn.reply)
    assert kinds == {"yes", "no", "SUPPORTS", "REFUTES"}


def test_a_head_compares_what_is_shown_with_what_is_expected(school: School, tokenizer: Tokenizer) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from microworld.comparing import compare
    from microworld.train_lm import examples_of

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    rng = random.Random(2)
    found = examples_of((lessons.checking(school, rng, 16, 4) for _ in range(60)), tokenizer)
    learnt, asked = found[100:], found[:100]
    compare(model, learnt, (0, (1, 2)), ())
    there: dict[bool, list[float]] = {True: [], False: []}
    with torch.no_grad():
        for ids, place, right in asked:
            looks = model(torch.tensor([ids]), output_attentions=True).attentions[-2][0, 0, place + 1]
            there[ids[place + 1] == right].append(float(looks[place]))
    # Set from few examples and not trained since, the head is right on the whole, not every time.
    assert statistics.mean(there[True]) > statistics.mean(there[False]) + 0.2


def test_spare_heads_are_those_without_which_the_loss_is_least() -> None:
    import torch

    from microworld.comparing import spare_heads
    from microworld.train_lm import new_model

    model = new_model("micro_small", 64)
    weight = model.model.layers[-1].self_attn.o_proj.weight
    before = weight.detach().clone()

    def loss() -> float:
        without = next(h for h in range(8) if not weight[:, h * 32 : h * 32 + 32].any())
        return float((without - 5) ** 2)

    assert spare_heads(model, -1, loss)[:3] in ([5, 4, 6], [5, 6, 4])
    assert torch.equal(weight, before)


def test_training_resumes_from_its_checkpoint(school: School, tokenizer: Tokenizer, tmp_path: Path) -> None:
    import torch
    from torch import distributed

    from microworld import train_lm
    from microworld.look_back import look_back

    def train(minutes: float) -> dict[str, float]:
        args = argparse.Namespace(minutes=minutes, lr=1e-3, seed=1, workers=1, grow=None)
        model = train_lm.new_model("micro_small", len(tokenizer))
        look_back(model)
        train_lm.train(model, tokenizer, school, tmp_path, 0, args)
        return dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"])

    distributed.init_process_group("gloo", f"file://{tmp_path}/processes", rank=0, world_size=1)
    try:
        first = train(0.01)
        second = train(first["seconds"] / 60 + 0.02)  # however slow the machine: at least one more step
    finally:
        distributed.destroy_process_group()
    assert 0 < first["steps"] < second["steps"]
    assert first["tokens"] < second["tokens"]
    assert second["seconds"] >= first["seconds"] + 1.2
    assert (tmp_path / "model.safetensors").exists()
