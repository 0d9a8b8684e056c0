"""Random contents and queries for a live check: few ids, and queries of every sort.

Words, colours and groups are few too, so that scores are often equal and lists change all the time.
"""

import io
import json
import random
from typing import Any

import numpy as np
from PIL import Image

from contracts.events.content_event import Content, content_record, delete_record
from contracts.events.record import OutRecord
from contracts.score import exact_scores
from contracts.topics import TARGETS, Names, Target
from tests.oracles.live_lists import ENCODER, text_vector

WORDS = ("red", "green", "blue", "cat", "dog", "sea", "storm", "calm", "old", "new")
# `a/b` and the like must come through in URLs; order by id decides between equal scores.
IDS: dict[Target, tuple[str, ...]] = {
    "images": tuple(f"picture/{n}" for n in range(100)),
    "captions": (*(f"caption-{n}" for n in range(200)), "Ünïcode", "a b"),
}
# Those that queries ask by; they change more often than others.
_ASKED = 10
_GROUPS = (None, "group-1", "group-2", "group-3", "group-4")
_LANGUAGES = ("en", "de", "fr")
_TAGS = ("warm", "cold", "wet")
_FILTERS: tuple[dict[str, Any], ...] = (
    {"eq": {"lang": "en"}},
    {"in": {"lang": ["de", "fr"]}},
    {"range": {"year": {"gte": 2002, "lt": 2006}}},
    {"exists": "year"},
    {"contains": {"tags": "warm"}},
    {"not": {"eq": {"lang": "en"}}},
    {"and": [{"contains": {"tags": "wet"}}, {"not": {"range": {"year": {"lte": 2003}}}}]},
    {"or": [{"eq": {"lang": "de"}}, {"contains": {"tags": "cold"}}]},
)


class Contents:
    """Random contents: puts, repeats, changes of metadata alone, deletes and re-creations."""

    def __init__(self, names: Names, dice: random.Random) -> None:
        self._names = names
        self._dice = dice
        self._now: dict[tuple[Target, str], Content] = {}

    def burst(self) -> list[OutRecord]:
        """Mostly a few records; at times so many that lists change from end to end.

        Now and then most items go at once, so that lists lose all that they had in reserve.
        """
        throw = self._dice.random()
        if throw < 0.01:
            target = self._dice.choice(TARGETS)
            ids = [item_id for item_id in IDS[target] if self._dice.random() < 0.85]
            return [self._delete(target, item_id) for item_id in ids]
        count = 60 if throw < 0.06 else self._dice.randint(1, 6)
        return [self.record() for _ in range(count)]

    def _delete(self, target: Target, item_id: str) -> OutRecord:
        self._now.pop((target, item_id), None)
        return delete_record(self._names.content(target), item_id)

    def record(self) -> OutRecord:
        dice = self._dice
        target = dice.choice(TARGETS)
        item_id = dice.choice(IDS[target][:_ASKED] if dice.random() < 0.2 else IDS[target])
        before = self._now.get((target, item_id))
        throw = dice.random()
        if throw < 0.15:
            return self._delete(target, item_id)
        if before is not None and throw < 0.28:
            what = before
        elif before is not None and throw < 0.5:
            what = before.model_copy(update=self._rest())
        else:
            what = Content(target=target, id=item_id, **self._body(target), **self._rest())
        self._now[target, item_id] = what
        return content_record(self._names.content(target), what, media_type="image/png")

    def _body(self, target: Target) -> dict[str, Any]:
        return {"text": _text(self._dice)} if target == "captions" else {"image": _png(self._dice)}

    def _rest(self) -> dict[str, Any]:
        dice = self._dice
        members = {
            "lang": dice.choice(_LANGUAGES),
            # Sometimes of another type, which matches no range.
            "year": dice.choice((dice.randint(2000, 2008), 2002.5, "unknown")),
            "tags": dice.sample(_TAGS, dice.randint(0, 3)),
        }
        kept = {name: value for name, value in members.items() if dice.random() < 0.8}
        return {"item": dice.choice(_GROUPS), "metadata": kept}


def question(dice: random.Random, *, large: bool = False) -> dict[str, Any]:
    """Create a query of any sort, for either target; a `large` one is sent at length."""
    found = _asked(dice) | {"target": dice.choice(TARGETS)}
    if large:
        return found | {"k": 30, "include": ["vector"]}
    found["k"] = dice.choice((1, 2, 3, 5, 10, 30))
    if dice.random() < 0.3:
        found["min_score"] = _min_score(dice, found)
    if dice.random() < 0.4:
        found["filter"] = dice.choice(_FILTERS)
    if dice.random() < 0.25:
        found["collapse"] = "item"
    if dice.random() < 0.25:
        found["include"] = ["vector"]
    return found


def alert(dice: random.Random) -> dict[str, Any]:
    """Create a query for mode `matches`, whose vector does not change."""
    while '"id"' in json.dumps(found := question(dice)):
        pass
    return {name: value for name, value in found.items() if name not in ("k", "collapse")}


def _asked(dice: random.Random) -> dict[str, Any]:
    match dice.choice(("text", "text", "vector", "id", "id", "fuse")):
        case "text":
            return {"text": _text(dice)}
        case "vector":
            return {"vector": [dice.gauss(0, 1) for _ in range(ENCODER.space.dim)]}
        case "id":
            return _item(dice)
        case _:
            # Unequal weights: the sum is never zero.
            other = _item(dice) if dice.random() < 0.5 else {"text": _text(dice)}
            return {"fuse": [{"text": _text(dice), "weight": 0.7}, {**other, "weight": -0.4}]}


def _item(dice: random.Random) -> dict[str, Any]:
    target = dice.choice(TARGETS)
    return {"id": dice.choice(IDS[target][:_ASKED]), "of": target}


def _min_score(dice: random.Random, query: dict[str, Any]) -> float:
    """Choose a round number, or exactly the score of a text that is likely to be published."""
    if "text" in query and dice.random() < 0.5:
        row = text_vector(_text(dice))[np.newaxis]
        return float(exact_scores(row, text_vector(query["text"]))[0])
    return dice.choice((-0.1, 0.0, 0.2, 0.5))


def _text(dice: random.Random) -> str:
    return " ".join(dice.sample(WORDS, dice.randint(1, 3)))


def _png(dice: random.Random) -> bytes:
    """Return a picture of one of eight colours."""
    colour = tuple(dice.choice((16, 240)) for _ in range(3))
    out = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(out, "PNG")
    return out.getvalue()
