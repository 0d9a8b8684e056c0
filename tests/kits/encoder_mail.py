"""The records that an encoder storm publishes: captions and pictures of every sort, good and bad.

Each record carries a number in a header; what the record means is stored under that number.
"""

import asyncio
import base64
import functools
import hashlib
import io
import random
from collections import Counter
from dataclasses import replace

import orjson
from PIL import Image

from contracts.events.content_event import EVENT_TYPES, Content, content_record, delete_record
from contracts.events.record import OutRecord, Record
from contracts.topics import TARGETS, Target
from tests.faults.slow_host import SlowHost
from tests.kits.kafka import MURMUR2, Collection
from tests.oracles.encoder_output import Colour, Meant

PIXELS_MAX = 10_000
_NUMBER = "storm"
_WORDS = ("red", "green", "blue", "sea", "sky", "tide", "boat", "gull", "rope", "sand", "wave")
# In the middle of what the hash encoder takes for one colour, so that a JPEG's losses change none.
_CHANNEL = (16, 80, 144, 240)

_CAPTION_FAULTS = (
    "not_a_cloudevent",
    "unknown_event_version",
    "unknown_event_type",
    "content_type",
    "invalid_json",
    "invalid_content",
)
_PICTURE_FAULTS = ("invalid_base64", "image_format", "image_broken", "image_too_many_pixels")


