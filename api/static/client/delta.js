// The rule by which a client applies a delta to its list.

/**
 * Return the list after the changes of one `delta`: take out what leaves or moves, insert by
 * ascending rank, update, and number the list again. Any other order gives a wrong list.
 * `apply_changes` of contracts/wire/delta.py is the same rule in Python.
 *
 * @param {Hit[]} hits The list before, in rank order. It stays as it is.
 * @param {Change[]} changes The changes of one delta.
 * @returns {Hit[]}
 *
 * @typedef {{ target: string, id: string, rank: number, score: number }} Hit
 *   A hit as the schema `HitMessage` of /asyncapi.json describes it; ranks count from 1.
 * @typedef {{ change: "enter" | "leave" | "move" | "update", id: string, rank?: number,
 *   hit?: Hit }} Change
 */
export function applyChanges(hits, changes) {
  const select = (...types) => changes.filter((change) => types.includes(change.change));
  const removed = new Set(select("leave", "move").map((change) => change.id));
  const result = hits.filter((hit) => !removed.has(hit.id));
  for (const { rank, hit } of select("enter", "move").sort((a, b) => a.rank - b.rank)) {
    result.splice(rank - 1, 0, hit);
  }
  const updated = new Map(select("update").map((change) => [change.id, change.hit]));
  return result.map((hit, index) => ({ ...(updated.get(hit.id) ?? hit), rank: index + 1 }));
}
