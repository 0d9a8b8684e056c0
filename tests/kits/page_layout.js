// Lists what is wrong with the layout of a page as it stands now, one line of text for each fault.
//
// `users`: a selector of the elements that show what users wrote, and not the page's own words.
// Such a word may be broken, since an id or a name can be longer than the window is wide.

({ users }) => {
  // Browsers place boxes at fractions of a pixel.
  const TOLERANCE_PX = 1;
  // A broken word with fewer letters a line than this is a column of letters.
  const LETTERS_A_LINE_MIN = 4;

  const cached = (compute) => {
    const results = new Map();
    return (node) => {
      if (!results.has(node)) results.set(node, compute(node));
      return results.get(node);
    };
  };
  const rectOf = cached((node) => node.getBoundingClientRect());
  const styleOf = cached((node) => getComputedStyle(node));

  const faults = new Set();
  const width = document.documentElement.clientWidth;
  /** Whether the page shows an element to screen readers only, or to nobody. */
  const hidden = cached(
    (node) =>
      node.matches(".skip, [aria-hidden=true]") ||
      styleOf(node).clipPath === "inset(50%)" ||
      (node.parentElement !== null && hidden(node.parentElement)),
  );
  const shown = [...document.body.querySelectorAll("*")].filter(
    (node) => node.checkVisibility() && !hidden(node),
  );

  const named = (node) => {
    const words = (node.getAttribute("aria-label") ?? node.textContent).trim().slice(0, 30);
    const name = node.id ? `#${node.id}` : [node.localName, ...node.classList].join(".");
    return words ? `${name} "${words}"` : name;
  };

  const common = (a, b) => ({
    left: Math.max(a.left, b.left),
    top: Math.max(a.top, b.top),
    right: Math.min(a.right, b.right),
    bottom: Math.min(a.bottom, b.bottom),
  });
  const everywhere = { left: -Infinity, top: -Infinity, right: Infinity, bottom: Infinity };
  /** The area in which `node` and its ancestors let their content be seen. */
  const clip = cached((node) => {
    if (node === document.body) return everywhere;
    const outer = clip(node.parentElement);
    return styleOf(node).overflow === "visible" ? outer : common(outer, rectOf(node));
  });

  /** The part of `rect` that `node` and its ancestors do not clip; null where all is clipped. */
  const seen = (rect, node) => {
    const part = common(rect, clip(node));
    return part.right > part.left && part.bottom > part.top ? part : null;
  };

  const overlap = (a, b) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > TOLERANCE_PX &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > TOLERANCE_PX;

  const within = (inner, outer) =>
    inner.left >= outer.left - TOLERANCE_PX &&
    inner.right <= outer.right + TOLERANCE_PX &&
    inner.top >= outer.top - TOLERANCE_PX &&
    inner.bottom <= outer.bottom + TOLERANCE_PX;

  /** Every word on the page: its element, its text, and one rectangle for each line it is on. */
  const words = [];
  for (const node of shown) {
    for (const text of node.childNodes) {
      if (text.nodeType !== Node.TEXT_NODE) continue;
      for (const { 0: word, index } of text.data.matchAll(/\S+/g)) {
        const range = document.createRange();
        range.setStart(text, index);
        range.setEnd(text, index + word.length);
        const lines = new Map([...range.getClientRects()].map((rect) => [rect.top, rect]));
        words.push({ node, text, word, lines: [...lines.values()] });
      }
    }
  }

  const scrolled = document.documentElement.scrollWidth;
  if (scrolled > width) faults.add(`the page is ${scrolled} px wide`);

  for (const node of shown) {
    const part = seen(rectOf(node), node);
    if (part && (part.left < -TOLERANCE_PX || part.right > width + TOLERANCE_PX)) {
      faults.add(`${named(node)} reaches from ${part.left} to ${part.right}`);
    }
  }

  for (const node of shown) {
    const { display, overflow } = styleOf(node);
    if (display === "inline" || overflow !== "visible") continue;
    if (node.scrollWidth > node.clientWidth + TOLERANCE_PX) {
      faults.add(`${named(node)} has ${node.clientWidth} px for ${node.scrollWidth} px`);
    }
  }

  const controls = shown.filter((node) =>
    node.matches("a, button, summary, label:has(input), input:not([type=radio], [type=file])"),
  );
  for (const [index, one] of controls.entries()) {
    for (const other of controls.slice(index + 1)) {
      if (one.contains(other) || other.contains(one)) continue;
      if (overlap(rectOf(one), rectOf(other))) {
        faults.add(`${named(one)} overlaps ${named(other)}`);
      }
    }
  }

  for (const { node, word, lines } of words) {
    if (node.closest(users)) {
      if (lines.length > 1 && word.length / lines.length < LETTERS_A_LINE_MIN) {
        faults.add(`${named(node)} stacks the letters of ${word}`);
      }
      continue;
    }
    if (lines.length > 1) faults.add(`${named(node)} breaks the word ${word}`);
    const holder = node.closest("a, button, label, summary, h1, p, dd, dt") ?? node;
    for (const line of lines) {
      const part = seen(line, node);
      if (part === null || !within(line, part)) faults.add(`${named(node)} cuts ${word} off`);
      if (!within(line, rectOf(holder))) {
        faults.add(`${word} sticks out of ${named(holder)}`);
      }
    }
  }

  const pieces = words.flatMap(({ node, text, word, lines }) =>
    lines.flatMap((line) => {
      const part = seen(line, node);
      return part ? [{ node, text, word, ...part }] : [];
    }),
  );
  pieces.sort((a, b) => a.top - b.top);
  for (const [index, one] of pieces.entries()) {
    for (let next = index + 1; next < pieces.length && pieces[next].top < one.bottom; next++) {
      const other = pieces[next];
      if (one.text !== other.text && overlap(one, other)) {
        faults.add(`"${one.word}" of ${named(one.node)} overlaps "${other.word}"`);
      }
    }
    for (const control of controls) {
      if (control.contains(one.node) || !overlap(one, rectOf(control))) continue;
      faults.add(`"${one.word}" of ${named(one.node)} overlaps ${named(control)}`);
    }
  }

  const mark = words.filter(({ node }) => node.matches(".wordmark")).flatMap(({ lines }) => lines);
  if (new Set(mark.map(({ top }) => top)).size !== 1) {
    faults.add(`the word mark is on ${mark.length} lines`);
  }
  return [...faults];
}
