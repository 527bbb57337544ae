"use strict";
// Tables sort by a click on their head, long ones filter and turn pages, and so do lists of cases. Without it all is shown.
const PAGE = 25;
const make = (name, told, within) => within.appendChild(Object.assign(document.createElement(name), told));

function listing(items, before, what) {
  const bar = document.createElement("div");
  bar.className = "bar";
  before.before(bar);
  const wanted = make("input", { type: "search", placeholder: "Filter", ariaLabel: `Filter ${what}` }, bar);
  const back = make("button", { type: "button", textContent: "Previous" }, bar);
  const said = make("span", {}, bar);
  said.setAttribute("role", "status");
  const on = make("button", { type: "button", textContent: "Next" }, bar);
  let first = 0;
  const show = (step) => {
    const words = wanted.value.toLowerCase().split(/\s+/);
    const found = items().filter((item) => words.every((word) => item.textContent.toLowerCase().includes(word)));
    first = Math.max(0, step === 0 ? 0 : Math.min(first + step, found.length - 1));
    const shown = new Set(found.slice(first, first + PAGE));
    for (const item of items()) item.classList.toggle("out", !shown.has(item)); // on paper all are shown
    said.textContent = found.length ? `${first + 1} to ${first + shown.size} of ${found.length}` : "none";
    back.disabled = first === 0;
    on.disabled = first + PAGE >= found.length;
    back.hidden = on.hidden = back.disabled && on.disabled;
  };
  wanted.addEventListener("input", () => show(0));
  back.addEventListener("click", () => show(-PAGE));
  on.addEventListener("click", () => show(PAGE));
  show(0);
  return show;
}

function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = Number.parseFloat(text.replace(/,/g, "").replace(/^[<"]\s*/, ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1; // what has no number comes last
}

function sortable(table, changed) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.textContent) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
      body.append(...rows.map(([, row]) => row));
      changed();
    });
  });
}

for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const long = body.rows.length > PAGE / 2;
  const show = long ? listing(() => [...body.rows], table.parentElement, "rows") : () => {};
  sortable(table, () => show(0));
}
for (const cases of document.querySelectorAll(".cases")) {
  if (cases.children.length > PAGE / 2) listing(() => [...cases.children], cases, "cases");
}

function reach() { // a link to a case opens it, wherever it is
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.classList.remove("out");
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reach);
reach();

const turned = () => { // what is wider than the page is scrolled with keys too
  for (const box of document.querySelectorAll(".scroll, pre")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("resize", turned);
turned();