@functools.cache
def picture(colour: Colour, form: str, side: int) -> bytes:
    """Return a picture of one colour. Equal arguments give equal bytes, which are encoded once."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, form, quality=95)
    return out.getvalue()


class Mail:
    """A publisher that runs until it is cancelled, and remembers what each record means."""

    def __init__(self, kit: Collection, dice: random.Random, host: SlowHost) -> None:
        self._kit = kit
        self._dice = dice
        self._host = host
        self._meant: list[Meant] = []
        # The last good state of each item, for updates of the metadata alone; its picture too.
        self._last: dict[Target, dict[str, tuple[Meant, bytes | None]]] = {t: {} for t in TARGETS}
        self._ids: dict[Target, list[str]] = {target: [] for target in TARGETS}
        self.counts: Counter[str] = Counter()

    @property
    def published(self) -> int:
        return len(self._meant)

    def meant(self, record: Record) -> Meant:
        number = record.header(_NUMBER)
        assert number is not None
        return self._meant[int(number)]

    async def run(self) -> None:
        """A cancellation waits for what is being sent."""
        while True:
            burst = self._dice.random() < 0.05
            records = [self._record() for _ in range(200 if burst else self._dice.randint(5, 60))]
            sending = asyncio.ensure_future(self._kit.log.publish(records))
            try:
                await asyncio.shield(sending)
            except asyncio.CancelledError:
                await sending
                raise
            await asyncio.sleep(self._dice.uniform(0.1, 0.3))

    def _record(self) -> OutRecord:
        target: Target = self._dice.choice(TARGETS)
        kinds = {
            self._put: 50,
            self._again: 15,
            self._delete: 12,
            self._malformed: 10,
            self._picture_fault: 6 if target == "images" else 0,
            self._referred: 1.5 if target == "images" else 0,
            self._astray: 6,
            self._nobody: 1,
        }
        [make] = self._dice.choices(list(kinds), list(kinds.values()))
        record, meant = make(target, self._id(target))
        self.counts[f"published: {make.__name__.strip('_').replace('_', ' ')}"] += 1
        self._meant.append(meant)
        number = str(len(self._meant) - 1).encode()
        return replace(record, headers=[*record.headers, (_NUMBER, number)])

    def _id(self, target: Target) -> str:
        """Choose a new id, one of the last few (so that it comes twice in a batch), or any id."""
        ids, dice = self._ids[target], self._dice.random()
        if not ids or dice < 0.2:
            ids.append(f"{target}-{len(ids)}-é")
            return ids[-1]
        return self._dice.choice(ids[-10:] if dice < 0.5 else ids)

    def _put(self, target: Target, item: str) -> tuple[OutRecord, Meant]:
        """Create a new state of the item; few words and colours exist, so bytes are often equal."""
        meant = self._rest()
        if target == "captions":
            words = " ".join(self._dice.choices(_WORDS, k=self._dice.randint(1, 4)))
            return self._recorded(target, item, replace(meant, text=words), None)
        red, green, blue = (self._dice.choice(_CHANNEL) for _ in range(3))
        colour = (red, green, blue)
        data = picture(colour, self._dice.choice(("PNG", "JPEG")), self._dice.choice((8, 24)))
        return self._recorded(target, item, replace(meant, colour=colour), data)

    def _again(self, target: Target, item: str) -> tuple[OutRecord, Meant]:
        """Publish the last caption or picture again, with other metadata."""
        if item not in self._last[target]:
            return self._put(target, item)
        meant, data = self._last[target][item]
        rest = self._rest()
        meant = replace(meant, item=rest.item, metadata=rest.metadata)
        return self._recorded(target, item, meant, data)

    def _delete(self, target: Target, item: str) -> tuple[OutRecord, Meant]:
        self._last[target].pop(item, None)
        return delete_record(self._kit.names.content(target), item), Meant()

    def _malformed(self, target: Target, item: str) -> tuple[OutRecord, Meant]:
        """Break the envelope or the JSON; an item that was live is deleted by such a record."""
        reason = self._dice.choice(_CAPTION_FAULTS)
        value, kind, content_type = b'{"text": "x"}', EVENT_TYPES[target], b"application/json"
        if reason == "unknown_event_version":
            kind = kind.replace(".v1", ".v7")
        elif reason == "unknown_event_type":
            kind = "somebody.else.v1"
        elif reason == "content_type":
            content_type = b"text/plain"
        elif reason == "invalid_json":
            value = b'{"text": '
        elif reason == "invalid_content":
            value = b'{"text": 7, "image": 7}'
        headers = [("ce_type", kind.encode()), ("content-type", content_type)]
        if reason == "not_a_cloudevent":
            del headers[0]
        topic = self._kit.names.content(target)
        return OutRecord(topic, item.encode(), value, headers), Meant(reason=reason)

    def _picture_fault(self, target: Target, item: str) -> tuple[OutRecord, Meant]:
        """Create a picture that cannot be decoded, or that exceeds the limits."""
        reason = self._dice.choice(_PICTURE_FAULTS)
        whole = picture((16, 16, 16), self._dice.choice(("PNG", "JPEG")), 24)
        data = {
            "invalid_base64": whole,
            "image_format": b"GIF? no",
            "image_broken": whole[: len(whole) // 2],
            "image_too_many_pixels": picture((16, 16, 16), "PNG", 101),
        }[reason]
        record = self._picture_record(item, Meant(), data)
        if reason == "invalid_base64":
            record = self._json_record(item, {"image": {"data": "not base64!"}})
        return record, Meant(reason=reason)

    def _referred(self, target: Target, item: str) -> tuple[OutRecord, Meant]:
        """Refer to a picture that arrives late and delays those behind it, or to a changed one."""
        self._last[target].pop(item, None)
        # Bytes behind a picture's end do not belong to it: these have not been encoded before.
        data = picture((80, 144, 80), "PNG", 8) + str(self.published).encode()
        url = self._host.put(data, self._dice.uniform(0.2, 2))
        changed = self._dice.random() < 0.3
        sha256 = hashlib.sha256(b"other" + data if changed else data).hexdigest()
        record = self._json_record(item, {"image": {"ref": url, "sha256": sha256}})
        return record, Meant(reason="reference_changed") if changed else Meant(colour=(80, 144, 80))

    def _astray(self, target: Target, item: str) -> tuple[OutRecord, Meant]:
        """Write to a partition where the key does not belong; the item stays as it is."""
        kept = dict(self._last[target])
        make = self._dice.choice((self._put, self._delete, self._malformed))
        record, _ = make(target, item)
        self._last[target] = kept
        count = self._kit.partitions
        home = MURMUR2(item.encode(), count)
        wrong = (home + self._dice.randint(1, count - 1)) % count
        return replace(record, partition=wrong), Meant(reason="wrong_partition")

    def _nobody(self, target: Target, item: str) -> tuple[OutRecord, Meant]:
        """An empty key is of no item at all; none at all is refused by a compacted topic."""
        record, _ = self._malformed(target, item)
        partition = self._dice.randrange(self._kit.partitions)
        return replace(record, key=b"", partition=partition), Meant(reason="empty_id")

    def _recorded(
        self, target: Target, item: str, meant: Meant, data: bytes | None
    ) -> tuple[OutRecord, Meant]:
        self._last[target][item] = (meant, data)
        if data is not None:
            return self._picture_record(item, meant, data), meant
        content = Content(
            target=target, id=item, text=meant.text, item=meant.item, metadata=meant.metadata
        )
        return content_record(self._kit.names.content(target), content), meant

    def _picture_record(self, item: str, meant: Meant, data: bytes) -> OutRecord:
        """Wrap a picture as raw bytes or as JSON."""
        if self._dice.random() < 0.5:
            body = {"image": {"data": base64.b64encode(data).decode()}, "metadata": meant.metadata}
            return self._json_record(
                item, body if meant.item is None else body | {"item": meant.item}
            )
        content = Content(
            target="images", id=item, image=data, item=meant.item, metadata=meant.metadata
        )
        return content_record(self._kit.names.content("images"), content)

    def _json_record(self, item: str, body: dict[str, object]) -> OutRecord:
        headers = [("ce_type", EVENT_TYPES["images"].encode())]
        topic = self._kit.names.content("images")
        return OutRecord(topic, item.encode(), orjson.dumps(body), headers)

    def _rest(self) -> Meant:
        group = f"group-{self._dice.randrange(9)}" if self._dice.random() < 0.5 else None
        return Meant(item=group, metadata={"n": self._dice.randrange(1000)})
