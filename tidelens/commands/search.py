"""`tidelens search`: one query, answered now."""

import asyncio
import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from contracts.errors import ConfigurationError, RejectedRequest
from contracts.exact_json import NumberBeyond, loads
from contracts.filter_text import parse_text
from contracts.filters import parse
from contracts.message_parser import parse_queries
from contracts.topics import TARGETS
from tidelens.options import NamedPath, json_option, url_option
from tidelens.terminal import say, say_json
from tidelens.texts import text_of


def read_image(context: click.Context, parameter: click.Parameter, path: Path | None) -> str | None:
    return None if path is None else base64.b64encode(path.read_bytes()).decode()


def _read_filter(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> dict[str, Any] | None:
    """A text that begins with { is JSON, which the server checks like the rest of the query."""
    if text is None:
        return None
    try:
        if text.lstrip().startswith("{"):
            condition: dict[str, Any] = loads(text)
            return condition
        return parse_text(text)
    except NumberBeyond as error:
        raise click.BadParameter(str(error)) from None
    except ValueError as error:
        raise click.BadParameter(f"not JSON ({error})") from None
    except RejectedRequest as error:
        raise click.BadParameter(error.message) from None


def _read_object(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> dict[str, Any] | None:
    """A JSON object, given itself or as @FILE. Raises ConfigurationError."""
    if text is None:
        return None
    option = parameter.opts[0]
    try:
        # A byte-order mark may also come by $(cat FILE).
        found = loads(
            text_of(Path(text[1:]).read_bytes())
            if text.startswith("@")
            else text.removeprefix("\ufeff")
        )
    except OSError as error:
        raise ConfigurationError(f"{option}: {text[1:]}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{option}: {text[1:]}: not {error.encoding.upper()}") from None
    except NumberBeyond as error:
        raise ConfigurationError(f"{option}: {error}") from None
    except ValueError as error:
        raise ConfigurationError(f"{option}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{option}: want a JSON object, got {type(found).__name__}")
    return found


def query_options(command: Any) -> Any:
    """The options that describe a query, shared by `search` and `watch`.

    All but --query are named after the member that they set.
    """
    options = (
        click.argument("text", required=False),
        click.option(
            "--image",
            type=NamedPath(exists=True, dir_okay=False),
            callback=read_image,
            help="Search by a picture.",
        ),
        click.option("--id", help="Search by an indexed item, with --of."),
        click.option("--of", type=click.Choice(TARGETS)),
        click.option("--target", type=click.Choice(TARGETS), help="What to find (images)."),
        click.option("-k", type=int, help="How many (10)."),
        click.option("--offset", type=int, help="Leave out the best so many (0)."),
        click.option("--min-score", type=float),
        click.option(
            "--filter",
            metavar="FILTER",
            callback=_read_filter,
            help="Keep items by metadata: 'lang = \"en\" and year >= 2000', or JSON.",
        ),
        click.option("--collapse", type=click.Choice(["item"])),
        click.option("--exact", is_flag=True, default=None, help="Scan every row."),
        click.option(
            "--include",
            type=click.Choice(["vector", "vector_f16"]),
            multiple=True,
            help="Shown with --json; vector_f16 is base64 of half-precision numbers.",
        ),
        click.option(
            "--wait-for",
            metavar="TOKEN",
            callback=_read_object,
            help="Answer once this is indexed: a token of `publish --json`, or an `as_of`.",
        ),
        click.option(
            "--timeout", "timeout_s", type=float, metavar="SECONDS", help="Give up after this."
        ),
        click.option(
            "--query",
            metavar="JSON|@FILE",
            callback=_read_object,
            help="The whole query, as in POST /v1/search; other options set members of it.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def build_query(query: dict[str, Any] | None, **members: Any) -> dict[str, Any]:
    """The wire's query object: `query` with the members given. Raises RejectedRequest."""
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in members.items()
        if value not in (None, ())
    }
    built = {**(query or {}), **given}
    if "id" in given:
        built.setdefault("of", built.get("target", "images"))
    parse_queries(built, queries_max=1)
    if built.get("filter") is not None:
        parse(built["filter"])
    return built


def line_of(hit: dict[str, Any]) -> str:
    """One hit for a terminal, with its rank if it is in a list."""
    shown = hit["text"] or hit["metadata"].get("name") or ""
    rank = f"{hit['rank']:>3}  " if hit["rank"] else ""
    return f"{rank}{hit['score']:.4f}  {hit['id']}  {shown}".rstrip()


def show_warnings(warnings: Iterable[Mapping[str, str]]) -> None:
    """Print them on stderr, beside the answer, which is right all the same."""
    for warning in warnings:
        say(f"warning: {warning['message']}", err=True)


@click.command()
@query_options
@url_option
@json_option
def search(url: str | None, as_json: bool, **query: Any) -> None:
    """Search once, for TEXT, a picture, an item, or whatever --query asks."""
    from tidelens.acting import node_of
    from tidelens.client import Client

    asked = build_query(**query)

    node = node_of(url)

    async def run() -> Any:
        # The server ends every wait, by its own limit if not by the query's.
        async with Client(node.url, timeout_s=None) as client:
            return await client.search(asked)

    answer = asyncio.run(run())
    node.tell()
    if as_json:
        say_json(answer)
        return
    show_warnings(answer.get("warnings", ()))
    for hit in answer["hits"]:
        say(line_of(hit))
    if not answer["hits"]:
        say("no hits", err=True)
