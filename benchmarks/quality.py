"""Retrieval quality through the API: R@1/5/10 of captioned photos, over an otherwise empty index.

    python -m benchmarks.quality --photos DIR

DIR holds captions.json, a list of {"file", "captions": [...]}, beside the pictures. Each photo is
published, up to five of its captions are searched, and a caption's rank is that of its own photo;
then the other way round.
"""

import asyncio
import base64
from pathlib import Path
from typing import Any

import orjson

from benchmarks.report import Goal, finish, parser
from benchmarks.system import System, system

KS = (1, 5, 10)
CAPTIONS_MAX = 5


async def publish(running: System, photos: list[dict[str, Any]], folder: Path) -> None:
    published = []
    for number, photo in enumerate(photos):
        image = base64.b64encode((folder / photo["file"]).read_bytes()).decode()
        items = [{"target": "images", "id": str(number), "image": image}]
        items += [
            {"target": "captions", "id": f"{number}/{i}", "text": text, "item": str(number)}
            for i, text in enumerate(photo["captions"][:CAPTIONS_MAX])
        ]
        published += await running.client.publish(items)
    for token in published:
        await running.client.search({"text": "x", "k": 1, "wait_for": token, "timeout_s": 60})


async def recall(running: System, queries: list[tuple[str, dict[str, Any]]]) -> list[float]:
    """Return R@k over pairs of an expected photo and a query."""
    ranks = []
    for expected, query in queries:
        hits = (await running.client.search({**query, "k": max(KS)}))["hits"]
        found = [hit["id"].partition("/")[0] for hit in hits]
        ranks.append(found.index(expected) if expected in found else max(KS))
    return [sum(rank < k for rank in ranks) / len(ranks) for k in KS]


async def measure(folder: Path, arguments: list[str]) -> tuple[list[dict[str, Any]], list[Goal]]:
    photos = orjson.loads((folder / "captions.json").read_bytes())
    async with system(*arguments) as running:
        await publish(running, photos, folder)
        captions = [
            (str(number), {"text": text})
            for number, photo in enumerate(photos)
            for text in photo["captions"][:CAPTIONS_MAX]
        ]
        pictures = [
            (str(n), {"id": str(n), "of": "images", "target": "captions"})
            for n in range(len(photos))
        ]
        rows: list[dict[str, Any]] = []
        for name, queries in (("text->image", captions), ("image->text", pictures)):
            found = await recall(running, queries)
            figures = {f"R@{k}": value for k, value in zip(KS, found, strict=True)}
            rows.append({"direction": name, "queries": len(queries), **figures})
    return rows, [Goal("text->image R@10", rows[0]["R@10"], 0.75, "higher")]


def main() -> None:
    options = parser("quality", "Retrieval quality through the API.")
    options.add_argument("--photos", type=Path, required=True)
    options.add_argument("--model", default="starter")
    given = options.parse_args()
    rows, goals = asyncio.run(measure(given.photos, ["--model", given.model]))
    finish("quality", rows, goals, given.json)


if __name__ == "__main__":
    main()
