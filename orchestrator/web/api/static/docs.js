// Renders /openapi.json. Text goes into the page as text only, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
const ACCESS = { admin: "admin key", own: "own key" };

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== "") node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// `code` between backticks; everything else is plain text.
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : document.createTextNode(part)));
}

function paragraphs(text) {
  const blocks = [];
  for (const block of text.trim().split(/\n\s*\n/)) {
    const lines = block.split("\n");
    if (lines.every((line) => line.startsWith("* "))) {
      blocks.push(make("ul", {}, ...lines.map((line) => make("li", {}, ...prose(line.slice(2))))));
    } else {
      blocks.push(make("p", {}, ...prose(block.replaceAll("\n", " "))));
    }
  }
  return blocks;
}

class Page {
  constructor(description) {
    this.description = description;
  }

  resolve(schema) {
    let found = schema ?? {};
    while (found.$ref) {
      found = found.$ref.slice(2).split("/").reduce((node, key) => node[key], this.description);
    }
    return found;
  }

  // A short name for a type: "string · date-time", "JobView", "array of string", "integer or null".
  typeName(schema) {
    if (!schema || Object.keys(schema).length === 0) return "any";
    if (schema.$ref) return schema.$ref.split("/").pop().replace(/^(Listing|Items)_(.*)_$/, "$1 of $2");
    if (schema.const !== undefined) return JSON.stringify(schema.const);
    if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
    const options = schema.anyOf ?? schema.oneOf;
    if (options) return options.map((each) => this.typeName(each)).join(" or ");
    if (schema.type === "array") return `array of ${this.typeName(schema.items)}`;
    if (schema.type === "object" && typeof schema.additionalProperties === "object") {
      return `object of ${this.typeName(schema.additionalProperties)}`;
    }
    return [schema.type ?? "any", schema.format].filter(Boolean).join(" · ");
  }

  bounds(schema) {
    const parts = [];
    for (const each of [schema, ...(schema.anyOf ?? [])]) {
      const low = each.minimum ?? each.exclusiveMinimum;
      if (low !== undefined) parts.push(`${each.minimum === undefined ? ">" : "≥"} ${low}`);
      if (each.maximum !== undefined) parts.push(`≤ ${each.maximum}`);
      if (each.maxLength !== undefined) parts.push(`at most ${each.maxLength} characters`);
      if (each.maxItems !== undefined) parts.push(`at most ${each.maxItems} items`);
    }
    if (schema.default !== undefined && schema.default !== null) parts.push(`default ${JSON.stringify(schema.default)}`);
    return parts.join(", ");
  }

  // The object whose fields are worth showing below a field of this type, if there is one.
  inner(schema) {
    const candidates = [schema, schema?.items, schema?.additionalProperties, ...(schema?.anyOf ?? [])];
    for (const each of candidates) {
      const items = each?.items ? this.resolve(each.items) : null;
      const found = items?.properties ? items : this.resolve(each);
      if (found?.properties) return found;
    }
    return null;
  }

  field(name, schema, needed, depth, answer = false) {
    const term = make(
      "dt", {},
      make("code", {}, name),
      make("span", { class: "type" }, this.typeName(schema)),
      needed ? make("span", { class: "needed" }, "required") : null,
    );
    const detail = make("dd", {});
    const said = [schema.description ?? "", this.bounds(schema)].filter(Boolean).join(" — ");
    if (said) detail.append(...prose(said));
    const inner = depth < 4 ? this.inner(schema) : null;
    if (inner) {
      detail.append(make("details", {}, make("summary", {}, "fields"), this.fields(inner, depth + 1, answer)));
    }
    return make("div", {}, term, detail);
  }

  // `answer`: every field is always there, so saying so at each would be noise.
  fields(schema, depth = 0, answer = false) {
    const needed = new Set(answer ? [] : schema.required ?? []);
    const rows = Object.entries(schema.properties ?? {}).map(([name, each]) => this.field(name, each, needed.has(name), depth, answer));
    return rows.length ? make("dl", {}, ...rows) : make("p", { class: "none" }, "No fields.");
  }

  body(operation) {
    const content = operation.requestBody?.content;
    if (!content) return [];
    const [type, media] = Object.entries(content)[0];
    const title = `Body · ${type}${operation.requestBody.required ? "" : " · may be left out"}`;
    return [make("h4", {}, title), this.fields(this.resolve(media.schema))];
  }

  parameters(operation) {
    const found = operation.parameters ?? [];
    if (!found.length) return [];
    const rows = found.map((each) =>
      this.field(each.name, { ...each.schema, description: [each.in === "query" ? "" : `In the ${each.in}.`, each.description ?? ""].filter(Boolean).join(" ") }, each.required, 9));
    return [make("h4", {}, "Parameters"), make("dl", {}, ...rows)];
  }

