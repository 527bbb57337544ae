"""Name inventories of the microworld and the bijection from a running number to a name.

Every name is made of ordinary words, so that an encoder can tell two names apart: one word or two, the last of which
tells it from most others. Where the names of a kind are used up (places first, after 30 districts) they come again with
a number behind them. A `famous` name uses pieces of its own.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

STEMS = (
    "Ash Brook Stone Wind Black White Green Gold Silver Copper Iron Oak Elm Birch Thorn Rose Hazel Maple Cedar Alder "
    "Fox Wolf Hawk Raven Swan Crane Heron Badger Stag Lamb Hare Finch Wren Lark Dove Salmon Pike Rye Clover Fern "
    "Moss Frost Snow Rain Storm Cloud Cliff Marsh Glen Amber"
).split()
FIRSTS = (
    "Marta Edwin Clara Hugo Alice Victor Nora Felix Greta Oscar Helen Arthur Irene Walter Julia Conrad Laura Martin Stella "
    "Leonard Vera Simon Agnes Robert Diana Philip Emma Daniel Flora George Hilda Henry Joan Isaac Karen Jasper Lydia Lewis "
    "Mabel Magnus Nancy Norman Olive Patrick Paula Ralph Rachel Rupert Sarah Samuel Teresa Thomas Ursula Vincent Wanda "
    "William Yvonne Adrian Beatrice Bernard Cecilia Charles Dorothy Dennis Edith Ernest"
).split()
SURNAME_TAILS = "well worth man son ley wright ward more field kin hart shaw".split()
PLACE_TAILS = "ford combe mouth bury stead haven wick minster ton ham port thorpe".split()
RIVER_TAILS = "water brook burn beck flow rill".split()
COMPANY_TAILS = "line craft mark works point crest loom beam".split()
COMPANY_HEADS = "Royal United Imperial General Standard National Federal Central Universal Allied".split()
ADJECTIVES = (
    "Silent Scarlet Hidden Broken Golden Distant Burning Frozen Gentle Hollow Lonely Patient Restless Solemn Secret "
    "Shining Sleeping Stolen Twisted Wandering Ancient Bitter Careless Dancing Endless Faithful Haunted Painted Quiet Velvet"
).split()
BOOK_HEADS = (
    "lantern orchard garden harbor mirror river window clock letter candle feather mountain island shadow ribbon anchor"
).split()
BOOK_TAILS = "keeper maker seller thief road house song tree light".split()
PROFESSIONS = (
    "glassblower surveyor botanist watchmaker engraver astronomer midwife printer architect chemist sculptor tailor "
    "navigator geologist librarian saddler potter gardener schoolteacher physician bookbinder cartographer locksmith judge"
).split()
INSTRUMENTS = "cello flute harp trumpet piano violin clarinet organ guitar oboe drum bassoon lute accordion".split()
PRODUCTS = (
    "lamps carpets kettles bicycles ropes saddles bells mirrors barrels gloves paper cheese honey tiles buttons candles "
    "clocks boots soap pottery lace knives pianos bricks linen umbrellas"
).split()
GENRES = "novel memoir comedy tragedy ballad biography travelogue satire thriller fable romance chronicle".split()
AWARDS = "Medal Prize Ribbon Cup Cross Star".split()
PAPERS = "Gazette Herald Courier Almanac Record Journal Mercury Chronicle".split()
YEARS = [str(y) for y in range(1500, 1990)]

FAMOUS_STEMS = "Phoenix Griffin Dragon Unicorn Titan Oracle Comet Nova".split()
FAMOUS_FIRSTS = "Aurelia Octavian Cassandra Leonidas".split()
FAMOUS_ADJECTIVES = "Eternal Immortal Celestial Legendary".split()

SLOTS: dict[str, tuple[str, ...]] = {
    "person": ("first", "stem", "surname_tail"),
    "place": ("stem", "place_tail"),
    "river": ("stem", "river_tail"),
    "company": ("company_head", "stem", "company_tail"),
    "book": ("adjective", "book_head", "book_tail"),
    "award": ("adjective", "award"),
    "year": ("year",),
    "profession": ("profession",),
    "instrument": ("instrument",),
    "product": ("product",),
    "genre": ("genre",),
}
FORMATS: dict[str, str] = {
    "person": "{} {}{}",
    "place": "{}{}",
    "river": "{}{}",
    "company": "{} {}{}",
    "book": "{} {}{}",
    "award": "{} {}",
}
PIECES: dict[str, list[str]] = {
    "first": FIRSTS,
    "stem": STEMS,
    "surname_tail": SURNAME_TAILS,
    "place_tail": PLACE_TAILS,
    "river_tail": RIVER_TAILS,
    "company_tail": COMPANY_TAILS,
    "company_head": COMPANY_HEADS,
    "adjective": ADJECTIVES,
    "book_head": [w.capitalize() for w in BOOK_HEADS],
    "book_tail": BOOK_TAILS,
    "award": AWARDS,
    "year": YEARS,
    "profession": PROFESSIONS,
    "instrument": INSTRUMENTS,
    "product": PRODUCTS,
    "genre": GENRES,
}
FAMOUS_PIECES = PIECES | {"stem": FAMOUS_STEMS, "first": FAMOUS_FIRSTS, "adjective": FAMOUS_ADJECTIVES}

#: A renaming of pieces, slot by slot: {slot: {piece: piece}}.
Renaming = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Name:
    """An entity or a value: its kind and the pieces its name is put together from, one per slot of the kind."""

    kind: str
    pieces: tuple[str, ...]
    serial: int = 0  # > 0 once a kind's names are used up, in worlds of many millions

    def text(self, renaming: Renaming | None = None) -> str:
        """The written name, its pieces replaced where a renaming is given."""
        pieces = self.pieces
        if renaming:
            pieces = tuple(renaming[s].get(p, p) for s, p in zip(SLOTS[self.kind], pieces, strict=True))
        text = FORMATS.get(self.kind, "{}").format(*pieces)
        return f"{text} {self.serial + 1}" if self.serial else text


def name(kind: str, number: int, seed: int, famous: bool = False) -> Name:
    """The `number`-th name of a kind in the world of `seed`: different numbers give different names."""
    inventory = [(FAMOUS_PIECES if famous else PIECES)[slot] for slot in SLOTS[kind]]
    size = math.prod(len(pieces) for pieces in inventory)
    serial, number = divmod(number, size)
    rest = (number * _stride(size, seed) + seed * 7919) % size
    chosen = []
    for pieces in inventory:
        rest, i = divmod(rest, len(pieces))
        chosen.append(pieces[i])
    return Name(kind, tuple(chosen), serial)


def words() -> list[str]:
    """Every word of every name, those with a serial number apart."""
    found = set()
    for inventory in (PIECES, FAMOUS_PIECES):
        for kind, slots in SLOTS.items():
            left = list(slots)
            for word in FORMATS.get(kind, "{}").split():
                parts = [inventory[left.pop(0)] for _ in range(word.count("{}"))]
                found |= {"".join(pieces) for pieces in itertools.product(*parts)}
    return sorted(found)


def renaming(rng: random.Random) -> Renaming:
    """A random bijection of every slot's pieces; look-alikes stay look-alikes, famous names stay themselves."""
    return {slot: dict(zip(pieces, rng.sample(pieces, len(pieces)), strict=True)) for slot, pieces in PIECES.items()}


def _stride(size: int, seed: int) -> int:
    stride = random.Random(f"stride/{seed}/{size}").randrange(size // 3, size)
    while math.gcd(stride, size) != 1:
        stride += 1
    return stride
