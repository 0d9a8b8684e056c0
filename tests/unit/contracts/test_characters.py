"""Blank texts, and the characters that a log line may contain when they come from a stranger."""

import orjson
import pytest

from contracts.characters import escaped, escaped_json, is_blank

BLANKS = ["", " ", "\t\r\n", "\u3000\xa0\u2003", "\x00\x1b\x7f\x85", "\u200b\u200d\ufeff\u2060"]
BLANKS += ["\u2028\u2029", "\u202e\u2066", "\xad\u034f\u061c", "\u3164\u115f\uffa0\u2800", "\ufe0f"]
BLANKS += ["\U000e0041\U000e0100", " \u200b \n"]


@pytest.mark.parametrize("text", BLANKS)
def test_what_shows_nothing_is_blank(text: str) -> None:
    assert is_blank(text)
    assert not is_blank(f"{text}a{text}")


@pytest.mark.parametrize("text", ["a", ".", "0", "\u0301", "\u732b", "\U0001f408", "\ue000"])
def test_what_shows_anything_is_not(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x07\x00", r"\x1b[2J\x07\x00"),
        ("\x7f\x9b31m\x85", r"\x7f\x9b31m\x85"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066x\u2069\u200e\u061c", r"\u2066x\u2069\u200e\u061c"),
        ("pay\u200dpal\u200b\ufeff", r"pay\u200dpal\u200b\ufeff"),
        ("cat\ufe0f\u034f\xad\u3164", r"cat\ufe0f\u034f\xad\u3164"),
        ("\ud800\udfff", r"\ud800\udfff"),
        ("x\U000e0041", r"x\U000e0041"),
        ("\u200dx", r"\u200dx"),
        ("\u732b\u200d\u732b", "\u732b\\u200d\u732b"),
    ],
)
def test_what_acts_or_hides_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a cat, 'quoted' \\ and so on",
        "\u732b\u3000\u732b \xa0 \u00e9e\u0301",
        "\u05d7\u05ea\u05d5\u05dc",
        # Emoji with joiners and selectors: a family, a heart, a keycap, a skin tone, a profession.
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f 1\ufe0f\u20e3",
        "\U0001f469\U0001f3fd\u200d\U0001f680 \U0001f3f3\ufe0f\u200d\U0001f308",
        # Persian and Hindi cannot be written without joiners.
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0915\u094d\u200d\u0937 \u0915\u094d\u200c\u0937",
    ],
)
def test_what_people_write_is_left_as_it_is(text: str) -> None:
    assert escaped(text) == text


def test_json_is_the_same_json_and_does_nothing_to_a_terminal() -> None:
    value = {"a\x9b": "\x1b[2J\x7f\x85\u202e\u2028\U0001f468\u200d\U0001f469\n\\u202e"}
    document = escaped_json(orjson.dumps(value).decode())
    assert orjson.loads(document) == value
    assert not set("\x1b\x7f\x85\x9b\u202e\u2028\n") & set(document)
