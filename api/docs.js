"use strict";
(async () => {
  const page = document.getElementById("page");

  // Everything is put in as text, never as markup.
  const el = (tag, props, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props || {})) node[name] = value;
    for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
    return node;
  };
  const paragraphs = (text) => (text || "").split("\n\n").map((p) => el("p", {}, p.replace(/[`*]/g, "")));

  let doc;
  try {
    const answer = await fetch("/openapi.json");
    if (!answer.ok) throw new Error("status " + answer.status);
    doc = await answer.json();
  } catch (err) {
    page.replaceChildren(el("p", {}, "/openapi.json could not be loaded: " + err.message));
    return;
  }

  const nameOf = (schema) => (schema && schema.$ref ? schema.$ref.split("/").pop() : "");
  const typeOf = (schema) => {
    if (schema.$ref) return el("a", { href: "#schema-" + nameOf(schema) }, nameOf(schema));
    if (schema.type === "array") return el("span", {}, "array of ", typeOf(schema.items));
    if (schema.oneOf) return el("span", {}, "lines of ", schema.oneOf.flatMap((s, i) => [i ? ", and last a " : "", typeOf(s)]));
    return el("span", {}, [].concat(schema.type).join(" | ") + (schema.format ? " (" + schema.format + ")" : ""));
  };
  const limits = (s) => [
    s.enum && "one of " + s.enum.join(", "),
    s.pattern && "matches " + s.pattern,
    s.contentEncoding && s.contentEncoding,
    s.minLength !== undefined && "at least " + s.minLength + " characters",
    s.maxLength !== undefined && "at most " + s.maxLength + " characters",
    s.minItems !== undefined && "at least " + s.minItems + " items",
    s.maxItems !== undefined && "at most " + s.maxItems + " items",
    s.minimum !== undefined && "at least " + s.minimum,
    s.maximum !== undefined && "at most " + s.maximum,
    s.default !== undefined && "default " + s.default,
    s.examples && s.examples.length && "e.g. " + JSON.stringify(s.examples[0]),
  ].filter(Boolean).join("; ");
  const row = (name, schema, required, description) => el("tr", {},
    el("td", {}, el("code", {}, name), required ? " *" : ""),
    el("td", {}, typeOf(schema)),
    el("td", {}, [description || schema.description, limits(schema)].filter(Boolean).join(" — ")));
  const table = (rows, ...heads) => el("table", {}, el("thead", {}, el("tr", {}, heads.map((h) => el("th", {}, h)))), el("tbody", {}, rows));
  const fields = (schema) => table(
    Object.entries(schema.properties || {}).map(([n, s]) => row(n, s, (schema.required || []).includes(n))), "field", "type", "meaning");

  // Lines come as a string, and are shown as they are sent.
  const text = (value) => typeof value === "string" ? value : JSON.stringify(value, null, 2);
  const samples = (entry) => entry.examples
    ? Object.entries(entry.examples).flatMap(([name, e]) => [el("p", {}, name + ":"), el("pre", {}, text(e.value))])
    : [el("pre", {}, text(entry.example))];

  const body = (title, content) => {
    const entry = Object.values(content || {})[0];
    if (!entry || !entry.schema) return [];
    return [el("h4", {}, title, typeOf(entry.schema)), ...samples(entry)];
  };
  const responses = (op) => {
    const good = Object.keys(op.responses).find((s) => s < "400");
    const bad = Object.entries(op.responses).filter(([s]) => s >= "400");
    return [
      ...body("Answer " + good + ": ", op.responses[good].content),
      el("details", {}, el("summary", {}, "Problems"), table(bad.map(([status, r]) => el("tr", {},
        el("td", {}, status),
        el("td", {}, Object.keys(Object.values(r.content)[0].examples).flatMap((c) => [el("a", { href: "#" + c }, c), " "])))), "status", "codes")),
    ];
  };
  const route = (path, method, op) => el("section", { className: "route", id: "route-" + op.operationId },
    el("h3", {}, el("span", { className: "method " + method }, method), el("code", {}, path),
      el("span", { className: "role" }, op["x-role"] ? "role: " + op["x-role"] : "anyone")),
    el("p", {}, el("strong", {}, op.summary)), paragraphs(op.description),
    (op.parameters || []).length ? table(op.parameters.map((p) => row(p.name + " (" + p.in + ")", p.schema, p.required, p.description)), "parameter", "type", "meaning") : null,
    op.requestBody ? body("Request: ", op.requestBody.content) : null,
    responses(op));

  const routes = Object.entries(doc.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, op]) => route(path, method.toUpperCase(), op)));
  const schemas = Object.entries(doc.components.schemas).sort().map(([name, schema]) =>
    el("section", { id: "schema-" + name }, el("h3", {}, name), fields(schema)));
  const codes = doc["x-problem-codes"].map((c) => el("tr", { id: c.code },
    el("td", {}, el("code", {}, c.code)), el("td", {}, String(c.status)),
    el("td", {}, [c.title, c.detail, c.retry_after_seconds && "try again after " + c.retry_after_seconds + " s"].filter(Boolean).join(" — "))));

  page.replaceChildren(
    el("h1", {}, doc.info.title + " API"), el("p", {}, "version " + doc.info.version), ...paragraphs(doc.info.description),
    el("nav", {}, el("a", { href: "#routes" }, "Routes"), el("a", { href: "#types" }, "Types"),
      el("a", { href: "#codes" }, "Problem codes"), el("a", { href: "/openapi.json" }, "openapi.json")),
    el("h2", { id: "routes" }, "Routes"), ...routes,
    el("h2", { id: "types" }, "Types"), el("p", {}, "Fields marked * are always there."), ...schemas,
    el("h2", { id: "codes" }, "Problem codes"), table(codes, "code", "status", "meaning"));
  if (location.hash) {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) target.scrollIntoView();
  }
})();
