"""The process that decodes pictures and may die of one.

`python -m consumers.images.decoder_process FD BYTES PARENT`: FD names the memory shared with the
parent, which has this number of BYTES; PARENT is the parent's process id. Limits, preprocess and
niceness come first, pickled, on stdin; then, for each picture, the number of its bytes, which are
in the shared memory. An answer on stdout is an `AnswerType` and two numbers; pixels and rejections
replace the picture in the shared memory. Once the header is read, the picture's size in pixels is
written to the end of the shared memory: it decides how long the decoding may take.
"""

import ctypes
import mmap
import os
import pickle
import resource
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson

from consumers.images.decode import IMAGE_SIDE_MAX, decode_image
from contracts.errors import RejectedRecord
from contracts.ports.encoder import Preprocess
from contracts.supervision.children import die_with_parent

REQUEST = struct.Struct("<Q")
ANSWER = struct.Struct("<BQQ")
SIZE = struct.Struct("<Q")

# After a picture of more pixels than this, free memory of the heap goes back to the system: a TIFF
# of 49 megapixels left 190 MB in the process. Giving it back takes some milliseconds.
_LARGE_PIXELS = 4_000_000


class AnswerType(IntEnum):
    """The type of an answer, which says what its two numbers are."""

    READY = 0
    PIXELS = 1  # height, width
    REJECTED = 2  # bytes of JSON, the members of a RejectedRecord
    MEMORY = 3


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """The limits of decoding one picture.

    `seconds_max` is the processor time for `pixels_max` pixels; a smaller picture has its share of
    it, but at least `seconds_min`. `memory_bytes_max` is address space beyond what the process
    takes without a picture. `side_max` limits the longer side, in pixels.
    """

    bytes_max: int
    pixels_max: int
    seconds_max: float
    memory_bytes_max: int
    seconds_min: float = 1.0
    side_max: int = IMAGE_SIDE_MAX

    def seconds(self, pixels: int) -> float:
        """Return the seconds of processor time that decoding a picture of `pixels` may take."""
        share = self.seconds_max * pixels / self.pixels_max
        return min(self.seconds_max, max(self.seconds_min, share))


def main() -> None:
    """Answer requests until stdin ends."""
    # The process also dies with its parent: a codec that hangs never sees the end of stdin.
    die_with_parent(int(sys.argv[3]))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    limits, preprocess, nice = pickle.load(requests)
    os.nice(nice)
    shared = mmap.mmap(int(sys.argv[1]), int(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = _memory_bytes() + limits.memory_bytes_max
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    _say(answers, AnswerType.READY)
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while len(request := requests.read(REQUEST.size)) == REQUEST.size:
        (size,) = REQUEST.unpack(request)
        answer = _answer(shared, size, limits, preprocess)
        # Read before the parent has the answer: it then clears the size for the next picture.
        (pixels,) = SIZE.unpack_from(shared, len(shared) - SIZE.size)
        _say(answers, *answer)
        if give_back is not None and pixels > _LARGE_PIXELS:
            give_back(0)


def _memory_bytes() -> int:
    """Return the address space that this process takes without a picture."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _say(answers: BinaryIO, answer_type: AnswerType, first: int = 0, second: int = 0) -> None:
    answers.write(ANSWER.pack(answer_type, first, second))
    answers.flush()


def _answer(
    shared: mmap.mmap, size: int, limits: DecodeLimits, preprocess: Preprocess
) -> tuple[AnswerType, int, int]:
    def sized(pixels: int) -> None:
        SIZE.pack_into(shared, len(shared) - SIZE.size, pixels)

    try:
        image = decode_image(
            shared[:size],
            bytes_max=limits.bytes_max,
            pixels_max=limits.pixels_max,
            side_hint=preprocess.side,
            side_max=limits.side_max,
            sized=sized,
        )
        image = preprocess(image)
        np.frombuffer(shared, np.uint8, image.size)[:] = image.reshape(-1)
        return AnswerType.PIXELS, image.shape[0], image.shape[1]
    except RejectedRecord as rejection:
        members = orjson.dumps(rejection.members())
        shared[: len(members)] = members
        return AnswerType.REJECTED, len(members), 0
    except MemoryError:
        return AnswerType.MEMORY, 0, 0


if __name__ == "__main__":
    main()
