"""Every setting is described in full, with the bounds that are enforced; the page says the same."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from contracts.settings import KafkaSettings, Settings, reference
from contracts.settings.description import SettingDescription, describe_settings
from contracts.settings.groups import GROUPS
from contracts.settings.words import default_in_words, values_in_words

ROOT = Path(__file__).parents[3]
SETTINGS = {setting.name: setting for setting in describe_settings()}
NUMBERS = {name: s for name, s in SETTINGS.items() if s.type in ("integer", "number")}

# The unit that a name ends with, before a _max or _min.
UNITS = {"s": "s", "ms": "ms", "bytes": "bytes", "mb": "MiB", "pixels": "pixels"}
IN_WORDS = {"s": "second", "ms": "millisecond", "bytes": "byte", "MiB": "MiB", "pixels": "pixel"}
# These numbers are not quantities.
NO_UNIT = {
    "TIDELENS_PORT",
    "TIDELENS_ENCODE_METRICS_PORT",
    "TIDELENS_TARGET_RECALL",
    "TIDELENS_LABEL_PROBABILITY_MIN",
}
OPENERS = "Of|For|As|The same|Those|Where|With|Until|To|What|Whether|How|Who"
TICS = r"\b(told|tells|anew|whoever|ours|is no|to be had|so long|what for|or else)\b"


def test_every_setting_is_in_one_group_whose_class_settings_inherit() -> None:
    classes = [group.settings for group in GROUPS if group.settings is not KafkaSettings]
    assert classes == list(reversed(Settings.__bases__))
    fields = {(s.group.settings is KafkaSettings, s.field) for s in describe_settings()}
    wanted = {(False, name) for name in Settings.model_fields}
    assert fields == wanted | {(True, name) for name in KafkaSettings.model_fields}
    assert max(Counter(setting.name for setting in describe_settings()).values()) == 1
    assert len({group.name for group in GROUPS}) == len({g.title for g in GROUPS}) == len(GROUPS)
    assert all(group.read_by for group in GROUPS)


def test_every_description_is_sentences_in_plain_english() -> None:
    for name, setting in SETTINGS.items():
        text = setting.description
        assert re.match(r"[A-Z`]", text) and text.endswith("."), name
        assert not re.match(rf"({OPENERS})\b", text), name
        assert not re.search(TICS, text, re.IGNORECASE), name
        assert "  " not in text and not re.search(r"(?<![\d`])\.\d", text), name
        assert len(text.split()) >= 5 and len(text) <= 250, name
        if setting.unit in IN_WORDS:
            assert IN_WORDS[setting.unit] in text, name


def test_every_number_has_a_unit_and_a_default_within_its_bounds() -> None:
    for name, setting in NUMBERS.items():
        assert (setting.unit is None) == (name in NO_UNIT), name
        words = [word for word in setting.field.split("_") if word not in ("max", "min")]
        if words[-2:] == ["per", "s"]:
            assert setting.unit == "bytes/s"
        elif words[-1] in UNITS:
            assert setting.unit == UNITS[words[-1]], name
        elif "seconds" in words:
            assert setting.unit == "s", name
        least = setting.bounds.get("minimum", setting.bounds.get("above"))
        assert least <= setting.default <= setting.bounds["maximum"], name
        assert setting.default != setting.bounds.get("above"), name


def test_the_bounds_that_are_shown_are_the_ones_enforced() -> None:
    def taken(setting: SettingDescription, value: float) -> bool:
        try:
            setting.group.settings(**{setting.field: value})
        except ValidationError:
            return False
        return True

    for name, setting in NUMBERS.items():
        bounds = setting.bounds
        step = 1 if setting.type == "integer" else 1e-3
        assert taken(setting, bounds["maximum"]), name
        assert not taken(setting, bounds["maximum"] + step), name
        lowest = bounds["minimum"] if "minimum" in bounds else bounds["above"] + step
        assert taken(setting, lowest), name
        assert not taken(setting, bounds.get("above", lowest - step)), name


def test_every_default_can_be_written_as_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, setting in SETTINGS.items():
        shown = default_in_words(setting)
        if shown == "unset" or name == "TIDELENS_DATA":  # its default is another for each user
            continue
        before = getattr(setting.group.settings(), setting.field)
        monkeypatch.setenv(name, "" if shown == "empty" else shown.partition(" (")[0])
        assert getattr(setting.group.settings(), setting.field) == before, name


@pytest.mark.parametrize(
    ("name", "values", "default"),
    [
        ("ENCODE_BATCH_PICTURES", "integer, 1 to 4096 pictures", "32"),
        ("HEADER_TIMEOUT_S", "number, above 0, at most 3600 s", "10.0"),
        ("RESTART_PAUSE_MAX_S", "number, 0.01 to 3600 s", "60.0"),
        ("RECORD_BYTES_MAX", "integer, 1 to 1073741824 bytes", "4194304 (4 MiB)"),
        ("LOG_FORMAT", "one of auto, human, json", "auto"),
        ("REMOTE_CODE", "true or false", "false"),
        ("BROKERS", "text, at most 4096 characters", "unset"),
        ("ROOT_PATH", r"text, at most 255 characters, pattern ^(/[A-Za-z0-9_~-]", "empty"),
        ("ALLOW_ROOTS", "JSON list, at most 1000 entries, each: path", "[]"),
        ("REFERENCE_PORTS", "JSON list, at most 1000 entries, each: integer, 1 to 65535", "[443]"),
        ("KAFKA_SSL_PASSWORD", "secret, at most 4096 characters", "unset"),
    ],
)
def test_values_and_defaults_in_words(name: str, values: str, default: str) -> None:
    setting = SETTINGS[f"TIDELENS_{name}"]
    assert values_in_words(setting).startswith(values)
    assert default_in_words(setting) == default


def test_a_templates_list_has_a_least_length() -> None:
    words = values_in_words(SETTINGS["TIDELENS_QUERY_TEMPLATES"])
    assert words == "JSON list, 1 to 128 entries, each: text, at most 4096 characters"


def test_the_page_is_as_the_code_has_it() -> None:
    assert reference.PAGE == ROOT / "docs" / "settings.md"
    page = reference.page()
    assert reference.PAGE.read_text() == page
    assert all(f"| `{name}` |" in page for name in SETTINGS)


def test_the_check_fails_on_a_page_that_is_out_of_date(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reference, "PAGE", tmp_path / "settings.md")
    monkeypatch.setattr(sys, "argv", ["reference", "--check"])
    with pytest.raises(SystemExit, match="is out of date"):
        reference.main()
    monkeypatch.setattr(sys, "argv", ["reference"])
    reference.main()
    monkeypatch.setattr(sys, "argv", ["reference", "--check"])
    reference.main()
