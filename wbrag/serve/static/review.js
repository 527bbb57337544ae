"use strict";
// The review page. What units, sources and answers say is other people's text: it becomes text nodes, never markup.
const content = document.getElementById("content"), status = document.getElementById("status");
const PAGE = 50, QUESTIONS = 20;
let session = null;
let list = { units: [], total: 0 }; // as the server gave it last
let open = null; // the unit that is shown
let last = null; // the unit that was decided about last
let turn = 0; // what was asked for last is shown, however late an earlier answer comes
const asked = { state: "queue", kind: "", find: "", sort: "doubt", offset: 0 };

function make(tag, given, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

function say(text, bad) {
  status.textContent = text;
  status.className = bad ? "bad" : "";
}

async function ask(path, given) {
  const headers = {}, key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const how = { headers };
  if (given) {
    headers["Content-Type"] = "application/json";
    headers["X-CSRF-Token"] = session.token;
    Object.assign(how, { method: "POST", body: JSON.stringify(given) });
  }
  const answer = await fetch(`/review/api/${path}`, how);
  const told = await answer.json().catch(() => ({ detail: `the server answered ${answer.status}` }));
  if (answer.ok) return told;
  throw Object.assign(new Error(told.detail), { status: answer.status });
}

const query = (given) => new URLSearchParams(Object.entries(given)).toString();
const percent = (x) => (x === null || x === undefined ? "-" : (100 * x).toFixed(1));
const points = (x) => (x === null || x === undefined ? "-" : `${100 * x >= 0.05 ? "+" : ""}${(100 * x).toFixed(1)}`.replace(/^-0\.0$/, "0.0"));
const unitLink = (id) => `#/unit/${encodeURIComponent(id)}`;

// Units: a list, and one beside it.

function choice(name, label, values) {
  const change = (event) => { asked[name] = event.target.value; asked.offset = 0; units(); };
  const options = values.map(([value, text]) => make("option", { value, selected: asked[name] === value }, text));
  return make("label", {}, label, make("select", { name, onchange: change }, options));
}

function filters() {
  const n = list.counts || {}, states = ["queue", "live", "accepted", "edited", "rejected"];
  const kinds = Object.entries(session.kinds).map(([kind]) => [kind, `${kind} (${(list.kinds || {})[kind] || 0})`]);
  const sorts = { doubt: "doubt", title: "title", read: "most read", better: "most better", worse: "most worse",
    unit_tokens: "longest", id: "id" };
  const find = make("input", { type: "search", name: "find", value: asked.find });
  return make("form", { class: "filters", role: "search", onsubmit: (event) => {
    event.preventDefault(); asked.find = find.value; asked.offset = 0; units(); } },
    choice("state", "Units", [...states.map((one) => [one, `${one === "queue" ? "to look at" : one} (${n[one] || 0})`]), ["all", "all"]]),
    choice("kind", "Doubt", [["", "any"], ...kinds]),
    choice("sort", "Order", Object.entries(sorts)),
    make("label", { class: "wide" }, "Search", find),
    make("button", { type: "submit" }, "Find"));
}

function tags(unit) {
  const state = unit.state === "live" ? [] : [make("span", { class: `tag ${unit.state === "rejected" ? "bad" : "good"}` }, unit.state)];
  return [...state, ...unit.doubts.map((one) => make("span", { class: "tag bad" }, one.kind))];
}

const readTold = (unit) => (unit.read ? `read by ${unit.read}, ${unit.better} better, ${unit.worse} worse` : unit.doubts.some((one) => one.kind === "never read") ? "" : "not read");

function line(unit) {
  return make("li", {}, make("a", { href: unitLink(unit.id), "aria-current": open && open.id === unit.id ? "true" : null },
    make("b", {}, unit.title), make("span", { class: "text" }, unit.text),
    make("span", { class: "quiet" }, `${readTold(unit)} `), tags(unit)));
}

function pager(total, offset, size, go) {
  const to = Math.min(total, offset + size);
  return make("div", { class: "pager" },
    make("button", { type: "button", disabled: offset === 0, onclick: () => go(Math.max(0, offset - size)) }, "Previous"),
    make("button", { type: "button", disabled: to >= total, onclick: () => go(offset + size) }, "Next"),
    make("span", { class: "quiet" }, total ? `${offset + 1} to ${to} of ${total}` : "none"));
}

function shown(unit) {
  const wide = make("section", { class: "list", "aria-label": "Units" }, filters(),
    make("ul", { class: "units" }, list.units.map(line)),
    pager(list.total, asked.offset, PAGE, (offset) => { asked.offset = offset; units(); }));
  const detail = make("section", { class: "detail", "aria-label": "One unit" }, unit ? life(unit)
    : make("p", { class: "quiet" }, list.total ? "Choose a unit, or press j." : "No unit is like this."));
  const before = document.querySelector(".list");
  const top = before ? before.scrollTop : 0;
  content.replaceChildren(make("div", { class: unit ? "sides one" : "sides" }, wide, detail));
  wide.scrollTop = top;
}

async function units() {
  const mine = ++turn, told = await ask(`units?${query({ ...asked, limit: PAGE })}`);
  if (mine !== turn) return;
  open = null;
  list = told;
  shown(null);
  document.title = "Units to review";
}

async function unit(id) {
  const mine = ++turn;
  if (!list.units.length) list = await ask(`units?${query({ ...asked, limit: PAGE })}`);
  const told = await ask(`units/${encodeURIComponent(id)}`);
  if (mine !== turn) return;
  open = told;
  shown(open);
  document.title = `${open.title} - review`;
  const current = document.querySelector("[aria-current]");
  if (current) current.scrollIntoView({ block: "nearest" });
  document.querySelector(".detail h2").focus();
}

function life(unit) {
  const gone = unit.state === "rejected", decided = unit.decision;
  const button = (text, key, work, given) => make("button", { type: "button", "aria-keyshortcuts": key, onclick: work, ...given }, text);
  return [
    make("a", { class: "back", href: "#/units" }, "Back to the list"),
    make("h2", { tabindex: "-1" }, unit.title),
    make("p", { class: "unit" }, unit.text),
    make("p", { class: "quiet" }, `${unit.id}, ${unit.form || "unit"}, ${unit.unit_tokens} tokens, ${readTold(unit)} `, tags(unit)),
    decided && make("p", {}, `${decided.state} ${decided.at}${decided.why ? `: ${decided.why}` : ""}`),
    unit.doubts.length ? make("ul", {}, unit.doubts.map((one) => make("li", {}, make("b", {}, one.kind), `: ${one.told} `,
      one.other && make("a", { href: unitLink(one.other) }, one.other)))) : null,
    make("div", { class: "actions" },
      button("Accept", "a", accept, { class: "strong", disabled: gone }),
      button("Reject", "r", () => form("reject"), { disabled: gone }),
      button("Edit", "e", () => form("edit"), { disabled: gone }),
      button("Undo", "u", undo, { disabled: !decided && !last })),
    make("div", { id: "form" }),
    make("h3", {}, "Sources"),
    unit.sources.length ? unit.sources.map(source) : make("p", {}, "It names none."),
    make("h3", {}, "Made of these examples"),
    unit.examples.length ? unit.examples.map(example) : make("p", {}, "No kept example asks about it."),
    make("h3", {}, "Test questions that read it"),
    unit.questions.length ? unit.questions.map((one) => question(one, "without write-back", "with write-back")) : make("p", {}, "None."),
  ];
}

function source(one) {
  if (!one.sentences.length) return make("p", { class: "bad" }, `${one.id} is not in the base any more.`);
  const labels = Object.entries(one.labels).map(([name, value]) => `${name} ${value}`).join(", ");
  return [make("h4", {}, `${one.title} `, make("span", { class: "quiet" }, `${one.id}${labels ? `, ${labels}` : ""}`)),
    make("p", {}, one.sentences.flatMap((s) => [s.marked ? make("mark", {}, s.text) : s.text, " "]))];
}

function scrolling(label, ...inside) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, inside);
}

