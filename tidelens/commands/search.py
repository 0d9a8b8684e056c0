"""`tidelens search`: one query, answered now."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import click
import orjson

from contracts.errors import RejectedRequest
from contracts.filter_text import parse_text
from tidelens.options import json_option, url_option


def _read_filter(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> dict[str, Any] | None:
    """A text that begins with { is JSON, which the server checks like the rest of the query."""
    if text is None:
        return None
    try:
        if text.lstrip().startswith("{"):
            condition: dict[str, Any] = orjson.loads(text)
            return condition
        return parse_text(text)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON ({error})") from None
    except RejectedRequest as error:
        raise click.BadParameter(error.message) from None


def query_options(command: Any) -> Any:
    """The options that describe a query, shared by `search` and `watch`."""
    for option in (
        click.argument("text", required=False),
        click.option("--image", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
        click.option("--id", "item_id", help="Search by an indexed item, with --of."),
        click.option("--of", type=click.Choice(["images", "captions"])),
        click.option("--target", type=click.Choice(["images", "captions"]), default="images"),
        click.option("-k", type=int, default=10, show_default=True),
        click.option("--min-score", type=float),
        click.option(
            "--filter",
            "condition",
            metavar="FILTER",
            callback=_read_filter,
            help="Keep items by metadata: 'lang = \"en\" and year >= 2000', or JSON.",
        ),
        click.option("--collapse", type=click.Choice(["item"])),
    ):
        command = option(command)
    return command


def build_query(
    text: str | None,
    image: Path | None,
    item_id: str | None,
    of: str | None,
    target: str,
    k: int,
    min_score: float | None,
    condition: dict[str, Any] | None,
    collapse: str | None,
) -> dict[str, Any]:
    """The wire's query object; the server says what is wrong with it."""
    query: dict[str, Any] = {"target": target, "k": k}
    if text is not None:
        query["text"] = text
    if image is not None:
        query["image"] = base64.b64encode(image.read_bytes()).decode()
    if item_id is not None:
        query["id"] = item_id
        query["of"] = of or target
    if min_score is not None:
        query["min_score"] = min_score
    if condition is not None:
        query["filter"] = condition
    if collapse is not None:
        query["collapse"] = collapse
    return query


def line_of(hit: dict[str, Any]) -> str:
    """One hit for a terminal."""
    shown = hit["text"] or hit["metadata"].get("name") or ""
    return f"{hit['rank']:>3}  {hit['score']:.4f}  {hit['id']}  {shown}".rstrip()


@click.command()
@query_options
@url_option
@json_option
def search(url: str | None, as_json: bool, **query: Any) -> None:
    """Search for TEXT, a picture or an item, once."""
    from contracts import settings
    from tidelens.client import Client
    from tidelens.runtime import api_of

    async def run() -> Any:
        async with Client(url or api_of(settings.load())) as client:
            return await client.search(build_query(**query))

    answer = asyncio.run(run())
    if as_json:
        click.echo(orjson.dumps(answer))
        return
    for hit in answer["hits"]:
        click.echo(line_of(hit))
    if not answer["hits"]:
        click.echo("no hits", err=True)
