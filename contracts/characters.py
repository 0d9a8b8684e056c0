"""Invisible characters, and characters that act on a terminal.

Texts come from strangers. A text of blanks has nothing to search for. A text with an escape
sequence or a line break could look, on a terminal or in a log, as if Tidelens had written it.
"""

import re
import unicodedata

# Control characters, separators of lines and paragraphs, and lone surrogates.
_CONTROLS = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
# Unicode's Default_Ignorable_Code_Point, which no font shows: joiners, marks and overrides of the
# writing direction, fillers, variation selectors, tags.
_IGNORABLE = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_BRAILLE_BLANK = "\u2800"
_VISIBLE = re.compile(f"[^\\s{_CONTROLS}{_IGNORABLE}{_BRAILLE_BLANK}]")
_HIDDEN = re.compile(f"[{_CONTROLS}{_IGNORABLE}]")
# JSON escapes only the characters below U+0020; these act on a terminal too.
_ACTIVE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_EMOJI_STYLES = "\ufe0e\ufe0f"
_KEYCAP = "\u20e3"
_VIRAMA = 9


def is_blank(text: str) -> bool:
    """Return whether nothing of `text` is visible: only spaces, controls, zero-width characters."""
    return _VISIBLE.search(text) is None


def require_visible(text: str) -> str:
    """Return `text`. Raise ValueError if it is blank, since its vector would be arbitrary."""
    if is_blank(text):
        raise ValueError("want a text that shows something, got only blanks")
    return text


def escaped(text: str) -> str:
    r"""Escape control and invisible characters (as \n, \x1b, \u202e), so that `text` is one line.

    Joiners and style selectors stay where a script or an emoji needs them.
    """
    return _HIDDEN.sub(_shown, text)


def escaped_json(document: str) -> str:
    """Escape the characters of a JSON document that would act on a terminal."""
    return _ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _shown(found: re.Match[str]) -> str:
    char, text = found[0], found.string
    before = text[max(0, found.start() - 1) : found.start()]
    after = text[found.end() : found.end() + 1]
    if before and _is_needed(before, char, after):
        return char
    if char in _NAMED:
        return _NAMED[char]
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_needed(before: str, char: str, after: str) -> bool:
    if char in _EMOJI_STYLES:
        return after == _KEYCAP or unicodedata.category(before) in ("So", "Sm", "Po")
    if char not in (_NON_JOINER, _JOINER) or not after:
        return False
    # The rule for host names (RFC 5892, appendix A): after a virama, and between Arabic letters.
    if unicodedata.combining(before) == _VIRAMA:
        return True
    if char == _NON_JOINER:
        letters = unicodedata.bidirectional(before), unicodedata.bidirectional(after)
        return letters in (("AL", "AL"), ("NSM", "AL"))
    part_of_emoji = unicodedata.category(before) in ("So", "Sk") or before in _EMOJI_STYLES
    return part_of_emoji and unicodedata.category(after) == "So"