function example(one) {
  const number = (x) => (x === null || x === undefined ? "-" : x.toFixed(2));
  const alone = (one.document_scores || []).map((s, i) => `${i + 1}: ${number(s)}${(one.kept_ranks || []).includes(i + 1) ? " kept" : ""}`);
  const cells = [["closed book", one.closed_book_answer, number(one.s_nr)], ["with documents", one.rag_answer, number(one.s_rag)],
    ["gain", "", number(one.delta)], ["each document alone", alone.join(", "), one.fallback ? "none passed" : ""]];
  return [make("h4", {}, `${one.question} `, make("span", { class: "quiet" }, `${one.id}; golden: ${(one.golden_answers || []).join(" | ")}`)),
    scrolling(`Gates of ${one.id}`, make("table", {}, make("thead", {}, make("tr", {}, ["", "answer", "score"].map((x) => x ? make("th", { scope: "col" }, x) : make("td", {})))),
      make("tbody", {}, cells.map(([name, ...rest]) => make("tr", {}, make("th", { scope: "row" }, name), rest.map((x) => make("td", {}, x || ""))))))),
    make("p", { class: "quiet" }, one.reason || "")];
}

function question(one, before, after) {
  const side = (name, answer, score) => make("div", {}, make("span", { class: "quiet" }, `${name}, score ${score.toFixed(2)}`), make("br"), answer ?? "(failed)");
  const word = one.change > 0 ? "better" : one.change < 0 ? "worse" : "same";
  return make("article", {}, make("b", {}, one.question), " ", make("span", { class: `tag ${{ better: "good", worse: "bad" }[word] || ""}` }, word),
    make("div", { class: "quiet" }, `${one.id}; golden: ${(one.golden_answers || []).join(" | ")}`),
    make("div", { class: "answers" }, side(before, one.answer_base, one.score_base), side(after, one.answer_writeback, one.score_writeback)),
    one.units.length ? make("div", { class: "quiet" }, "read: ", one.units.flatMap((u) => [make("a", { href: unitLink(u.id) }, u.title), ` (rank ${u.rank}) `])) : null);
}

