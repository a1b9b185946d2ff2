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
      ...this.parameters(operation), ...this.body(operation), ...this.responses(operation), ...this.example(method, path, operation));
  }

  render(nav, main) {
    const info = this.description.info;
    main.replaceChildren(make("h1", {}, info.title, make("small", {}, info.version)), ...paragraphs(info.description));
    nav.replaceChildren();
    for (const { name } of this.description.tags) {
      const section = make("section", {}, make("h2", {}, name));
      const list = make("ul");
      for (const [path, operations] of Object.entries(this.description.paths)) {
        for (const method of METHODS) {
          const operation = operations[method];
          if (!operation?.tags.includes(name)) continue;
          const article = this.operation(method, path, operation);
          section.append(article);
          const link = make("a", { href: `#${operation.operationId}`, title: `${method.toUpperCase()} ${path}` },
            make("span", { class: `method ${method}` }, method), make("span", {}, operation.summary));
          list.append(make("li", { "data-words": article.dataset.words }, link));
        }
      }
      nav.append(make("section", {}, make("h2", {}, name), list));
      main.append(section);
    }
  }
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const node of document.querySelectorAll("[data-words]")) {
    node.hidden = !words.every((word) => node.dataset.words.includes(word));
  }
  for (const section of document.querySelectorAll("main > section, #nav > section")) {
    section.hidden = !section.querySelector("[data-words]:not([hidden])");
  }
}

async function start() {
  const main = document.getElementById("content");
  try {
    const answer = await fetch("/openapi.json");
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    new Page(await answer.json()).render(document.getElementById("nav"), main);
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
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

start();
