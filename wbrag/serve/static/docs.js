"use strict";
// What openapi.json says, for a person, and a question to try.
function make(tag, given, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(given || {})) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined));
  return node;
}

function resolved(schema, all) {
  return schema && schema.$ref ? all[schema.$ref.split("/").pop()] : schema || {};
}

function kind(schema) {
  if (schema.anyOf) return schema.anyOf.map(kind).filter((one) => one !== "null").join(" or ");
  if (schema.$ref) return schema.$ref.split("/").pop();
  const bounds = [["minimum", "from"], ["maximum", "to"], ["minLength", "at least"], ["maxLength", "at most"], ["maxItems", "at most"]];
  const told = bounds.filter(([key]) => key in schema).map(([key, word]) => `${word} ${schema[key]}`).join(" ");
  return `${schema.type === "array" ? `list of ${kind(schema.items || {})}` : schema.type || "any"}${told ? ` (${told})` : ""}`;
}

function fields(name, rows) {
  if (!rows.length) return null;
  const head = make("tr", {}, ["field", "type", "default", "what"].map((one) => make("th", { scope: "col" }, one)));
  const body = rows.map(([field, schema, needed]) => make("tr", {}, make("th", { scope: "row" }, field), make("td", {}, kind(schema)),
    make("td", {}, "default" in schema ? JSON.stringify(schema.default) : needed ? "needed" : ""), make("td", {}, schema.description || "")));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, make("table", {}, make("thead", {}, head), make("tbody", {}, body)));
}

function operation(path, method, told, all) {
  const name = `${method.toUpperCase()} ${path}`;
  const given = (told.parameters || []).map((one) => [one.name, { ...one.schema, description: one.schema.description || one.description }, one.required]);
  const body = told.requestBody ? resolved(told.requestBody.content["application/json"].schema, all) : null;
  const sent = body ? Object.entries(body.properties).map(([key, schema]) => [key, schema, (body.required || []).includes(key)]) : [];
  const answer = ((told.responses["200"] || {}).content || {})["application/json"];
  return [make("h3", {}, name), make("p", {}, told.description || told.summary || ""), fields(name, [...given, ...sent]),
    answer ? make("p", { class: "quiet" }, `answers ${kind(answer.schema)}`) : null];
}

async function start() {
  const told = await (await fetch("/openapi.json")).json(), all = told.components.schemas;
  const parts = told.info.description.trim().split("\n\n").map((one) => make("p", {}, one));
  for (const [path, methods] of Object.entries(told.paths)) {
    for (const [method, what] of Object.entries(methods)) parts.push(...operation(path, method, what, all));
  }
  for (const name of ["Found", "Hit"]) {
    parts.push(make("h3", {}, name), fields(name, Object.entries(all[name].properties)));
  }
  const address = `curl ${location.origin}/search -H 'Content-Type: application/json' -d '{"question": "...", "k": 5}'`;
  document.getElementById("paths").replaceChildren(make("pre", { tabindex: "0", "aria-label": "With curl" }, address), ...parts.filter(Boolean));
}

document.getElementById("try").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = new FormData(event.target), headers = { "Content-Type": "application/json" };
  if (given.get("key")) headers.Authorization = `Bearer ${given.get("key")}`;
  const asked = { question: given.get("question"), k: Number(given.get("k")), where: given.get("where") || null, writeback: given.get("writeback") === "on" };
  const answer = await fetch("/search", { method: "POST", headers, body: JSON.stringify(asked) });
  const box = document.getElementById("answer");
  box.hidden = false;
  box.textContent = JSON.stringify(await answer.json(), null, 2);
  document.getElementById("status").textContent = answer.ok ? "" : `the server answered ${answer.status}`;
});
start();