// Decisions.

function form(what) {
  if (!open || open.state === "rejected") return;
  const why = make("textarea", { name: "why", required: true, rows: "2" });
  const title = make("input", { name: "title", value: open.title, required: true });
  const text = make("textarea", { name: "text", required: true, rows: "5" }, open.text);
  const fields = what === "edit" ? [make("label", {}, "Title", title), make("label", {}, "Text", text)] : [];
  const close = () => { document.getElementById("form").replaceChildren(); document.querySelector(".detail h2").focus(); };
  const node = make("form", { class: "asks", "aria-label": what, onsubmit: (event) => {
    event.preventDefault(); decide(open.id, what, what === "edit" ? { why: why.value, title: title.value, text: text.value } : { why: why.value }); } },
    fields, make("label", {}, "Why, for whoever asks later", why),
    make("div", { class: "actions" }, make("button", { type: "submit", class: "strong" }, what === "edit" ? "Save" : "Reject"),
      make("button", { type: "button", onclick: close }, "Cancel")));
  document.getElementById("form").replaceChildren(node);
  (what === "edit" ? text : why).focus();
}

const accept = () => { if (open && open.state !== "rejected") decide(open.id, "accept", {}); };
const undo = () => { const id = open && open.decision ? open.id : last; if (id) decide(id, "restore", {}); };

async function decide(id, what, said) {
  say("...");
  const place = list.units.findIndex((one) => one.id === id);
  const done = await ask(`units/${encodeURIComponent(id)}/${what}`, said);
  last = what === "restore" ? null : done.id;
  const past = { accept: "accepted", reject: "rejected", edit: "edited", restore: "as it was written" }[what];
  const seen = open && open.id === id;
  if (seen) document.getElementById("form").replaceChildren(); // keys are decisions again
  list = await ask(`units?${query({ ...asked, limit: PAGE })}`);
  const still = list.units.findIndex((one) => one.id === done.id);
  const next = what === "restore" ? done.id : asked.state === "queue" && seen && still < 0 ? (list.units[Math.min(place, list.units.length - 1)] || {}).id : done.id;
  say(`${done.id} is ${past}: version ${done.version}.${what === "restore" ? "" : " Undo: u."}`);
  if (!next) { location.hash = "#/units"; await units(); } else if (location.hash === unitLink(next)) await unit(next); else location.hash = unitLink(next);
}

// Runs.

