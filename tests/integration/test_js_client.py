"""The JavaScript client in a real Chromium: api/static/client/ as others import it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute

from tests.kits.chromium import ServedKit, chromium, served_kit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

# Each script is the body of an async function. `next` waits for the next call of a callback.
PRELUDE = """
import { Client, Problem } from "/static/client/client.js";
const client = new Client();
const calls = [], waiting = [];
const note = (...call) => (waiting.length ? waiting.shift()(call) : calls.push(call));
const next = async () => (calls.length ? calls.shift() : new Promise((done) => waiting.push(done)));
const ids = (hits) => hits.map((hit) => hit.id);
const onList = (hits, type) => note(type, ids(hits));
const query = { text: "a red cat", target: "captions", k: 3 };
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def served() -> Iterator[ServedKit]:
    with served_kit() as served:
        served.portal.call(served.kit.caption, "cat", "a red cat")
        yield served


@pytest.fixture
def page(served: ServedKit, browser: Browser) -> Iterator[Page]:
    """Open a document of the server that is not its page."""
    context = browser.new_context(base_url=served.url)
    context.set_default_timeout(30_000)
    page = context.new_page()
    # A document that the test itself answers may not open sockets to a loopback address.
    page.goto("/healthz")
    yield page
    context.close()


def run_script(page: Page, script: str) -> Any:
    """Run a script in the document, and return what it returns."""
    serve_module(page, f"{PRELUDE}\nexport const run = async () => {{ {script} }};")
    return page.evaluate("async () => (await import('/test.js')).run()")


def run_in_worker(page: Page, script: str) -> Any:
    """Run a script in a worker, which has no document, and return what it returns."""
    serve_module(
        page, f"{PRELUDE}\nconst run = async () => {{ {script} }};\npostMessage(await run());"
    )
    return page.evaluate(
        """() => new Promise((done, failed) => {
            const worker = new Worker("/test.js", { type: "module" });
            worker.onmessage = ({ data }) => done(data);
            worker.onerror = ({ message }) => failed(new Error(message));
        })"""
    )


def serve_module(page: Page, text: str) -> None:
    page.context.route(
        "**/test.js", lambda route: route.fulfill(content_type="text/javascript", body=text)
    )


def indexing(page: Page, served: ServedKit) -> None:
    """Let scripts index a caption by `await index(id, text)`."""

    def index(route: Any) -> None:
        asked = json.loads(route.request.post_data)
        served.portal.call(served.kit.caption, asked["id"], asked["text"])
        route.fulfill(body="")

    page.context.route("**/test/index", index)


INDEX = """
const index = (id, text) =>
  fetch("/test/index", { method: "POST", body: JSON.stringify({ id, text }) });
"""


def test_it_searches_and_publishes_without_a_document(served: ServedKit, page: Page) -> None:
    found, token, code = run_in_worker(
        page,
        """
        const { hits } = await client.search(query);
        const token = await client.publish({ target: "captions", id: "dog", text: "a dog" });
        const refused = await client.search({ ...query, k: -1 }).catch((error) => error);
        return [ids(hits), token, refused instanceof Problem && [refused.code, refused.field]];
        """,
    )
    assert found == ["cat"]
    assert token["topic"] == "tidelens.captions"
    assert token["offset"] == 0
    assert code == ["invalid_request", "k"]


def test_lists_stay_current_until_they_are_closed(served: ServedKit, page: Page) -> None:
    indexing(page, served)
    steps = run_script(
        page,
        INDEX
        + """
        const connection = client.connect();
        const first = connection.subscribe(query, { onList });
        const steps = [await next()];
        await index("tom", "a red cat");
        steps.push(await next());
        first.close();
        connection.subscribe({ ...query, k: 1 }, { onList: (hits) => note("other", ids(hits)) });
        steps.push(await next());
        await index("cat", "a blue boat");
        steps.push(await next());
        const { hits } = await client.search({ ...query, k: 2 });
        steps.push(ids(hits));
        connection.close();
        return steps;
        """,
    )
    assert steps == [
        ["snapshot", ["cat"]],
        ["delta", ["cat", "tom"]],
        ["other", ["cat"]],
        ["other", ["tom"]],
        ["tom", "cat"],
    ]


