// A headless Chromium that does what lines of JSON on standard input say, one answer a line. It needs nothing but Node: it
// speaks the DevTools protocol over a pipe. axe-core is read from the working folder's node_modules.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { crc32, deflateSync, inflateSync } from "node:zlib";

const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const chromium = spawn(
  process.env.CHROMIUM ?? "chromium",
  ["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-lcd-text",
    "--no-first-run", "--no-proxy-server", "--disable-background-networking", "--disable-component-update",
    "--password-store=basic", `--user-data-dir=${profile}`, "about:blank"],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] },
);
process.on("exit", () => { chromium.kill("SIGKILL"); rmSync(profile, { recursive: true, force: true, maxRetries: 5 }); });
chromium.on("error", (error) => { console.error(`chromium cannot be run (${error.message}): run \`make tools\``); process.exit(1); });

let next = 0;
const waiting = new Map();
let loads = 0;
let heard = "";
chromium.stdio[4].on("data", (data) => {
  heard += data;
  const all = heard.split("\0");
  heard = all.pop();
  for (const message of all.map((text) => JSON.parse(text))) {
    if (message.method === "Page.loadEventFired" && message.sessionId === page) loads += 1;
    const waits = waiting.get(message.id);
    if (!waits) continue;
    waiting.delete(message.id);
    if (message.error) waits.reject(new Error(message.error.message)); else waits.resolve(message.result);
  }
});
const send = (method, params = {}, sessionId = undefined) => new Promise((resolve, reject) => {
  next += 1;
  waiting.set(next, { resolve, reject });
  chromium.stdio[3].write(JSON.stringify({ id: next, method, params, sessionId }) + "\0");
});
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

let page;
// What does not fit makes a phone's `innerWidth` larger, so that says nothing.
let screen_width;
const evaluate = async (expression) => {
  const { result, exceptionDetails } =
    await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true }, page);
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
};
const loaded = async (before) => {
  for (let times = 0; times < 1500 && loads === before; times += 1) await pause(20);
  if (loads === before) throw new Error("no page came");
};
// Looks at the page. One that waits loads itself anew: a look that this cuts off is taken again.
const look = async (at) => {
  for (let times = 0; ; times += 1) {
    const before = loads;
    const is_there = () => evaluate("document.readyState === \"complete\" && document.body !== null").catch(() => false);
    for (let waits = 0; waits < 1500 && !(await is_there()); waits += 1) await pause(20);
    try {
      return await at();
    } catch (error) {
      const is_cut_off = loads !== before || !(await is_there());
      if (times === 5 || !is_cut_off) throw error;
    }
  }
};

const KEYS = { Tab: [9], Enter: [13, "\r"], Space: [32, " "], Escape: [27], ArrowDown: [40], ArrowUp: [38] };
const press = async (name) => {
  const [code, text] = KEYS[name];
  const common = { key: name === "Space" ? " " : name, code: name, windowsVirtualKeyCode: code };
  await send("Input.dispatchKeyEvent", { type: text ? "keyDown" : "rawKeyDown", text, ...common }, page);
  await send("Input.dispatchKeyEvent", { type: "keyUp", ...common }, page);
};
// What has the focus, unless it is seen to have it: on the screen, with an outline.
const unseen_focus = `(() => {
  const one = document.activeElement;
  if (!one || one === document.body) return "";
  const { outlineStyle, outlineWidth } = getComputedStyle(one);
  const { left, right, top, bottom } = one.getBoundingClientRect();
  const is_there = right > Math.max(left, 0) && bottom > Math.max(top, 0) && left < innerWidth && top < innerHeight;
  return is_there && outlineStyle !== "none" && parseFloat(outlineWidth) > 0 ? "" : one.outerHTML;
})()`;

