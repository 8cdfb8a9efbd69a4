"""An audit of a page in the browser: what keeps those from it who do not see or do not point."""

#: Sentences, each about one thing that is wrong. WCAG 2.2 AA where it says so.
AUDIT = r"""(() => {
  const wrong = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (node) => node.getClientRects().length > 0;
  const say = (what, node) => wrong.push(`${what}: ${node.outerHTML.slice(0, 120)}`);

  let before = 0;
  for (const head of all("h1, h2, h3, h4, h5, h6")) {
    const level = Number(head.tagName[1]);
    if (level > before + 1) say(`a heading of level ${level} after one of ${before}`, head);
    if (!head.textContent.trim()) say("an empty heading", head);
    before = level;
  }
  if (all("h1").length !== 1 || all("main").length !== 1) wrong.push("not one h1 and one main");
  if (!document.documentElement.lang || !document.title) wrong.push("no language or no title");

  const ids = all("[id]").map((node) => node.id);
  if (new Set(ids).size !== ids.length) wrong.push("two things have one id");
  for (const node of all("[aria-labelledby]"))
    for (const id of node.getAttribute("aria-labelledby").split(" "))
      if (!document.getElementById(id)?.textContent.trim()) say(`no words at ${id}`, node);

  for (const image of all("img")) if (!image.hasAttribute("alt")) say("no alt", image);
  for (const drawing of all("svg:not(svg svg)"))
    if (drawing.getAttribute("aria-hidden") !== "true" &&
        !(drawing.getAttribute("role") === "img" &&
          (drawing.hasAttribute("aria-label") || drawing.hasAttribute("aria-labelledby"))))
      say("a drawing without a name", drawing);
  for (const node of all("a[href], button, summary"))
    if (!(node.textContent.trim() || node.getAttribute("aria-label"))) say("no name", node);
  for (const node of all("input, select"))
    if (!node.labels.length && !node.getAttribute("aria-label")) say("no label", node);
  for (const table of all("table"))
    if (!table.getAttribute("aria-label") || table.querySelector("th:not([scope])"))
      say("a table without a name or with headings of nothing", table);

  for (const node of all("[tabindex]")) if (node.tabIndex > 0) say("an order of its own", node);
  for (const node of all("main *, header *")) {
    const style = getComputedStyle(node);
    const moves = ["auto", "scroll"];
    const wide = node.scrollWidth > node.clientWidth + 1 && moves.includes(style.overflowX);
    const tall = node.scrollHeight > node.clientHeight + 1 && moves.includes(style.overflowY);
    if (shown(node) && (wide || tall) && node.tabIndex < 0) say("scrolled by a pointer", node);
  }
  // 2.5.8: 24 pixels, but for links within lines of text.
  for (const node of all("button, input, select, summary, nav a")) {
    const { width, height } = node.getBoundingClientRect();
    const label = node.closest("label")?.getBoundingClientRect().height ?? 0;
    if (shown(node) && (width < 24 || height < 24) && label < 24) say(`${width} x ${height}`, node);
  }

  const light = (color) => {
    const [r, g, b] = color.match(/[\d.]+/g).slice(0, 3).map((part) => {
      const c = part / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (Number(color.match(/[\d.]+/g)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  // 1.4.11: 3 to 1 of what has to be seen; grid, bands and single members may be faint.
  for (const node of all(".chart rect, .chart .median, .chart .end")) {
    const style = getComputedStyle(node);
    const ink = style.stroke === "none" ? style.fill : style.stroke;
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 3) say(`faint, ${ink} on ${behind(node)}`, node);
  }
  return [...new Set(wrong)];
})()"""
