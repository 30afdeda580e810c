// The chat page: conversations on the left, one of them in the middle, the server's API behind it.

import { ApiError, complete, models } from "./api.js";
import { markdown } from "./markdown.js";
import { loadSettings, openChats, removeAllChats, removeChat, saveChat, saveSettings } from "./store.js";
import { WORDS } from "./words.js";

const $ = id => document.getElementById(id);
const settings = loadSettings();
let words = WORDS.en;
let chats = [];
let chat = null;
/** The answer that is being written: `{chat, turn, control, node}`. */
let running = null;
let following = true;

// Words and looks

function applyLanguage() {
  const language = settings.language || (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
  words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = words[node.dataset.text];
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = words[node.dataset.placeholder];
  for (const node of document.querySelectorAll("[data-label]")) label(node, words[node.dataset.label]);
  $("language").textContent = words.other;
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  applyTheme();
  applyThinking();
  applyRunning();
  showList();
  showChat();
}

function label(node, text) {
  node.setAttribute("aria-label", text);
  if (node.tagName === "BUTTON") node.title = text;
}

function applyTheme() {
  document.documentElement.dataset.theme = settings.theme;
  const [icon, text] = { auto: ["auto", words.themeAuto], light: ["sun", words.themeLight], dark: ["moon", words.themeDark] }[settings.theme];
  $("theme").replaceChildren(symbol(icon));
  label($("theme"), text);
}

function applyThinking() {
  $("thinking").setAttribute("aria-pressed", settings.thinking);
  $("thinking").title = settings.thinking ? words.thinkingOn : words.thinkingOff;
}

function applyRunning() {
  $("send").replaceChildren(symbol(running ? "stop" : "send"));
  label($("send"), running ? words.stop : words.send);
  $("send").classList.toggle("stops", Boolean(running));
  $("send").disabled = !running && !$("input").value.trim();
  $("turns").setAttribute("aria-busy", Boolean(running));
}

function symbol(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function iconButton(icon, text, action) {
  const button = make("button", "icon small", symbol(icon));
  button.type = "button";
  label(button, text);
  button.addEventListener("click", action);
  return button;
}

function notice(text, action, actionText) {
  const node = $("notice");
  node.hidden = !text;
  node.replaceChildren(make("span", "", text ?? ""));
  if (text && action) {
    const button = make("button", "plain", actionText);
    button.type = "button";
    button.addEventListener("click", () => { notice(); action(); });
    node.append(button);
  }
  if (text) node.append(iconButton("close", words.close, () => notice()));
}

function showError(error, retry) {
  if (error.status === 401 || error.status === 403) {
    notice(settings.key ? words.wrongKey : words.needKey, openSettings, words.openSettings);
  } else if (error instanceof ApiError && error.status === 0) {
    notice(words.offline, retry, words.retry);
  } else {
    notice(`${words.failed}${error.status ? ` (${error.status})` : ""}: ${error.message}`, retry, words.retry);
  }
}

// The list of conversations

function newChat() {
  chat = { id: Date.now().toString(36) + Math.random().toString(36).slice(2, 8), title: "", at: Date.now(), turns: [] };
  notice();
  showList();
  showChat();
  closeSide();
  $("input").focus();
}

function showList() {
  $("list").replaceChildren(...chats.map(one => {
    const open = make("button", "open", one.title || words.untitled);
    open.type = "button";
    open.dir = "auto";
    open.title = one.title;
    if (one === chat) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => { chat = one; notice(); showList(); showChat(); closeSide(); });
    const remove = iconButton("bin", `${words.remove}: ${one.title}`, () => {
      if (!confirm(words.removeSure)) return;
      if (running?.chat === one) running.control.abort();
      chats = chats.filter(other => other !== one);
      removeChat(one.id);
      if (one === chat) newChat(); else showList();
    });
    return make("li", "", open, remove);
  }));
}

async function keep(one) {
  // A conversation that was deleted while its answer streamed stays deleted.
  try {
    if (chats.includes(one)) await saveChat(one);
  } catch {
    notice(words.full);
  }
}

// One conversation

function showChat() {
  if (!chat) return;
  $("turns").replaceChildren(...chat.turns.map((turn, i) => turnNode(turn, i)));
  $("empty").hidden = chat.turns.length > 0;
  document.title = chat.title ? `${chat.title} · Fathom` : "Fathom";
  following = true;
  follow();
}

function turnNode(turn, index) {
  const node = make("article", `turn ${turn.role}`);
  label(node, turn.role === "user" ? words.you : words.assistant);
  if (turn.role === "user") {
    const text = make("div", "bubble", turn.text);
    text.dir = "auto";
    const tools = make("div", "tools", copyButton(() => turn.text), iconButton("edit", words.edit, () => edit(node, turn, index)));
    node.append(text, tools);
  } else {
    node.append(make("details", "reasoning"), make("div", "prose"), make("div", "tools"));
    fillAnswer(node, turn, index);
    if (running?.turn === turn) running.node = node;
  }
  return node;
}

function copyButton(text) {
  const button = iconButton("copy", words.copy, async () => {
    await copy(text());
    label(button, words.copied);
    button.classList.add("done");
    setTimeout(() => { label(button, words.copy); button.classList.remove("done"); }, 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https browsers have only the old way.
    const area = make("textarea", "hidden", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** Puts into the node of an answer what there is of it. Blocks that stay the same keep their nodes, so that
 * what is selected stays selected. */
function fillAnswer(node, turn, index) {
  const [details, prose, tools] = node.children;
  const writing = running?.turn === turn;
  fillReasoning(details, turn, writing);
  prose.dir = "auto";
  const fresh = markdown(turn.text, words.copy);
  if (writing && !turn.text && !turn.reasoning) fresh.append(make("p", "waiting", make("span", "dot"), make("span", "hidden", words.waiting)));
  const want = [...fresh.children];
  want.forEach((block, i) => {
    const old = prose.children[i];
    if (!old) prose.append(block);
    else if (!old.isEqualNode(block)) old.replaceWith(block);
  });
  while (prose.children.length > want.length) prose.lastElementChild.remove();
  node.classList.toggle("writing", writing);
  if (writing) { tools.replaceChildren(); return; }
  const last = index === chat.turns.length - 1;
  tools.replaceChildren(copyButton(() => turn.text));
  if (last) tools.append(iconButton("again", words.again, () => regenerate(index)));
  const why = { length: words.cutLength, stopped: words.stopped, insufficient_system_resource: words.cutServer }[turn.finish];
  if (why) tools.append(make("span", "why", why));
  if (turn.usage) {
    const { input, cached, output, rate } = turn.usage;
    tools.append(make("span", "figures", words.usage(input, cached, output, rate)));
  }
}

function fillReasoning(details, turn, writing) {
  details.hidden = !turn.reasoning;
  if (!turn.reasoning) return;
  const thinking = writing && !turn.text;
  if (!details.firstChild) {
    details.append(make("summary", "", symbol("think"), make("span")), make("div", "thought"));
    details.open = thinking;
    details.firstChild.addEventListener("click", () => { details.dataset.chosen = "true"; });
  }
  const [summary, body] = details.children;
  summary.lastChild.textContent = thinking ? words.reasoningNow
    : turn.seconds !== undefined ? words.reasonedFor(turn.seconds) : words.reasoning;
  summary.classList.toggle("live", thinking);
  // Open while it thinks, folded once the answer begins, unless the reader chose otherwise.
  if (!details.dataset.chosen && details.open !== thinking) details.open = thinking;
  body.dir = "auto";
  if (body.textContent !== turn.reasoning) body.textContent = turn.reasoning;
}

function edit(node, turn, index) {
  if (running?.chat === chat) return;
  const area = make("textarea", "editor");
  area.value = turn.text;
  area.dir = "auto";
  label(area, words.edit);
  const save = make("button", "primary", words.save);
  const cancel = make("button", "plain", words.cancel);
  const fit = () => { area.style.height = "auto"; area.style.height = `${area.scrollHeight + 2}px`; };
  const back = () => node.replaceWith(turnNode(turn, index));
  const send = () => {
    const text = area.value.trim();
    if (!text) return;
    chat.turns.splice(index);
    ask(text);
  };
  save.addEventListener("click", send);
  cancel.addEventListener("click", back);
  area.addEventListener("input", fit);
  area.addEventListener("keydown", event => {
    if (event.key === "Escape") { event.stopPropagation(); back(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  node.replaceChildren(area, make("div", "editor-row", cancel, save));
  fit();
  area.focus();
}

function regenerate(index) {
  if (running) return;
  chat.turns.splice(index);
  answer();
}

function ask(text) {
  chat.turns.push({ role: "user", text });
  if (!chat.title) chat.title = text.replace(/\s+/g, " ").slice(0, 80);
  if (chats[0] !== chat) chats = [chat, ...chats.filter(one => one !== chat)];
  chat.at = Date.now();
  answer();
}

function requestBody(one) {
  const messages = one.turns.filter(turn => turn.role === "user" || turn.text)
    .map(turn => ({ role: turn.role, content: turn.text }));
  if (settings.system.trim()) messages.unshift({ role: "system", content: settings.system });
  const body = { model: $("model").value || settings.model, messages, thinking: { type: settings.thinking ? "enabled" : "disabled" } };
  for (const field of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (settings[field] !== "" && Number.isFinite(Number(settings[field]))) body[field] = Number(settings[field]);
  }
  return body;
}

async function answer() {
  const mine = chat;
  const body = requestBody(mine);
  const turn = { role: "assistant", text: "", reasoning: "" };
  mine.turns.push(turn);
  running = { chat: mine, turn, control: new AbortController(), node: null };
  const run = running;
  notice();
  applyRunning();
  showList();
  showChat();
  keep(mine);
  try {
    await receive(body, run);
  } catch (error) {
    if (error.name === "AbortError") {
      turn.finish = "stopped";
    } else {
      turn.finish = turn.text || turn.reasoning ? "insufficient_system_resource" : "failed";
      showError(error, () => { if (!running && mine === chat && mine.turns.at(-1)?.role === "user") answer(); });
    }
  }
  running = null;
  if (!turn.text && !turn.reasoning) mine.turns.splice(mine.turns.indexOf(turn), 1);
  $("usage").textContent = "";
  applyRunning();
  if (mine === chat) {
    const place = [...mine.turns].indexOf(turn);
    if (place < 0) showChat(); else if (run.node) fillAnswer(run.node, turn, place);
    follow();
    $("status").textContent = turn.text ? words.answerDone : "";
  }
  keep(mine);
}

/** Reads the stream of an answer into its turn. */
async function receive(body, run) {
  const { turn } = run;
  const began = performance.now();
  let first = 0, last = 0, pieces = 0;
  for await (const event of complete(body, settings.key, run.control.signal)) {
    const choice = event.choices?.[0];
    const delta = choice?.delta ?? {};
    if (delta.reasoning_content) turn.reasoning += delta.reasoning_content;
    if (delta.content) {
      if (turn.reasoning && !turn.text) turn.seconds = Math.max(1, Math.round((performance.now() - began) / 1000));
      turn.text += delta.content;
    }
    if (delta.reasoning_content || delta.content) {
      last = performance.now();
      first ||= last;
      pieces++;
    }
    if (choice?.finish_reason) turn.finish = choice.finish_reason;
    if (event.usage) {
      const output = event.usage.completion_tokens;
      const rate = last > first && output > 1 ? ((output - 1) * 1000) / (last - first) : 0;
      const cached = event.usage.prompt_cache_hit_tokens ?? event.usage.prompt_tokens_details?.cached_tokens ?? 0;
      turn.usage = { input: event.usage.prompt_tokens, cached, output, rate: rate >= 100 ? Math.round(rate) : rate.toFixed(1) };
    } else if (pieces > 1 && last > first) {
      run.rate = ((pieces - 1) * 1000) / (last - first);
    }
    draw(run);
  }
}

/** Shows the answer so far, at most once a frame and never for more than a tenth of the time. */
function draw(run) {
  if (run.drawing) return;
  run.drawing = true;
  setTimeout(() => requestAnimationFrame(() => {
    run.drawing = false;
    if (running !== run || run.chat !== chat || !run.node?.isConnected) return;
    const start = performance.now();
    fillAnswer(run.node, run.turn, chat.turns.indexOf(run.turn));
    if (run.rate) $("usage").textContent = `${run.rate.toFixed(run.rate < 100 ? 1 : 0)} tokens/s`;
    follow();
    run.pause = Math.min(1000, (performance.now() - start) * 9);
  }), run.pause ?? 0);
}

// Scrolling: the page follows the answer until the reader scrolls up

function follow() {
  const view = $("scroll");
  if (following) view.scrollTop = view.scrollHeight;
}

function scrolled() {
  const view = $("scroll");
  following = view.scrollHeight - view.scrollTop - view.clientHeight < 60;
  $("to-end").hidden = following;
}

// Settings

const FIELDS = ["key", "system", "temperature", "top_p", "max_tokens", "seed"];

function openSettings() {
  for (const field of FIELDS) $(field).value = settings[field];
  $("settings").showModal();
}

function closedSettings() {
  const before = settings.key;
  for (const field of FIELDS) settings[field] = field === "system" ? $(field).value : $(field).value.trim();
  saveSettings(settings);
  if (settings.key !== before) { notice(); loadModels(); }
}

async function loadModels() {
  try {
    const ids = await models(settings.key);
    $("model").replaceChildren(...ids.map(id => new Option(id, id)));
    if (ids.includes(settings.model)) $("model").value = settings.model;
    $("model").disabled = ids.length < 2;
  } catch (error) {
    showError(error, loadModels);
  }
}

/** `#key=…` in the address hands the key over once; it does not stay there. */
function keyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (key === null) return;
  settings.key = key.trim();
  saveSettings(settings);
  history.replaceState(null, "", location.pathname + location.search);
}

// Events

function closeSide() {
  document.body.classList.remove("side-open");
  $("veil").hidden = true;
  $("menu").setAttribute("aria-expanded", "false");
}

function openSide() {
  document.body.classList.add("side-open");
  $("veil").hidden = false;
  $("menu").setAttribute("aria-expanded", "true");
  $("side-close").focus();
}

function fitInput() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  applyRunning();
}

function submit() {
  const text = $("input").value.trim();
  if (running || !text) return;
  $("input").value = "";
  fitInput();
  ask(text);
}

function listen() {
  $("form").addEventListener("submit", event => {
    event.preventDefault();
    if (running) running.control.abort(); else submit();
  });
  $("input").addEventListener("input", fitInput);
  $("input").addEventListener("keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  $("new").addEventListener("click", newChat);
  $("menu").addEventListener("click", openSide);
  $("side-close").addEventListener("click", () => { closeSide(); $("menu").focus(); });
  $("veil").addEventListener("click", closeSide);
  $("scroll").addEventListener("scroll", scrolled, { passive: true });
  $("to-end").addEventListener("click", () => { following = true; follow(); });
  $("theme").addEventListener("click", () => {
    settings.theme = { auto: "light", light: "dark", dark: "auto" }[settings.theme] ?? "auto";
    saveSettings(settings);
    applyTheme();
  });
  $("language").addEventListener("click", () => {
    settings.language = document.documentElement.lang.startsWith("zh") ? "en" : "zh";
    saveSettings(settings);
    applyLanguage();
  });
  $("thinking").addEventListener("click", () => {
    settings.thinking = !settings.thinking;
    saveSettings(settings);
    applyThinking();
  });
  $("model").addEventListener("change", () => { settings.model = $("model").value; saveSettings(settings); });
  $("open-settings").addEventListener("click", openSettings);
  $("settings").addEventListener("close", closedSettings);
  $("clear").addEventListener("click", () => {
    if (!confirm(words.clearSure)) return;
    running?.control.abort();
    chats = [];
    removeAllChats();
    newChat();
  });
  $("turns").addEventListener("click", async event => {
    const button = event.target.closest(".copy-code");
    if (!button) return;
    await copy(button.closest(".code").querySelector("code").textContent);
    button.textContent = words.copied;
    setTimeout(() => { button.textContent = words.copy; }, 1500);
  });
  document.addEventListener("keydown", event => {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (event.key === "Escape" && document.body.classList.contains("side-open")) closeSide();
    else if (event.key === "Escape" && running && !$("settings").open) running.control.abort();
    else if (event.key === "/" && !typing) { event.preventDefault(); $("input").focus(); }
    else if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) { event.preventDefault(); newChat(); }
  });
}

async function begin() {
  keyFromAddress();
  listen();
  chats = await openChats();
  newChat();
  applyLanguage();
  await loadModels();
}

begin();
