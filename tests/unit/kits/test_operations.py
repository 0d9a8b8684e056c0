"""The scenarios of tests/soak/operators.py, which is run by hand, are whole."""

import inspect

from tests.soak.operations import scenarios


def test_every_scenario_has_a_title_and_can_be_run() -> None:
    found = scenarios()
    assert "store_away" in found
    for name, (title, run) in found.items():
        assert title.endswith("."), name
        assert inspect.iscoroutinefunction(run), name
        assert list(inspect.signature(run).parameters) == ["ground"], name
