"""Preprocess objects that do in a decoder's process what a broken codec would do there.

A picture's red value says which fault it triggers; the child imports this module.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from contracts.ports.encoder import RgbImage

FINE, SEGFAULT, EXIT, SLEEP, BURN, ALLOCATE, RAISE = range(0, 140, 20)


@dataclass(frozen=True, slots=True)
class Marked:
    """A preprocess object that returns the picture, unless its red value asks for a fault."""

    side: int = 64

    def __call__(self, image: RgbImage) -> RgbImage:
        _DOES.get(int(image[0, 0, 0]), _nothing)()
        return image


def _nothing() -> None:
    pass


def _segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _exit() -> None:
    os._exit(3)


def _sleep() -> None:
    time.sleep(1000)


def _burn() -> None:
    while True:
        pass


def _allocate() -> None:
    kept = []
    while True:
        kept.append(np.empty(1 << 20))


def _raise() -> None:
    raise ValueError("a defect of ours")


_DOES: dict[int, Callable[[], None]] = {
    SEGFAULT: _segfault,
    EXIT: _exit,
    SLEEP: _sleep,
    BURN: _burn,
    ALLOCATE: _allocate,
    RAISE: _raise,
}