  responses(operation) {
    const rows = Object.entries(operation.responses).map(([status, each]) => {
      const summary = make("summary", {}, make("code", { class: status < "400" ? "good" : "bad" }, status), " ", ...prose(each.description));
      const media = Object.values(each.content ?? {})[0];
      const schema = this.resolve(media?.schema);
      const inside = schema.properties
        ? this.fields(schema, 0, true)
        : make("p", { class: "none" }, media ? `${Object.keys(each.content)[0]}` : "No body.");
      const headers = Object.keys(each.headers ?? {});
      return make("details", {}, summary, headers.length ? make("p", { class: "none" }, `Headers: ${headers.join(", ")}`) : null, inside);
    });
    return [make("h4", {}, "Answers"), make("div", { class: "responses" }, ...rows)];
  }

  example(method, path, operation) {
    const lines = [`curl -X ${method.toUpperCase()} ${location.origin}${path.replaceAll("{account}", "acme")}`];
    if (method === "get") lines[0] = lines[0].replace("-X GET ", "");
    if (operation.security?.length) lines.push(`  -H "Authorization: Bearer $ONELANE_API_KEY"`);
    for (const each of operation.parameters ?? []) {
      if (each.in === "header" && each.required) lines.push(`  -H '${each.name}: ${each.example ?? "…"}'`);
    }
    const media = Object.values(operation.requestBody?.content ?? {})[0];
    if (media) {
      lines.push(`  -H "Content-Type: application/json"`);
      lines.push(`  -d '${JSON.stringify(media.example ?? {}, null, 2).replaceAll("'", "'\\''")}'`);
    }
    const text = lines.join(" \\\n");
    const button = make("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return [make("h4", {}, "Example"), make("div", { class: "example" }, make("pre", { tabindex: "0" }, make("code", {}, text)), navigator.clipboard ? button : null)];
  }

  // A form that makes the call, with the key of the field at the top of the page.
  trial(method, path, operation) {
    const inputs = (operation.parameters ?? []).map((each) => [each, this.input(each)]);
    const media = Object.entries(operation.requestBody?.content ?? {})[0];
    const body = media ? make("textarea", { rows: "8", spellcheck: "false", "aria-label": "Body" }) : null;
    if (body) body.value = JSON.stringify(media[1].example ?? {}, null, 2);
    const send = make("button", { type: "submit" }, `Send ${method.toUpperCase()}`);
    const stop = make("button", { type: "button", hidden: "hidden" }, "Stop");
    const result = make("div", { class: "result", role: "status" });
    const form = make(
      "form", {},
      ...inputs.map(([each, input]) => make("label", {}, make("code", {}, each.name), make("span", { class: "type" }, each.in), input)),
      body ? make("label", { class: "body" }, make("span", {}, `Body · ${media[0]}`), body) : null,
      make("p", {}, send, " ", stop), result);
    let running = null;
    stop.addEventListener("click", () => running?.abort());
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      running?.abort();
      running = new AbortController();
      stop.hidden = false;
      try {
        await call(method, path, operation, inputs, body && [media[0], body.value], result, running.signal);
      } catch (error) {
        result.append(make("p", { class: "bad" }, error.name === "AbortError" ? "Stopped." : `The call failed: ${error.message}`));
      }
      stop.hidden = true;
    });
    return make("details", { class: "trial" }, make("summary", {}, "Try this call"), form);
  }

  input(parameter) {
    const input = make("input", { autocomplete: "off", spellcheck: "false", "aria-label": parameter.name });
    if (parameter.required) input.required = true;
    const value = parameter.example ?? parameter.schema?.example;
    if (parameter.required && value !== undefined && parameter.name !== "id") input.value = value;
    return input;
  }

  operation(method, path, operation) {
    const id = operation.operationId;
    const access = operation.security?.length ? ACCESS[operation["x-access"]] ?? "key" : "no key";
    return make(
      "article", { id, "data-words": `${method} ${path} ${operation.summary} ${operation.tags.join(" ")}`.toLowerCase() },
      make("h3", {}, ...prose(operation.summary)),
      make("p", { class: "call" },
        make("span", { class: `method ${method}` }, method),
        make("a", { class: "anchor", href: `#${id}` }, path),
        make("span", { class: "access" }, access)),
      ...(operation.description ? paragraphs(operation.description) : []),
      ...this.parameters(operation), ...this.body(operation), ...this.responses(operation), ...this.example(method, path, operation),
      this.trial(method, path, operation));
  }

  // One view for each resource; gives back the view that each anchor lies in.
  render(nav, main) {
    const views = new Map();
    document.getElementById("conventions").append(...paragraphs(this.description.info.description));
    nav.append(make("p", {}, make("a", { href: "#start" }, "Start")));
    for (const { name, description } of this.description.tags) {
      const anchor = `resource-${name.toLowerCase().replaceAll(" ", "-")}`;
      const section = make("section", { id: anchor, hidden: "hidden" }, make("h1", {}, name), ...paragraphs(description ?? ""));
      const list = make("ul");
      for (const [path, operations] of Object.entries(this.description.paths)) {
        for (const method of METHODS) {
          const operation = operations[method];
          if (!operation?.tags.includes(name)) continue;
          const article = this.operation(method, path, operation);
          section.append(article);
          views.set(operation.operationId, section);
          const link = make("a", { href: `#${operation.operationId}`, title: `${method.toUpperCase()} ${path}` },
            make("span", { class: `method ${method}` }, method), make("span", {}, operation.summary));
          list.append(make("li", { "data-words": article.dataset.words }, link));
        }
      }
      views.set(anchor, section);
      nav.append(make("section", { "data-view": anchor }, make("h2", {}, make("a", { href: `#${anchor}` }, name)), list));
      document.getElementById("resources").append(
        make("div", {}, make("dt", {}, make("a", { href: `#${anchor}` }, name)), make("dd", {}, ...prose(description ?? ""))));
      main.append(section);
    }
    return views;
  }
}