def test_a_stored_cursor_resumes_in_another_connection(served: ServedKit, page: Page) -> None:
    indexing(page, served)
    steps = run_script(
        page,
        INDEX
        + """
        const before = client.connect();
        const first = before.subscribe(query, { onList });
        const steps = [await next()];
        before.close();
        const { hits, cursor } = JSON.parse(JSON.stringify(first));
        const after = client.connect();
        const second = after.subscribe(query, { onList, hits, cursor });
        steps.push(await next());
        second.close();
        await index("tom", "a red cat");
        after.subscribe(query, { onList, hits, cursor });
        steps.push(await next());
        after.close();
        return steps;
        """,
    )
    assert steps == [
        ["snapshot", ["cat"]],
        ["resumed", ["cat"]],
        ["snapshot", ["cat", "tom"]],
    ]


def test_a_lost_connection_is_made_again_and_resumes(served: ServedKit, page: Page) -> None:
    opened: list[WebSocketRoute] = []
    sent: list[dict[str, Any]] = []

    def relay(socket: WebSocketRoute) -> None:
        opened.append(socket)
        server = socket.connect_to_server()

        def forward(message: str | bytes) -> None:
            sent.append(json.loads(message))
            server.send(message)

        socket.on_message(forward)

    page.route_web_socket("**/v1/live", relay)
    page.context.route("**/test/lose", lambda route: (opened[0].close(), route.fulfill(body="")))
    states, lists, cursor = run_script(
        page,
        """
        const states = [], lists = [];
        const connection = client.connect({ onState: (state) => states.push(state) });
        const subscription = connection.subscribe(query, { onList });
        lists.push(await next());
        const { cursor } = subscription;
        await fetch("/test/lose");
        lists.push(await next());
        connection.close();
        connection.close();
        connection.reconnectNow();
        return [states, lists, cursor];
        """,
    )
    assert states == ["connecting", "live", "closed", "connecting", "live", "closed"]
    assert lists == [["snapshot", ["cat"]], ["resumed", ["cat"]]]
    assert [message["cursor"] for message in sent] == [None, cursor]
    assert len({message["sub"] for message in sent}) == 1


def test_matches_are_reported_with_a_cursor(served: ServedKit, page: Page) -> None:
    indexing(page, served)
    matches, moved = run_script(
        page,
        INDEX
        + """
        const connection = client.connect();
        // In this mode a list does not exist, so onList must not be called.
        const options = { mode: "matches", onList, onMatches: (hits) => note("match", ids(hits)) };
        const subscription = connection.subscribe({ ...query, min_score: 0.9 }, options);
        while (subscription.cursor === null) await client.lag();
        const { cursor } = subscription;
        await index("boat", "a blue boat");
        await index("tom", "a red cat");
        const matches = await next();
        const moved = subscription.cursor !== cursor;
        connection.close();
        return [matches, moved];
        """,
    )
    assert matches == ["match", ["tom"]]
    assert moved


def test_a_refused_query_ends_and_a_delayed_one_is_asked_again(page: Page) -> None:
    asked: list[str] = []

    def answer(socket: WebSocketRoute) -> None:
        def on_message(message: str | bytes) -> None:
            sub = json.loads(message)["sub"]
            asked.append(sub)
            error = {"type": "error", "sub": sub, "message": "No."}
            replies: list[dict[str, Any]] = [
                {**error, "code": "not_ready", "retry_after": 0},
                {"type": "snapshot", "sub": sub, "hits": [], "cursor": "c"},
                {**error, "code": "query_item_gone", "field": "id"},
                {"type": "snapshot", "sub": sub, "hits": [], "cursor": "d"},
                {"type": "error", "code": "invalid_json", "message": "No."},
            ]
            for reply in replies[:1] if len(asked) == 1 else replies[1:]:
                socket.send(json.dumps(reply))

        socket.on_message(on_message)

    page.route_web_socket("**/v1/live", answer)
    steps = run_script(
        page,
        """
        const onProblem = ({ code, field, again, ended }) => note(code, field, again, ended);
        const connection = client.connect({ onProblem });
        connection.subscribe(query, { onList, onProblem });
        const steps = [await next(), await next(), await next(), await next()];
        connection.close();
        try {
          connection.subscribe(query);
        } catch (error) {
          steps.push([error.message]);
        }
        return steps;
        """,
    )
    assert steps == [
        ["not_ready", None, True, False],
        ["snapshot", []],
        ["query_item_gone", "id", False, True],
        ["invalid_json", None, False, False],
        ["The connection is closed."],
    ]
    assert len(asked) == 2
