// Markdown to DOM nodes. Text enters the document as text nodes only, so nothing in it can become markup;
// links lead to http, https and mailto. Headings, lists, quotes, tables, fenced code, rules, emphasis, code, links.

const SAFE_LINK = /^(https?:|mailto:)/i;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(\s+|$)/;
const DEPTH_MAX = 12;

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** The blocks of a text, as nodes. `copyLabel` is the word on the button of code blocks. */
export function markdown(text, copyLabel) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), copyLabel, 0);
}

function blocks(lines, copyLabel, depth) {
  const out = document.createDocumentFragment();
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = line.match(/^\s{0,3}(`{3,}|~{3,})\s*([^`]*)$/);
    if (!line.trim()) {
      at++;
    } else if (fence) {
      const closes = line => line.startsWith(fence[1]) && !line.slice(fence[1].length).trim();
      let last = at + 1;
      while (last < lines.length && !closes(lines[last].trim())) last++;
      out.append(codeBlock(lines.slice(at + 1, last).join("\n"), fence[2].trim().split(/\s/)[0], copyLabel));
      at = last + 1;
    } else if (/^#{1,6}\s/.test(line)) {
      const level = line.match(/^#+/)[0].length;
      const heading = element(`h${Math.min(6, level + 2)}`);
      inline(line.slice(level).trim().replace(/\s+#+$/, ""), heading, 0);
      out.append(heading);
      at++;
    } else if (/^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line)) {
      out.append(element("hr"));
      at++;
    } else if (/^\s{0,3}>/.test(line) && depth < DEPTH_MAX) {
      const start = at;
      while (at < lines.length && /^\s{0,3}>/.test(lines[at])) at++;
      const inner = lines.slice(start, at).map(l => l.replace(/^\s{0,3}> ?/, ""));
      out.append(element("blockquote", "", blocks(inner, copyLabel, depth + 1)));
    } else if (ITEM.test(line) && depth < DEPTH_MAX) {
      at = list(lines, at, out, copyLabel, depth);
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      at = table(lines, at, out);
    } else {
      const start = at;
      do at++; while (at < lines.length && !startsBlock(lines[at]));
      const paragraph = element("p");
      inline(lines.slice(start, at).join("\n").trim(), paragraph, 0);
      out.append(paragraph);
    }
  }
  return out;
}

function startsBlock(line) {
  return !line.trim() || /^\s{0,3}(`{3,}|~{3,}|>|#{1,6}\s)/.test(line) || ITEM.test(line);
}

function codeBlock(code, language, copyLabel) {
  const button = element("button", "copy-code", copyLabel);
  button.type = "button";
  const head = element("div", "code-head", element("span", "code-language", language || "text"), button);
  const pre = element("pre", "", element("code", "", code));
  pre.tabIndex = 0;
  return element("div", "code", head, pre);
}

/** Appends the list that begins at a line and returns the line behind it. */
function list(lines, at, out, copyLabel, depth) {
  const first = lines[at].match(ITEM);
  const ordered = /\d/.test(first[2]);
  const node = element(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(first[2], 10);
  const indent = first[1].length;
  let loose = false;
  while (at < lines.length) {
    const item = lines[at].match(ITEM);
    if (!item || item[1].length < indent || item[1].length > indent + 1 || /\d/.test(item[2]) !== ordered) break;
    const width = item[0].length;
    const inner = [lines[at].slice(width)];
    at++;
    while (at < lines.length) {
      const line = lines[at];
      const lead = line.match(/^\s*/)[0].length;
      if (!line.trim()) {
        const next = lines[at + 1] ?? "";
        if (!next.trim() || (next.match(/^\s*/)[0].length <= indent && !ITEM.test(next))) break;
        if (ITEM.test(next) && next.match(/^\s*/)[0].length <= indent + 1) { loose = true; at++; break; }
        inner.push("");
      } else if (lead > indent + 1 || (lead > indent && !ITEM.test(line))) {
        inner.push(line.slice(Math.min(lead, width)));
      } else if (!startsBlock(line) && inner[inner.length - 1].trim()) {
        inner.push(line.trim());
      } else {
        break;
      }
      at++;
    }
    const body = blocks(inner, copyLabel, depth + 1);
    const only = body.childElementCount >= 1 && body.firstElementChild.tagName === "P" ? body.firstElementChild : null;
    const entry = element("li");
    if (only && !loose) {
      entry.append(...only.childNodes);
      only.remove();
    }
    entry.append(body);
    node.append(entry);
  }
  out.append(node);
  return at;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map(cell => cell.trim().replace(/\\\|/g, "|"));
}

function table(lines, at, out) {
  const align = cells(lines[at + 1]).map(c => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : ""));
  const row = (line, tag) => {
    const node = element("tr");
    cells(line).slice(0, align.length || 1).forEach((text, i) => {
      const cell = element(tag, align[i] ? `to-${align[i]}` : "");
      inline(text, cell, 0);
      node.append(cell);
    });
    return node;
  };
  const body = element("tbody");
  const head = element("thead", "", row(lines[at], "th"));
  at += 2;
  while (at < lines.length && lines[at].trim() && lines[at].includes("|")) body.append(row(lines[at++], "td"));
  const wrap = element("div", "table", element("table", "", head, body));
  wrap.tabIndex = 0;
  out.append(wrap);
  return at;
}

// Lengths are bounded, so that openings without an end cost little. One after another: escapes, code, links, bold, emphasis, struck text, bare addresses, line ends.
const INLINE = new RegExp([
  /\\([\\`*_{}[\]()#+\-.!|~<>])/, /(`+)([\s\S]{0,4000}?[^`])\2(?!`)/, /!?\[([^[\]\n]*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"\n]*")?\)/,
  /\*\*(?=\S)([\s\S]{0,500}?\S)\*\*/, /(?<![\w*])[*](?=[^\s*])([^*\n]*?[^\s*])[*](?![\w*])/, /(?<!\w)_(?=[^\s_])([^_\n]*?[^\s_])_(?!\w)/,
  /~~(?=\S)([^~]*?\S)~~/, /(https?:\/\/[^\s<>"'`，。）]*[^\s<>"'`，。）.,;:!?)\]])/, /(\n)/,
].map(part => part.source).join("|"), "g");

function inline(text, parent, depth) {
  let done = 0;
  // A pattern of its own for each call: calls are nested.
  const pattern = new RegExp(INLINE);
  for (let match; (match = pattern.exec(text)); ) {
    parent.append(text.slice(done, match.index));
    done = pattern.lastIndex;
    const [, escaped, , code, label, address, bold, star, under, struck, bare, end] = match;
    const nested = (tag, inner) => {
      const node = element(tag);
      if (depth < DEPTH_MAX) inline(inner, node, depth + 1); else node.append(inner);
      parent.append(node);
    };
    if (escaped) parent.append(escaped);
    else if (code !== undefined) parent.append(element("code", "", code.replace(/^ (.*\S.*) $/s, "$1")));
    else if (address !== undefined) link(address, label, parent);
    else if (bold) nested("strong", bold);
    else if (star || under) nested("em", star || under);
    else if (struck) nested("del", struck);
    else if (bare) link(bare, bare, parent);
    else if (end) parent.append(element("br"));
  }
  parent.append(text.slice(done));
}

function link(address, label, parent) {
  if (!SAFE_LINK.test(address)) {
    parent.append(label || address);
    return;
  }
  const node = element("a", "", label || address);
  node.href = address;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
  parent.append(node);
}