const SHOWN_CHARACTERS = 200_000;

// Makes a call and shows its answer; a stream is shown as it comes.
async function call(method, path, operation, inputs, body, result, signal) {
  const headers = new Headers();
  const query = new URLSearchParams();
  let filled = path;
  for (const [parameter, input] of inputs) {
    if (parameter.in === "path") filled = filled.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value && parameter.in === "query") query.append(parameter.name, input.value);
    else if (input.value) headers.set(parameter.name, input.value);
  }
  const key = document.getElementById("key").value.trim();
  if (operation.security?.length && key) headers.set("Authorization", `Bearer ${key}`);
  if (body) headers.set("Content-Type", body[0]);
  const address = query.size ? `${filled}?${query}` : filled;
  const began = performance.now();
  result.replaceChildren(make("p", { class: "none" }, `${method.toUpperCase()} ${address} …`));
  const answer = await fetch(address, {
    method: method.toUpperCase(), headers, body: body ? body[1] : undefined, signal, credentials: "omit", cache: "no-store",
  });
  const took = Math.round(performance.now() - began);
  const shown = ["content-type", "location", "retry-after", "idempotency-replayed", "etag", "x-request-id"]
    .filter((name) => answer.headers.has(name)).map((name) => `${name}: ${answer.headers.get(name)}`);
  const text = make("code", {});
  result.replaceChildren(
    make("p", {}, make("code", { class: answer.ok ? "good" : "bad" }, `${answer.status} ${answer.statusText}`.trim()), ` in ${took} ms`),
    make("pre", { tabindex: "0" }, make("code", {}, shown.join("\n"))), make("pre", { tabindex: "0" }, text));
  const decoder = new TextDecoder();
  let received = "";
  for (const reader = answer.body?.getReader(); reader;) {
    const { value, done } = await reader.read();
    received += decoder.decode(value, { stream: !done });
    text.textContent = received.slice(0, SHOWN_CHARACTERS);
    if (done) break;
    if (received.length > SHOWN_CHARACTERS) {
      await reader.cancel();
      text.textContent += "\n… more was left out";
      return;
    }
  }
  if (/json/.test(answer.headers.get("content-type") ?? "")) {
    try {
      text.textContent = JSON.stringify(JSON.parse(received), null, 2);
    } catch {
      text.textContent = received; // lines of JSON, as an export has them
    }
  }
  if (!received) text.textContent = "No body.";
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const node of document.querySelectorAll("#nav [data-words]")) {
    node.hidden = !words.every((word) => node.dataset.words.includes(word));
  }
  for (const section of document.querySelectorAll("#nav > section")) {
    section.hidden = !section.querySelector("[data-words]:not([hidden])");
    section.classList.toggle("open", words.length > 0 || section.dataset.view === shownView);
  }
}

let shownView = "start";

// Shows the view of the address: a resource, one of its calls, or the start.
function show(views) {
  const anchor = decodeURIComponent(location.hash.slice(1));
  const section = views.get(anchor) ?? document.getElementById("start");
  shownView = section.id;
  for (const each of document.querySelectorAll("main > section")) each.hidden = each !== section;
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.getAttribute("href") === `#${anchor || "start"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  filter(document.getElementById("filter").value);
  const title = section.querySelector("h1").textContent;
  document.title = section.id === "start" ? "onelane · HTTP API" : `${title} · onelane HTTP API`;
  const target = anchor === section.id ? null : document.getElementById(anchor);
  if (target) target.scrollIntoView();
  else window.scrollTo(0, 0);
}

async function start() {
  const main = document.getElementById("content");
  for (const each of document.querySelectorAll("[data-origin]")) {
    each.textContent = each.textContent.replaceAll("ORIGIN", location.origin);
  }
  let views;
  try {
    const answer = await fetch("/openapi.json");
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    views = new Page(await answer.json()).render(document.getElementById("nav"), main);
    document.getElementById("state").remove();
  } catch (error) {
    document.getElementById("state").textContent = `The description cannot be read: ${error.message}. Reload the page to try again.`;
    return;
  }
  // On a wide screen the list of calls stands beside the page; on a narrow one it would push the page away.
  const wide = matchMedia("(min-width: 60.01rem)");
  const fold = document.getElementById("fold");
  fold.open = wide.matches;
  wide.addEventListener("change", () => { fold.open = wide.matches; });
  const input = document.getElementById("filter");
  input.addEventListener("input", () => filter(input.value));
  addEventListener("hashchange", () => {
    if (!wide.matches) fold.open = false;
    show(views);
  });
  show(views);
}

start();
