"""The query of a command: its options, and the wire's query object that they make."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from contracts.errors import ConfigurationError, RejectedRequest
from contracts.filters.json_form import parse
from contracts.filters.text_form import parse_text
from contracts.topics import TARGETS
from contracts.wire.client_messages import Query
from contracts.wire.exact_json import InexactNumberError, loads
from contracts.wire.parser import parse_queries
from tidelens.cli.base.command import Argument
from tidelens.cli.base.options import NamedPath, Option, in_order
from tidelens.ingest.text_files import decode_text


def read_image(context: click.Context, parameter: click.Parameter, path: Path | None) -> str | None:
    """Return the file in base64, as a callback of click."""
    return None if path is None else base64.b64encode(path.read_bytes()).decode()


def _read_filter(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> dict[str, Any] | None:
    """Parse a filter. One that begins with { is JSON, which the server checks with the query."""
    if text is None:
        return None
    try:
        if text.lstrip().startswith("{"):
            condition: dict[str, Any] = loads(text)
            return condition
        return parse_text(text)
    except InexactNumberError as error:
        raise click.BadParameter(str(error)) from None
    except ValueError as error:
        raise click.BadParameter(f"not JSON ({error})") from None
    except RejectedRequest as error:
        raise click.BadParameter(error.message) from None


def _read_object(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> dict[str, Any] | None:
    """Parse a JSON object, or read it from @FILE. Raises ConfigurationError."""
    if text is None:
        return None
    option = parameter.opts[0]
    try:
        # A byte-order mark may also come from $(cat FILE).
        found = loads(
            decode_text(Path(text[1:]).read_bytes())
            if text.startswith("@")
            else text.removeprefix("\ufeff")
        )
    except OSError as error:
        raise ConfigurationError(f"{option}: {text[1:]}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{option}: {text[1:]}: not {error.encoding.upper()}") from None
    except InexactNumberError as error:
        raise ConfigurationError(f"{option}: {error}") from None
    except ValueError as error:
        raise ConfigurationError(f"{option}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{option}: want a JSON object, got {type(found).__name__}")
    return found


def _default(member: str) -> str:
    """Return the default of a member of the wire's query, as help shows it."""
    return str(Query.model_fields[member].default)


text_argument = click.argument(
    "text", cls=Argument, required=False, help="Text to search for, in plain words."
)
_what = in_order(
    text_argument,
    click.option(
        "--image",
        type=NamedPath(exists=True, dir_okay=False),
        callback=read_image,
        help="Search for what this picture shows.",
    ),
    click.option("--id", metavar="ID", help="Search for what the indexed item with this id shows."),
    click.option(
        "--of",
        cls=Option,
        type=click.Choice(TARGETS),
        default_text="the --target",
        help="Target that the item of --id belongs to.",
    ),
    click.option(
        "--query",
        metavar="JSON|@FILE",
        callback=_read_object,
        help="Whole query as a JSON object, as in POST /v1/search. Other options set members of "
        "it.",
    ),
    click.option(
        "--target",
        cls=Option,
        type=click.Choice(TARGETS),
        default_text=_default("target"),
        help="Target to search in.",
    ),
)


def _count(help_text: str) -> Callable[..., Any]:
    return click.option("-k", cls=Option, type=int, default_text=_default("k"), help=help_text)


_offset = click.option(
    "--offset",
    cls=Option,
    type=int,
    default_text=_default("offset"),
    help="Number of best results to skip.",
)
_conditions = in_order(
    click.option(
        "--filter",
        metavar="FILTER",
        callback=_read_filter,
        help="Keep only items whose metadata fit, for example 'lang = \"en\" and year >= 2000'. "
        "JSON is taken too.",
    ),
    click.option("--min-score", type=float, help="Keep only results with at least this score."),
)


def _collapse(help_text: str) -> Callable[..., Any]:
    return click.option("--collapse", type=click.Choice(["item"]), help=help_text)


_BEST_OF_ITEM = "the best result of each item, which may have several pictures or captions."
_exact = click.option(
    "--exact",
    is_flag=True,
    default=None,
    help="Compare with every row, instead of searching the index.",
)
_answer = in_order(
    click.option(
        "--include",
        type=click.Choice(["vector", "vector_f16"]),
        multiple=True,
        help="Add the vector to each result of --json; `vector_f16` is base64 of half-precision "
        "numbers. May be repeated.",
    ),
    click.option(
        "--wait-for",
        metavar="TOKEN",
        callback=_read_object,
        help="Answer once this is indexed: a token that `tidelens publish --json` printed, or the "
        "`as_of` of an earlier answer.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        cls=Option,
        type=float,
        metavar="SECONDS",
        default_text="the limit of the node",
        help="Longest time to wait for the first answer, in seconds.",
    ),
)

query_options = in_order(
    _what,
    _count("Number of results."),
    _offset,
    _conditions,
    _collapse(f"Keep only {_BEST_OF_ITEM}"),
    _exact,
    _answer,
)
"""The options that describe a query. All but --query are named after the member that they set."""

subscription_options = in_order(
    _what,
    _count("Mode top: number of results."),
    _conditions,
    _collapse(f"Mode top: keep only {_BEST_OF_ITEM}"),
    _answer,
)
"""The options of a query that can be watched: a live list starts at the top and is exact."""


def build_query(query: dict[str, Any] | None, **members: Any) -> dict[str, Any]:
    """Return the wire's query object: `query` with the members given. Raises RejectedRequest."""
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
