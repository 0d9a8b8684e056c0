"""`tidelens rebuild`: segments of the running node anew, or a whole space beside live traffic."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import NamedPath, collection_options, json_option, url_option
from tidelens.cli.base.terminal import say, say_json
from tidelens.ingest.text_files import listed

if TYPE_CHECKING:
    from contracts.events.control_record import ActiveSpace
    from tidelens.client import Client
    from tidelens.migration.create import Report, Tell
    from tidelens.migration.switch import Collection

_LINES = 20
_ACTIONS = ("rollback", "give_up_rollback", "abandon")


@click.command(
    cls=Command,
    examples=[
        Example("tidelens rebuild", "Build all sealed segments of the running node again."),
        Example(
            "tidelens rebuild --target images --url http://127.0.0.1:8081",
            "Build those of one target on another node.",
        ),
    ],
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(["images", "captions"]),
    help="Target whose segments are built. May be repeated.",
)
@click.option("--space", metavar="NEW", help="Make this space, beside the one that is served.")
@click.option("--model", metavar="MODEL", help="Model that makes the new space.")
@click.option(
    "--queries",
    type=NamedPath(dir_okay=False, exists=True),
    help="File of texts to compare answers with, one on each line.",
)
@click.option("--switch", is_flag=True, help="Let nodes answer in the space that was made.")
@click.option("--missing-ok", is_flag=True, help="Switch although items are missing in it.")
@click.option("--rollback", is_flag=True, help="Return to the space that answered before.")
@click.option("--give-up-rollback", is_flag=True, help="Let the other space go.")
@click.option("--abandon", is_flag=True, help="Give up the space that is being made.")
@url_option
@collection_options
@json_option
def rebuild(as_json: bool, **options: Any) -> None:
    """Build the sealed segments of a running node again.

    Searches go on meanwhile.

    For another index type, restart the node with another TIDELENS_INDEX_KIND first.

    With --space and --model, make another space beside live traffic: re-encode, index, compare.
    May be ended at any point and started again. Then --switch, and --rollback if it was not good.
    """
    actions = [name for name in _ACTIONS if options[name]]
    making = options["space"] is not None or options["model"] is not None
    if making and None in (options["space"], options["model"]):
        raise click.UsageError("--space and --model go together")
    if len(actions) + (making or options["switch"]) > 1:
        raise click.UsageError("one at a time: --space, --switch, --rollback, ...")
    if options["targets"] and (actions or making or options["switch"]):
        raise click.UsageError("--target is about the running node's segments only")
    if options["missing_ok"] and not options["switch"]:
        raise click.UsageError("--missing-ok goes with --switch")
    if actions or making or options["switch"]:
        asyncio.run(_about_spaces(options, actions, as_json=as_json))
    else:
        asyncio.run(_segments(options, as_json=as_json))


async def _segments(options: dict[str, Any], *, as_json: bool) -> None:
    from tidelens.cli.base.collection_choice import node_of
    from tidelens.client import Client

    node = await asyncio.to_thread(node_of, options["url"], options["data"])
    async with Client(node.url, timeout_s=None) as client:
        body = {"targets": list(options["targets"])} if options["targets"] else None
        rebuilt = (await client.post("/v1/admin/rebuild", body))["rebuilt"]
    node.tell()
    if as_json:
        say_json(rebuilt)
        return
    for one in rebuilt:
        say("{target}: {rows} rows, {kind}, {seconds:.1f} s".format(**one))


async def _about_spaces(options: dict[str, Any], actions: Sequence[str], *, as_json: bool) -> None:
    from tidelens.cli.base.open_collection import open_collection
    from tidelens.migration import switch

    opened = open_collection(
        "rebuild", **{n: options[n] for n in ("brokers", "topic_prefix", "data")}
    )
    async with opened as collection:
        answer: dict[str, Any] = {}
        try:
            if options["space"] is not None:
                report = await _made(collection, options)
                answer |= report.wire()
                if not as_json:
                    _tell_report(report)
            if options["switch"]:
                await _switched(collection, options, answer, as_json=as_json)
            elif actions == ["abandon"]:
                gone = await switch.abandon(collection)
                answer["abandoned"] = gone.space
                _say(f"gave up {gone.space}", as_json=as_json)
            elif actions:
                turn = switch.roll_back if options["rollback"] else switch.give_up_rollback
                active = await turn(collection)
                _tell_active(active, answer, as_json=as_json)
                if await switch.without_encoder(collection, active.current):
                    model = active.current.model
                    say(
                        f"warning: nobody keeps {active.current.space} current; "
                        f"start `tidelens encode --model {model}`",
                        err=True,
                    )
        finally:
            # Also when a switch is refused: what is missing stands in there.
            if as_json and answer:
                say_json(answer)


async def _made(collection: "Collection", options: dict[str, Any]) -> "Report":
    from tidelens.client import Client
    from tidelens.migration.create import choose, make_space
    from tidelens.migration.switch import served_now
    from tidelens.runtime.data_dir import locked
    from tidelens.runtime.run_file import model_of

    old = await served_now(collection, model_of(collection.settings))
    ref = await choose(collection, old, options["space"], options["model"])
    queries = options["queries"]
    texts = await asyncio.to_thread(listed, queries, "--queries") if queries else []
    url = options["url"] or collection.url
    async with Client(url, timeout_s=None) as client:
        await _require_answering(client, collection, old.space)
        if options["queries"] is None:
            texts = (await client.get("/v1/admin/queries"))["texts"]
        # One at a time writes the new space's snapshots.
        with locked(collection.settings.data, "rebuild"), _progress() as tell:
            return await make_space(collection, old, ref, client, texts, tell)


async def _require_answering(client: "Client", collection: "Collection", space: str) -> None:
    """Asked before the long work, not after it: its answers are what is compared with."""
    from contracts.errors import ConfigurationError

    status = await client.get("/v1/status")
    prefix = collection.settings.topic_prefix
    # An older node does not say.
    if status.get("topic_prefix", prefix) != prefix:
        raise ConfigurationError(
            f"--url: the node there answers from collection {status['topic_prefix']}, "
            f"but this command acts on {prefix}"
        )
    answering = status["space"]["name"]
    if answering != space:
        raise ConfigurationError(
            f"--url: the node there answers in space {answering}, the active one is {space}"
        )


async def _switched(
    collection: "Collection", options: dict[str, Any], answer: dict[str, Any], *, as_json: bool
) -> None:
    from tidelens.migration import switch
    from tidelens.runtime.run_file import model_of

    old = await switch.served_now(collection, model_of(collection.settings))
    candidate, sets = await switch.check_switch(collection, old)
    answer |= {"space": candidate.ref.space, "switched": False, **sets.wire()}
    if not as_json and options["space"] is None:
        _tell_missing(sets.wire())
    if not options["missing_ok"]:
        switch.require_whole(sets, candidate.ref)
    active = await switch.switch(collection, old, candidate.ref)
    answer["switched"] = True
    _tell_active(active, answer, as_json=as_json)


@contextmanager
def _progress() -> "Iterator[Tell]":
    """Records, rate and remaining time, on a terminal."""
    from tqdm import tqdm

    with tqdm(desc="encoding", unit=" records", disable=not sys.stderr.isatty()) as bar:

        def tell(done: int, total: int) -> None:
            if bar.total is None:
                bar.initial = done  # of earlier runs: no part of this one's rate
                bar.n = done
            bar.total = total
            bar.update(done - bar.n)
            bar.refresh()

        yield tell


def _tell_report(report: "Report") -> None:
    encoded, answers = report.encoded, report.answers
    say(
        f"{report.new.space}: {encoded.records} records encoded in {encoded.seconds:.1f} s, "
        f"{encoded.total} in all; snapshot {report.snapshot}"
    )
    body = report.wire()
    for target, count in body["items"].items():
        say(
            f"{target}: {count['old']} items in {report.old.space}, {count['new']} in "
            f"{report.new.space}; overlap@{answers.k} {_share(body['overlap'][target])}, "
            f"recall@{answers.k} {_share(body['recall'][target])}"
        )
    say(f"compared on {answers.queries} queries")
    _tell_missing(body)


def _tell_missing(body: dict[str, Any]) -> None:
    for one in body["missing"][:_LINES]:
        say("missing: {target} {id}: {reason}".format(**one))
    rest = body["missing_count"] - _LINES
    if rest > 0:
        say(f"missing: {rest} more (--json lists up to 1000)")


def _tell_active(active: "ActiveSpace", answer: dict[str, Any], *, as_json: bool) -> None:
    answer["active"] = asdict(active)
    other = f"; {active.previous.space} is kept for a rollback" if active.previous else ""
    _say(f"active: {active.current.space}{other}", as_json=as_json)


def _say(line: str, *, as_json: bool) -> None:
    if not as_json:
        say(line)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