// Writes a PNG of Chromium's (8 bits a channel, not interlaced) with a palette of its 256 commonest colours; another
// colour becomes the nearest of these. It needs no program, and makes a page a third as large.
const small = (png) => {
  const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)];
  const channels = png[25] === 6 ? 4 : 3;
  const parts = [];
  for (let at = 8; at < png.length;) {
    const length = png.readUInt32BE(at);
    if (png.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(png.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const packed = inflateSync(Buffer.concat(parts));
  const row = width * channels;
  const pixels = Buffer.alloc(row * height);
  for (let y = 0; y < height; y += 1) {
    const filter = packed[y * (row + 1)];
    for (let x = 0; x < row; x += 1) {
      const [left, up, corner] = [[x - channels, y], [x, y - 1], [x - channels, y - 1]]
        .map(([a, b]) => (a < 0 || b < 0 ? 0 : pixels[b * row + a]));
      const paeth = [left, up, corner].sort((a, b) => Math.abs(left + up - corner - a) - Math.abs(left + up - corner - b));
      const guess = [0, left, up, (left + up) >> 1, paeth[0]][filter];
      pixels[y * row + x] = packed[y * (row + 1) + 1 + x] + guess;
    }
  }
  const count = new Map();
  const colour = (at) => (pixels[at] << 16) | (pixels[at + 1] << 8) | pixels[at + 2];
  for (let at = 0; at < pixels.length; at += channels) count.set(colour(at), (count.get(colour(at)) ?? 0) + 1);
  const palette = [...count].sort((a, b) => b[1] - a[1]).slice(0, 256).map(([one]) => one);
  const far = (a, b) => [16, 8, 0].reduce((sum, bits) => sum + (((a >> bits) & 255) - ((b >> bits) & 255)) ** 2, 0);
  const nearest = new Map(palette.map((one, index) => [one, index]));
  const lines = Buffer.alloc((width + 1) * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const one = colour(y * row + x * channels);
      if (!nearest.has(one)) {
        const best = palette.reduce((best, other, index) => (far(one, other) < far(one, palette[best]) ? index : best), 0);
        nearest.set(one, best);
      }
      lines[y * (width + 1) + 1 + x] = nearest.get(one);
    }
  }
  const chunk = (name, data) => {
    const body = Buffer.concat([Buffer.from(name, "latin1"), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
  };
  const head = Buffer.from(png.subarray(16, 29));
  head.set([8, 3], 8);
  const colours = Buffer.from(palette.flatMap((one) => [one >> 16, (one >> 8) & 255, one & 255]));
  return Buffer.concat([png.subarray(0, 8), chunk("IHDR", head), chunk("PLTE", colours),
    chunk("IDAT", deflateSync(lines, { level: 9 })), chunk("IEND", Buffer.alloc(0))]);
};

const commands = {
  // A browser without cookies: `language` as Accept-Language has it, `dark`, `width`, `height`, `script`.
  async open({ language = "en", dark = false, width = 1280, height = 800, script = true }) {
    const { browserContextId } = await send("Target.createBrowserContext");
    const { targetId } = await send("Target.createTarget", { url: "about:blank", browserContextId, width, height });
    page = (await send("Target.attachToTarget", { targetId, flatten: true })).sessionId;
    await send("Page.enable", {}, page);
    const { userAgent } = await send("Browser.getVersion");
    await send("Emulation.setUserAgentOverride", { userAgent, acceptLanguage: language }, page);
    const mobile = width < 500;
    screen_width = width;
    await send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile }, page);
    const features = [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }];
    await send("Emulation.setEmulatedMedia", { features }, page);
    await send("Emulation.setScriptExecutionDisabled", { value: !script }, page);
    const permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"];
    await send("Browser.grantPermissions", { permissions, browserContextId });
  },
  async go(url) {
    const before = loads;
    const { errorText } = await send("Page.navigate", { url }, page);
    if (errorText) throw new Error(`${url}: ${errorText}`);
    await loaded(before);
  },
  async reload() {
    const before = loads;
    await send("Page.reload", {}, page);
    await loaded(before);
  },
  // Clicks the middle of what a selector finds; `stays` if no page comes.
  async click({ selector, stays = false }) {
    const place = `(() => { const found = document.querySelector(${JSON.stringify(selector)});
      found.scrollIntoView({ block: "center" }); const { x, y, width, height } = found.getBoundingClientRect();
      return { x: x + width / 2, y: y + height / 2 } })()`;
    const { x, y } = await evaluate(place);
    const before = loads;
    for (const type of ["mousePressed", "mouseReleased"]) {
      await send("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 }, page);
    }
    if (!stays) await loaded(before);
  },
  // Presses Tab until a selector's element has the focus, and then a key, Enter if none is named. Whatever has the focus on
  // the way must be seen to have it. `within` is how often Tab is pressed at most; `stays` if no page comes.
  async keys(asked) {
    const { selector, then = "Enter", within = 60, stays = false } = typeof asked === "string" ? { selector: asked } : asked;
    for (let times = 0; times < within; times += 1) {
      await press("Tab");
      const unseen = await evaluate(unseen_focus);
      if (unseen) throw new Error(`it is not seen to have the focus: ${unseen}`);
      if (await evaluate(`document.activeElement.matches(${JSON.stringify(selector)})`)) {
        const before = loads;
        if (then) await press(then);
        return then && !stays ? loaded(before) : undefined;
      }
    }
    throw new Error(`${selector} is not reached by Tab`);
  },
  // Presses one key where the focus is.
  async press({ key, stays = false }) {
    const before = loads;
    await press(key);
    if (!stays) await loaded(before);
  },
  // Writes where the focus is.
  async write(text) {
    await send("Input.insertText", { text }, page);
  },
  // Waits until the page says these words, however often it is loaded meanwhile.
  async until(words) {
    for (let times = 0; times < 600; times += 1) {
      const said = await evaluate("document.body.innerText").catch(() => "");
      if (said.includes(words)) return;
      await pause(50);
    }
    throw new Error(`the page does not say ${words}: ${await evaluate("document.body.innerText")}`);
  },
  async read() {
    return look(() => evaluate(`({ url: location.href, title: document.title, text: document.body.innerText,
      words: (() => { const copy = document.body.cloneNode(true); copy.querySelectorAll("code, script")
        .forEach((one) => one.remove()); return copy.textContent })(),
      language: document.documentElement.lang, direction: getComputedStyle(document.body).direction,
      wide: document.documentElement.scrollWidth > ${screen_width},
      small: [...document.querySelectorAll("button, a")].filter((one) => !one.hidden)
        .filter((one) => one.getBoundingClientRect().height < 44).map((one) => one.textContent) })`));
  },
  // What axe-core finds that is serious or critical.
  async axe() {
    return look(async () => {
      await evaluate(readFileSync("node_modules/axe-core/axe.min.js", "utf8") + ";0");
      return evaluate("axe.run().then(({ violations }) => violations.map(({ id, impact, nodes }) => "
        + "({ id, impact, nodes: nodes.map(({ html, failureSummary }) => html + failureSummary) })))");
    });
  },
  async clipboard() {
    return evaluate("navigator.clipboard.readText()");
  },
  async evaluate(expression) {
    return evaluate(expression);
  },
  async picture(path) {
    const { data } = await send("Page.captureScreenshot", { format: "png", optimizeForSpeed: false }, page);
    writeFileSync(path, small(Buffer.from(data, "base64")));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, argument] = Object.entries(JSON.parse(line))[0];
  let answer;
  try {
    answer = { ok: (await commands[name](argument)) ?? null };
  } catch (error) {
    answer = { error: `${name}: ${error.message}` };
  }
  console.log(JSON.stringify(answer));
}
process.exit(0);
