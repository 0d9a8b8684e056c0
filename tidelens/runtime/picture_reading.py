"""Readers of pictures by reference, and a converter of those that browsers cannot show."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from consumers.images.browser_picture import JpegConverter, JpegPreprocess
from consumers.images.decoder_pool import BESIDE_QUERIES_NICE, DecoderPool
from consumers.references import ReferenceLimits, References
from consumers.references.published import DisplayReferences
from contracts.ports.pictures import PictureConverter, ReferenceReader
from contracts.settings import Settings
from tidelens.runtime.decode_limits import content_limits


@dataclass(frozen=True, slots=True)
class PictureReaders:
    """The readers and the converter, shared by all spaces of a process."""

    asked: ReferenceReader
    """The reader of pictures that queries name."""
    shown: ReferenceReader
    """The reader of pictures that published records name."""
    converter: PictureConverter


@asynccontextmanager
async def open_picture_readers(settings: Settings) -> AsyncIterator[PictureReaders]:
    """Open the readers; the decoder's process starts with the first picture that needs it."""
    decoders = DecoderPool(
        1,
        content_limits(settings),
        JpegPreprocess(settings.picture_side_max),
        nice=BESIDE_QUERIES_NICE,
    )
    try:
        async with References(ReferenceLimits.of_queries(settings)) as asked:
            shown = DisplayReferences(asked, ReferenceLimits.from_settings(settings))
            yield PictureReaders(asked, shown, JpegConverter(decoders))
    finally:
        await asyncio.to_thread(decoders.close)