async function runs(given) {
  const mine = ++turn, { runs: all, own } = await ask("runs");
  if (!all.length) { content.replaceChildren(make("p", {}, "No run here has answered test questions.")); return; }
  const a = given.get("a") || (all.find((one) => one.name === own) || all[0]).name, b = given.get("b") || "";
  const change = given.get("change") || "worse", find = given.get("find") || "", offset = Number(given.get("offset") || 0);
  const go = (more) => { location.hash = `#/runs?${query({ a, b, change, find, offset: 0, ...more })}`; };
  const told = await ask(`questions?${query({ a, b, change, find, offset, limit: QUESTIONS })}`);
  if (mine !== turn) return;
  open = null;
  const pick = (name, label, value, none) => make("label", {}, label, make("select", { name, onchange: (e) => go({ [name]: e.target.value }) },
    none && make("option", { value: "" }, none), all.map((one) => make("option", { value: one.name, selected: one.name === value }, one.name))));
  const needle = make("input", { type: "search", name: "find", value: find });
  const kinds = ["worse", "better", "same", "all"].map((one) => make("option", { value: one, selected: one === change }, one === "all" ? "all" : `${one} (${told.counts[one] || 0})`));
  content.replaceChildren(
    make("h2", { tabindex: "-1" }, b ? `${a} beside ${b}` : "Runs"),
    make("form", { class: "filters", role: "search", onsubmit: (e) => { e.preventDefault(); go({ find: needle.value }); } },
      pick("a", "Run", a), pick("b", "beside", b, "itself without write-back"),
      make("label", {}, "Questions", make("select", { name: "change", onchange: (e) => go({ change: e.target.value }) }, kinds)),
      make("label", { class: "wide" }, "Search", needle), make("button", { type: "submit" }, "Find")),
    results(b ? all.filter((one) => one.name === a || one.name === b) : all),
    make("h3", {}, { worse: "Questions that got worse", better: "Questions that got better", same: "Questions that stayed as they were", all: "All questions" }[change]),
    ...told.questions.map((one) => question(one, b ? a : "without write-back", b || "with write-back")),
    pager(told.total, offset, QUESTIONS, (next) => go({ offset: next })));
  document.title = "Runs - review";
}

function results(some) {
  const heads = ["run", "questions", "base", "+ write-back", "gain", "95% over questions", "n", "closed book", "benchmark", "method", "model"];
  const row = (run, part, name) => run[part] && make("tr", {}, make("th", { scope: "row" }, run.name),
    [name, percent(run[part].base), percent(run[part].writeback), points(run[part].gain), run[part].interval,
      run[part].n, percent(run[part].closed_book), run.benchmark, run.method, run.backbone].map((x) => make("td", {}, String(x))));
  return scrolling("Results", make("table", {}, make("thead", {}, make("tr", {}, heads.map((x) => make("th", { scope: "col" }, x)))),
    make("tbody", {}, some.flatMap((run) => [row(run, "without_overlap", "without overlap"), row(run, "all", "all")]).filter(Boolean))));
}

// Where one is, and the keys.

function keyForm() {
  const field = make("input", { type: "password", name: "key", autocomplete: "off", required: true });
  content.replaceChildren(make("form", { class: "asks", onsubmit: (event) => { event.preventDefault(); sessionStorage.setItem("key", field.value.trim()); start(); } },
    make("h2", {}, "This server has a key"), make("label", {}, "API key", field),
    make("div", { class: "actions" }, make("button", { type: "submit", class: "strong" }, "Go on"))));
  field.focus();
}

async function route() {
  const [path, given] = location.hash.slice(2).split("?");
  const [page, id] = path.split("/");
  if (page === "unit" && id) await unit(decodeURIComponent(id));
  else if (page === "runs") await runs(new URLSearchParams(given));
  else await units();
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === (page === "runs" ? "#/runs" : "#/units");
    if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
}

function step(by) {
  const pages = document.querySelectorAll(".pager button");
  if (location.hash.startsWith("#/runs")) { pages[by > 0 ? 1 : 0].click(); return; }
  const at = list.units.findIndex((one) => unitLink(one.id) === location.hash);
  const next = list.units[at < 0 ? 0 : at + by];
  if (next) location.hash = unitLink(next.id);
  else say(by > 0 ? "This is the last one of the list." : "This is the first one of the list.");
}

function help() {
  const box = document.getElementById("help");
  box.hidden = !box.hidden;
  document.getElementById("keys").setAttribute("aria-expanded", String(!box.hidden));
}

const KEYS = { j: () => step(1), k: () => step(-1), a: accept, r: () => form("reject"), e: () => form("edit"), u: undo, "?": help,
  "/": () => { const field = document.querySelector("input[name=find]"); if (field) field.focus(); } };

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) { event.preventDefault(); event.target.form.requestSubmit(); return; }
  if (event.key === "Escape") {
    const cancel = document.querySelector("#form button[type=button]");
    if (cancel) cancel.click(); else if (typing) typing.blur(); else if (open) location.hash = "#/units";
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !document.getElementById("letters").checked || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});

document.getElementById("keys").addEventListener("click", help);
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason && event.reason.status === 401) { say(sessionStorage.getItem("key") ? "This is not the key." : "", true); sessionStorage.removeItem("key"); keyForm(); }
  else say(String((event.reason && event.reason.message) || event.reason), true);
});
window.addEventListener("hashchange", () => { if (session) { say(status.textContent, status.className === "bad"); route(); } });

async function start() {
  session = await ask("session");
  document.getElementById("run").textContent = session.run;
  say("");
  await route();
}
start();
