// Drives the chat page in headless Chromium and exits with 1 if any check fails.
//
//     npm install playwright-core            (anywhere; run this script from there)
//     node .../tools/web-page/check.mjs [http://127.0.0.1:8000/#key=sk-...] [--shots DIR] [--only PART]
//
// Without an address it starts mock_server.py and also checks what only a prepared answer can show.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const { chromium } = createRequire(join(process.cwd(), "x"))("playwright-core");
const here = dirname(fileURLToPath(import.meta.url));
const given = process.argv.slice(2).find(argument => argument.startsWith("http"));
const only = process.argv.includes("--only") ? process.argv[process.argv.indexOf("--only") + 1] : null;
const shots = process.argv.includes("--shots") ? process.argv[process.argv.indexOf("--shots") + 1] : null;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

let failed = 0, passed = 0;
function check(name, truth, detail = "") {
  if (truth) passed++; else failed++;
  if (!truth) console.log(`FAILED  ${name} ${detail}`);
}

async function startMock() {
  const child = spawn("python3", [join(here, "mock_server.py"), "--port", "8124"], { stdio: ["ignore", "pipe", "inherit"] });
  const address = await new Promise(done => child.stdout.once("data", data => done(String(data).trim())));
  return { child, address };
}

const mock = given ? null : await startMock();
const address = given ?? mock.address;
const origin = new URL(address).origin;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });

/** A model that knows nothing does not know when to end. */
function limitAnswers(most) {
  const settings = JSON.parse(localStorage.getItem("fathom") ?? "{}");
  localStorage.setItem("fathom", JSON.stringify({ ...settings, max_tokens: most }));
}

async function open({ most = "48", ...screen } = {}, url = address) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, locale: "en-US", ...screen });
  if (given) await context.addInitScript(limitAnswers, most);
  const page = await context.newPage();
  page.faults = [];
  page.on("console", message => {
    // A refused request is what some checks want; everything else is a fault.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) page.faults.push(message.text());
  });
  page.on("pageerror", error => page.faults.push(error.message));
  page.on("request", request => {
    if (!request.url().startsWith(origin) && !request.url().startsWith("data:")) page.faults.push(`outside: ${request.url()}`);
  });
  page.on("dialog", dialog => dialog.accept());
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector("#new span").textContent);
  return page;
}

async function close(page, name) {
  check(`${name}: no faults`, page.faults.length === 0, page.faults.join("; "));
  await page.context().close();
}

const ready = page => page.waitForFunction(() => document.querySelector("#model").options.length > 0);
const idle = page => page.waitForFunction(() => !document.querySelector("#send").classList.contains("stops"), null, { timeout: 120_000 });
const say = async (page, text) => {
  await page.fill("#input", text);
  await page.press("#input", "Enter");
};
const count = (page, selector) => page.locator(selector).count();
const shot = async (page, name) => { if (shots) await page.screenshot({ path: join(shots, `${name}.png`) }); };

async function key() {
  const page = await open();
  await ready(page);
  check("the key leaves the address", !page.url().includes("key"), page.url());
  await page.goto(origin);
  await ready(page);
  check("the key is remembered", await page.isHidden("#notice"));
  await close(page, "key");

  const stranger = await open({}, origin);
  await stranger.waitForSelector("#notice:not([hidden])");
  await stranger.click("#notice .plain");
  await stranger.fill("#key", new URLSearchParams(new URL(address).hash.slice(1)).get("key"));
  await stranger.click("#settings .primary");
  await ready(stranger);
  check("a key can be entered", await stranger.isHidden("#notice"));
  await close(stranger, "no key");
}

