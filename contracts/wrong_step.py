"""The error of the state machines."""

from enum import Enum


class WrongStep(RuntimeError):
    """A step of the server's own that the state does not allow; it is a defect."""


def require_state(subject: str, state: Enum, *expected: Enum) -> None:
    """Raise WrongStep, saying what was expected and what the state is, unless it is expected."""
    if state not in expected:
        wanted = " or ".join(one.name for one in expected)
        raise WrongStep(f"{subject}: want {wanted}, got {state.name}")
