// The strip of figures: events a second, the lag, and whether the list is live.

const EVERY_MS = 2_000;
// A rate over one poll jumps; over several it can be read.
const WINDOW_POLLS = 5;

const CONNECTION_WORDS = { live: "Live", connecting: "Connecting", closed: "Reconnecting" };

export function showConnection(node, state) {
  node.dataset.state = state;
  node.textContent = CONNECTION_WORDS[state];
}

/** Keep the figures under `root` (elements with data-metric) current while the page is visible. */
export function startStrip(client, root) {
  const samples = [];
  const show = (metric, text) => {
    const node = root.querySelector(`[data-metric="${metric}"]`);
    if (node.textContent !== text) node.textContent = text;
  };
  const poll = async () => {
    if (!document.hidden) await client.lag().then(take, unknown);
    setTimeout(poll, EVERY_MS);
  };
  const take = (answer) => {
    const rows = answer.partitions.filter((row) => row.space === answer.space);
    samples.push({ at: performance.now(), events: encoded(rows) });
    samples.splice(0, samples.length - WINDOW_POLLS - 1);
    show("events_per_s", rate(samples));
    show("lag_records", compact(waiting(rows)));
    show("behind_s", duration(answer.behind_s));
  };
  const unknown = () => {
    samples.length = 0;
    for (const metric of ["events_per_s", "lag_records", "behind_s"]) show(metric, "–");
  };
  poll();
}

/**
 * Return how many content events encoders have passed. Positions in the content topics are counted,
 * since offsets of the embeddings topics also count the end of each transaction.
 */
function encoded(rows) {
  return rows
    .filter((row) => row.role === "encode")
    .reduce((sum, row) => sum + row.position, 0);
}

/** Return how many records are left to process, by the index group that is furthest behind. */
function waiting(rows) {
  const most = new Map();
  for (const { topic, partition, records } of rows) {
    const place = `${topic} ${partition}`;
    most.set(place, Math.max(records, most.get(place) ?? 0));
  }
  return [...most.values()].reduce((sum, records) => sum + records, 0);
}

function rate(samples) {
  if (samples.length < 2) return "–";
  const [first, last] = [samples[0], samples.at(-1)];
  // A recreated topic counts from 0 again.
  const perSecond = Math.max(0, (last.events - first.events) / ((last.at - first.at) / 1000));
  return perSecond < 10 ? perSecond.toFixed(1) : compact(Math.round(perSecond));
}

const compact = (number) =>
  new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(number);

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}
