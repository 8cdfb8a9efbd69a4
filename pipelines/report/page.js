"use strict";
// Comfort only: choosing and sorting rows, and loading the page again without losing one's place.
(() => {
  const memory = {
    get: (key) => { try { return sessionStorage.getItem(location.pathname + key); } catch { return null; } },
    set: (key, value) => { try { sessionStorage.setItem(location.pathname + key, value); } catch { /* a private window */ } },
  };

  const labelled = (text, control) => {
    const label = document.createElement("label");
    label.append(text + " ", control);
    return label;
  };

  const keyOf = (cell) => {
    const number = parseFloat(cell.dataset.value ?? cell.textContent);
    const counts = cell.dataset.value !== undefined || cell.classList.contains("number");
    return counts && !Number.isNaN(number) ? number : cell.textContent;
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  const sortable = (table) => {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].sort(
          (a, b) => (down ? -1 : 1) * compare(keyOf(a.cells[column]), keyOf(b.cells[column])),
        );
        body.append(...rows);
      });
    });
  };

  const filtered = (table) => {
    const name = table.dataset.filtered;
    const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
    const rows = [...table.tBodies[0].rows];
    const search = document.createElement("input");
    search.type = "search";
    const select = document.createElement("select");
    const values = [...new Set(rows.map((row) => row.cells[column].textContent))].sort();
    select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    const told = document.createElement("output");
    const key = "|" + table.getAttribute("aria-label");
    const apply = () => {
      const words = search.value.toLowerCase();
      rows.forEach((row) => {
        row.hidden =
          !row.textContent.toLowerCase().includes(words) ||
          (select.value !== "" && row.cells[column].textContent !== select.value);
      });
      told.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
      memory.set(key, JSON.stringify([search.value, select.value]));
    };
    try { [search.value, select.value] = JSON.parse(memory.get(key)) ?? ["", ""]; } catch { /* none */ }
    if (select.selectedIndex < 0) select.value = "";
    search.addEventListener("input", apply);
    select.addEventListener("change", apply);
    const tools = document.createElement("div");
    tools.className = "tools";
    tools.append(labelled("Search", search), labelled(name, select), told);
    table.closest(".sheet").prepend(tools);
    apply();
  };

  const refreshing = (box) => {
    box.checked = memory.get("|refresh") !== "off";
    history.scrollRestoration = "manual";
    const away = Number(memory.get("|place"));
    if (away && !location.hash) scrollTo({ top: away, behavior: "instant" });
    addEventListener("pagehide", () => memory.set("|place", String(scrollY)));
    box.addEventListener("change", () => memory.set("|refresh", box.checked ? "on" : "off"));
    setInterval(() => { if (box.checked) location.reload(); }, 1000 * Number(box.dataset.seconds));
  };

  document.querySelectorAll("table[data-filtered]").forEach((table) => {
    filtered(table);
    sortable(table);
  });
  document.querySelectorAll("#refresh").forEach(refreshing);
})();