async function conversation() {
  const page = await open();
  await ready(page);
  await say(page, "slow: how deep is the sea?");
  check("stop is offered while it writes", (await page.getAttribute("#send", "aria-label")) === "Stop");
  await idle(page);
  check("usage is shown", /\d+ in.*\d+ out.*tokens\/s/.test(await page.textContent(".figures")));
  await shot(page, "answer");

  await page.click('[aria-label="Regenerate"]');
  await idle(page);
  check("another answer takes the place", (await count(page, ".assistant")) === 1);

  await page.fill("#input", "one");
  await page.press("#input", "Shift+Enter");
  await page.type("#input", "two");
  check("Shift+Enter is a line", (await page.inputValue("#input")) === "one\ntwo");
  await page.press("#input", "Enter");
  await idle(page);
  check("two questions, two answers", (await count(page, ".user")) === 2 && (await count(page, ".assistant")) === 2);

  await page.hover(".user");
  await page.locator('.user [aria-label="Edit"]').first().click();
  await page.fill(".editor", "How high is the sky?");
  await page.press(".editor", "Enter");
  await idle(page);
  check("an edit drops what came after", (await count(page, ".user")) === 1);
  check("an edit is sent", (await page.textContent(".bubble")) === "How high is the sky?");

  await page.reload();
  await ready(page);
  check("the list survives", (await count(page, "#list li")) === 1);
  await page.click("#list .open");
  check("the conversation survives", (await count(page, ".assistant .prose > *, .assistant .reasoning")) > 0);
  await page.click("#new");
  await page.click("#list .icon", { force: true });
  check("a conversation can be deleted", (await count(page, "#list li")) === 0);
  await page.reload();
  await ready(page);
  check("and stays deleted", (await count(page, "#list li")) === 0);
  await close(page, "conversation");
}

async function stopping() {
  const page = await open({ most: "2000" });
  await ready(page);
  await say(page, "slow: tell a long story");
  await page.waitForSelector(".assistant .prose > :not(.waiting)");
  await page.focus("#input");
  await page.keyboard.press("Escape");
  await idle(page);
  // A fast model may have ended first.
  if (!given || !(await count(page, ".figures"))) check("Escape stops", (await page.textContent(".why")) === "Stopped.");
  const text = await page.textContent(".assistant .prose");
  await page.waitForTimeout(300);
  check("nothing comes after", (await page.textContent(".assistant .prose")) === text);
  await close(page, "stopping");
}

async function looks() {
  const page = await open({ colorScheme: "dark" });
  await ready(page);
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  check("dark as the system", (await ground()) === "rgb(23, 24, 27)", await ground());
  await page.click("#theme");
  check("light by choice", (await ground()) === "rgb(255, 255, 255)", await ground());
  await page.click("#language");
  check("Chinese by choice", (await page.textContent("#new")).trim() === "新对话");
  await page.reload();
  await ready(page);
  check("choices are remembered", (await page.textContent("#new")).trim() === "新对话" && (await ground()) === "rgb(255, 255, 255)");
  await close(page, "looks");

  const phone = await open({ locale: "zh-CN", viewport: { width: 360, height: 700 }, hasTouch: true });
  await ready(phone);
  check("Chinese as the browser", (await phone.getAttribute("html", "lang")) === "zh-CN");
  await say(phone, "怎样测量水深？");
  await idle(phone);
  const wide = await phone.evaluate(() => document.documentElement.scrollWidth > innerWidth || document.querySelector("#scroll").scrollWidth > innerWidth);
  check("nothing is wider than a phone", !wide);
  await phone.click("#menu");
  await phone.waitForTimeout(300);
  check("the list opens", await phone.locator("#list .open").isVisible());
  await phone.keyboard.press("Escape");
  await phone.waitForTimeout(300);
  check("and closes", !(await phone.locator("#list .open").isVisible()));
  await shot(phone, "phone");
  const unnamed = await phone.evaluate(() => [...document.querySelectorAll("button, input, textarea, select")]
    .filter(node => !(node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.length)).map(node => node.outerHTML));
  check("every control has a name", unnamed.length === 0, unnamed.join());
  await close(phone, "phone");
}

