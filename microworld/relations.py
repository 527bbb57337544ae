"""The relations of the microworld: what can be said of whom, and the words for saying and asking it.

In every template `{s}` is the subject and `{o}` the object. Passages say a fact always in the same words; questions ask
for it in four ways, and claims put it forward in those words or in three others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation: kinds of subject and object, its name as a slot, how it is said, said otherwise, and asked.

    `described` names the object through the subject, where that is an entity: how two-hop questions are put.
    """

    name: str
    subject: str
    object: str
    slot: str
    statement: str
    restated: tuple[str, ...]
    questions: tuple[str, ...]
    described: str = ""

    @property
    def claims(self) -> tuple[str, ...]:
        """The ways in which a claim puts the fact forward."""
        return self.statement, *self.restated


def polar(claim: str) -> str:
    """A claim as a question that takes yes or no."""
    return f"Is it true that {claim.removesuffix('.')}?"


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "born_in", "person", "place", "place of birth",
        "{s} was born in {o}.",
        ("{s} came from {o}.", "{s} was a native of {o}.", "{s} hailed from {o}."),
        ("Where was {s} born?", "What is the birthplace of {s}?", "In which town was {s} born?",
         "Which town did {s} come from?"),
        "the birthplace of {s}",
    ),
    Relation(
        "birth_year", "person", "year", "year of birth",
        "{s} was born in the year {o}.",
        ("{s} came into the world in {o}.", "{s} was a child of the year {o}.", "{s} saw the light of day in {o}."),
        ("When was {s} born?", "In which year was {s} born?", "What is the birth year of {s}?",
         "What year did {s} come into the world?"),
    ),
    Relation(
        "profession", "person", "profession", "profession",
        "{s} worked as a {o}.",
        ("{s} earned a living as a {o}.", "{s} was by trade a {o}.", "{s} made a career as a {o}."),
        ("What was the profession of {s}?", "What did {s} work as?", "How did {s} earn a living?",
         "What was {s} by trade?"),
    ),
    Relation(
        "employer", "person", "company", "employer",
        "{s} was employed by {o}.",
        ("{s} was on the payroll of {o}.", "{s} had a post at {o}.", "{s} was hired by {o}."),
        ("Who employed {s}?", "Which company hired {s}?", "Which company did {s} join?",
         "Who was the employer of {s}?"),
        "the employer of {s}",
    ),
    Relation(
        "teacher", "person", "person", "teacher",
        "{s} learned everything from {o}.",
        ("{s} was a pupil of {o}.", "{s} was taught by {o}.", "{s} had lessons with {o}."),
        ("Who taught {s}?", "Who was the teacher of {s}?", "From whom did {s} learn everything?",
         "Which person taught {s}?"),
        "the teacher of {s}",
    ),
    Relation(
        "instrument", "person", "instrument", "instrument",
        "{s} played the {o}.",
        ("{s} was fond of the {o}.", "{s} made music on the {o}.", "{s} performed on the {o}."),
        ("Which instrument did {s} play?", "What did {s} like to play?", "What was the instrument of {s}?",
         "What instrument was {s} fond of?"),
    ),
    Relation(
        "award", "person", "award", "award received",
        "{s} received the {o}.",
        ("{s} was honoured with the {o}.", "{s} won the {o}.", "{s} was given the {o}."),
        ("Which award did {s} receive?", "What was {s} honoured with?", "What award was {s} given?",
         "Which honour went to {s}?"),
    ),
    Relation(
        "river", "place", "river", "river",
        "{s} lies on the {o}.",
        ("{s} stands on the banks of the {o}.", "{s} is crossed by the {o}.", "{s} draws its water from the {o}."),
        ("Which river flows through {s}?", "On which river does {s} lie?", "What is the river at {s}?",
         "What river is {s} on?"),
    ),
    Relation(
        "town_founded", "place", "year", "year of foundation",
        "{s} was founded in {o}.",
        ("{s} dates from {o}.", "{s} was first settled in {o}.", "{s} began as a village in {o}."),
        ("When was {s} founded?", "In which year was {s} founded?", "What year does the founding of {s} date from?",
         "When did settlers found {s}?"),
    ),
    Relation(
        "known_for", "place", "product", "known for",
        "{s} is known for its {o}.",
        ("{s} is famous for its {o}.", "{s} attracts visitors with its {o}.", "{s} is visited for its {o}."),
        ("What is {s} known for?", "What do visitors come to {s} for?", "Which goods of {s} are sold far away?",
         "What goods is {s} famous for?"),
    ),
    Relation(
        "mayor", "place", "person", "mayor",
        "{s} was governed by {o}.",
        ("{s} had as its mayor {o}.", "{s} was led by {o}.", "{s} was in the hands of {o}."),
        ("Who was the mayor of {s}?", "Who was elected mayor of {s}?", "Whom did {s} choose as mayor?",
         "Which person was mayor of {s}?"),
        "the mayor of {s}",
    ),
    Relation(
        "seat", "company", "place", "headquarters",
        "{s} has its seat in {o}.",
        ("{s} is based in {o}.", "{s} has its head office in {o}.", "{s} is run from {o}."),
        ("Where is the seat of {s}?", "Where is {s} based?", "In which town does the head office of {s} stand?",
         "Which town is home to {s}?"),
        "the seat of {s}",
    ),
    Relation(
        "founder", "company", "person", "founder",
        "{s} was set up by {o}.",
        ("{s} was started by {o}.", "{s} owes its existence to {o}.", "{s} was brought to life by {o}."),
        ("Who set up {s}?", "Who started {s}?", "Who was the founder of {s}?", "Which person founded {s}?"),
        "the founder of {s}",
    ),
    Relation(
        "company_year", "company", "year", "year of opening",
        "{s} opened in {o}.",
        ("{s} began trading in {o}.", "{s} has been in business since {o}.", "{s} first unlocked its doors in {o}."),
        ("When did {s} open?", "In which year did {s} begin trading?", "What year did the doors of {s} open?",
         "When did {s} begin?"),
    ),
    Relation(
        "makes", "company", "product", "product",
        "{s} makes {o}.",
        ("{s} produces {o}.", "{s} manufactures {o}.", "{s} earns its money with {o}."),
        ("What does {s} make?", "What is the main product of {s}?", "What does {s} sell?",
         "Which goods come from {s}?"),
    ),
    Relation(
        "author", "book", "person", "author",
        "{s} was written by {o}.",
        ("{s} came from the pen of {o}.", "{s} is the work of {o}.", "{s} has as its author {o}."),
        ("Who wrote {s}?", "Who is the author of {s}?", "By whom was {s} written?", "Which person wrote {s}?"),
        "the author of {s}",
    ),
    Relation(
        "published", "book", "year", "year of publication",
        "{s} was published in {o}.",
        ("{s} came out in {o}.", "{s} was first printed in {o}.", "{s} reached the bookshops in {o}."),
        ("When was {s} published?", "In which year did {s} come out?", "When was {s} first printed?",
         "What year is the first printing of {s} from?"),
    ),
    Relation(
        "setting", "book", "place", "setting",
        "{s} is set in {o}.",
        ("{s} takes place in {o}.", "{s} has its scene in {o}.", "{s} tells a story from {o}."),
        ("Where is {s} set?", "Where does the story of {s} take place?", "In which town is {s} set?",
         "Which town is the scene of {s}?"),
        "the setting of {s}",
    ),
    Relation(
        "genre", "book", "genre", "genre",
        "{s} is a {o}.",
        ("{s} is classed as a {o}.", "{s} is shelved as a {o}.", "{s} is read as a {o}."),
        ("What kind of book is {s}?", "What is the genre of {s}?", "What is {s} shelved as?",
         "What do critics call {s}?"),
    ),
)  # fmt: skip
BY_NAME = {r.name: r for r in RELATIONS}
BY_SUBJECT = {kind: tuple(r for r in RELATIONS if r.subject == kind) for kind in ("person", "place", "company", "book")}

#: Second hops: the relation that names the bridge entity, then a fact of that entity.
TWO_HOPS = tuple((a.name, b.name) for a in RELATIONS if a.described for b in BY_SUBJECT[a.object])

LEADS = (
    "According to parish records, ", "As the almanac notes, ", "Old letters confirm that ", "It is on record that ",
)  # fmt: skip
FILLERS = (
    "The matter was discussed at length.", "Little else is known of those days.", "The winter was long that year.",
    "A copy is kept in the archive.", "Readers sent in many letters.", "The weather stayed mild.",
    "The market was busy as usual.", "Several guests arrived late.", "The report was printed twice.",
    "Nobody could say why.", "The road was closed for repairs.", "A small crowd had gathered.",
)  # fmt: skip