/** Markdown in, HTML out: rows, hostile texts, and that none takes long. */
async function markdownRows() {
  const page = await open();
  const html = text => page.evaluate(async text => {
    const { markdown } = await import("./markdown.js");
    const box = document.createElement("div");
    const start = performance.now();
    box.append(markdown(text, "Copy"));
    return [box.innerHTML, performance.now() - start];
  }, text);
  const rows = [
    ["a *b* **c** `d` ~~e~~", "<p>a <em>b</em> <strong>c</strong> <code>d</code> <del>e</del></p>"],
    ["2*3*4 snake_case_name", "<p>2*3*4 snake_case_name</p>"],
    ["# h", "<h3>h</h3>"],
    ["- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"],
    ["3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'],
    ["> a\n> b", "<blockquote><p>a<br>b</p></blockquote>"],
    ["---", "<hr>"],
    ["<b>x</b> &amp;", "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>"],
    ["[x](javascript:alert(1)) [y](data:text/html,z)", "<p>x y</p>"],
    ["\\*a\\*", "<p>*a*</p>"],
    ["[x](https://e.org)", '<p><a href="https://e.org" target="_blank" rel="noopener noreferrer nofollow">x</a></p>'],
    ["|a|b|\n|-|-:|\n|1|2|", '<div class="table" tabindex="0"><table class=""><thead'],
  ];
  for (const [text, want] of rows) {
    const got = (await html(text))[0].replaceAll(' class=""', "");
    check(`markdown ${JSON.stringify(text)}`, got.startsWith(want.replaceAll(' class=""', "")), got);
  }
  const code = (await html("```js\nlet a = '<b>';\n\n# no\n"))[0];
  check("an open fence is code", code.includes("<code>let a = '&lt;b&gt;';\n\n# no\n</code>") && code.includes(">js<"), code);
  const long = ["`", "*", "**", "_", "[", "![](", "~~", "> ", "- ", "|", "  ", "```\n", "https://", "[a](", "\\", "**a ", "*a ", "`` "];
  for (const part of long) {
    const [, time] = await html(part.repeat(20_000));
    check(`20,000 times ${JSON.stringify(part)}`, time < 4000, `${time.toFixed(0)} ms`);
  }
  await close(page, "markdown");
}

async function prepared() {
  const page = await open();
  await ready(page);
  await page.click("#thinking");
  await say(page, "slow question");
  await page.waitForSelector(".reasoning[open]");
  check("reasoning shows while it lasts", (await page.textContent(".reasoning summary")) === "Thinking…");
  await page.waitForSelector(".prose > :not(.waiting)");
  await page.waitForFunction(() => !document.querySelector(".reasoning").open);
  check("and folds afterwards", /Thought for \d+ s/.test(await page.textContent(".reasoning summary")));
  await page.click("#send");
  await idle(page);
  await page.click("#new");
  await say(page, "question");
  await idle(page);
  check("no markup from text", (await count(page, ".prose img, .prose script, .prose a[href^=javascript]")) === 0);
  check("blocks", (await count(page, ".prose .code")) === 1 && (await count(page, ".prose table")) === 1 && (await count(page, ".prose ol ul")) === 1);
  await page.click(".copy-code");
  const copied = page.waitForFunction(() => document.querySelector(".copy-code").textContent === "Copied", null, { timeout: 5000 });
  check("code can be copied", await copied.then(() => true, () => false));
  await shot(page, "prepared");

  await page.click("#open-settings");
  await page.fill("#system", "Be brief.");
  await page.fill("#temperature", "0.5");
  await page.click("#settings .primary");
  await page.click("#new");
  const asked = page.waitForRequest(request => request.method() === "POST");
  await say(page, "echo");
  const body = JSON.parse((await asked).postData());
  check("settings are sent", body.temperature === 0.5 && body.messages[0].content === "Be brief." && !("top_p" in body), JSON.stringify(body));
  check("thinking is sent", body.thinking.type === "enabled" && body.stream_options.include_usage);
  await idle(page);

  await page.click("#new");
  await say(page, "fail please");
  await page.waitForSelector("#notice:not([hidden])");
  check("an error is told", (await page.textContent("#notice")).includes("too many requests wait"));
  check("and the question stays", (await count(page, ".user")) === 1 && (await count(page, ".assistant")) === 0);
  await page.click("#new");
  await say(page, "break off");
  await page.waitForSelector(".why");
  check("a broken answer says so", (await page.textContent(".why")).includes("early"));
  await close(page, "prepared");
}

try {
  for (const part of [key, conversation, stopping, looks, markdownRows, ...(mock ? [prepared] : [])].filter(part => !only || part.name === only)) {
    await part().catch(error => check(part.name, false, error.stack.split("\n").slice(0, 8).join("\n")));
  }
} finally {
  await browser.close();
  mock?.child.kill();
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
