"use strict";
const REPLAY = /* replay */ null;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const state = { info: null, steps: [], tokens: [], depths: [], chosen: -1, token: -1, following: true, stop: null };

// Small makers. Text of a model or of a user is only ever text, never markup.
function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}
function drawn(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}
const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "·");
const short = (text) => { const v = visible(text) || "∅"; return v.length > 14 ? v.slice(0, 13) + "…" : v; };
const percent = (x) => (100 * x).toFixed(x < 0.1 ? 1 : 0) + " %";

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

// One step more: its tokens join the answer, its tree the row of trees.
function takeStep(step) {
  const number = state.steps.push(step) - 1;
  step.tokens.forEach((token) => {
    const span = element("span", { class: "token " + (token.drafted ? "drafted" : "own") }, token.text);
    span.title = describe(token, number);
    const index = state.tokens.push({ token, step: number, span }) - 1;
    span.addEventListener("click", () => choose(index));
    $("answer").append(span);
  });
  // Along the accepted path every depth was tried; one more where a draft went on and was refused there.
  const deepest = Math.max(-1, ...depthsOf(step.nodes));
  for (let depth = 0; depth <= Math.min(step.path.length, deepest); depth += 1) {
    state.depths[depth] ??= { tried: 0, accepted: 0 };
    if (depth < step.path.length) state.depths[depth].accepted += 1;
    state.depths[depth].tried += 1;
  }
  $("step").max = state.steps.length - 1;
  $("step").disabled = false;
}
function depthsOf(nodes) {
  const depths = [];
  nodes.forEach((node, i) => { depths[i] = node.parent < 0 ? 0 : depths[node.parent] + 1; });
  return depths;
}
function describe(token, step) {
  const parts = [token.drafted ? `drafted at depth ${token.depth} and accepted` : "the model's own"];
  if (token.drafter_probability != null) parts.push(`drafter ${percent(token.drafter_probability)}`);
  if (token.probability != null) parts.push(`model ${percent(token.probability)}`);
  return `${visible(token.text)} — ${parts.join(", ")}; step ${step + 1}`;
}
function choose(index) {
  if (index < 0 || index >= state.tokens.length) return;
  state.tokens[state.token]?.span.classList.remove("chosen");
  state.token = index;
  const { token, step, span } = state.tokens[index];
  span.classList.add("chosen");
  $("detail").textContent = describe(token, step);
  state.following = false;
  showStep(step);
}
function showStep(number) {
  state.chosen = number;
  $("step").value = number;
  $("step-shown").textContent = state.steps.length ? `${number + 1} of ${state.steps.length}` : "–";
  drawTree(state.steps[number]);
}

// The tree lies on its side: each depth a column, each leaf a row.
function drawTree(step) {
  const place = $("tree");
  place.replaceChildren();
  if (!step) return;
  if (!step.nodes.length) {
    place.append(element("p", { class: "quiet" }, "A plain step: nothing was drafted, the model gave " +
      step.tokens.map((token) => `“${visible(token.text)}”`).join(" ")));
    return;
  }
  const { nodes, path } = step, depths = depthsOf(nodes), children = nodes.map(() => []), roots = [];
  nodes.forEach((node, i) => (node.parent < 0 ? roots : children[node.parent]).push(i));
  const rows = [], width = 132, height = 26;
  let leaves = 0;
  const lay = (i) => {
    if (!children[i].length) return (rows[i] = leaves++);
    const below = children[i].map(lay);
    return (rows[i] = (below[0] + below[below.length - 1]) / 2);
  };
  const top = roots.map(lay);
  const rootRow = (top[0] + top[top.length - 1]) / 2;
  const accepted = new Set(path), free = step.tokens[path.length];
  const last = path.length ? path[path.length - 1] : -1;
  const columns = Math.max(...depths) + 2;
  const freeRow = free ? leaves++ : 0;
  const svg = drawn("svg", { width: Math.max(columns, path.length + 2) * width + 8, height: leaves * height + 8, role: "img",
    "aria-label": `${nodes.length} draft tokens, ${path.length} accepted` });
  const x = (column) => 4 + column * width, y = (row) => 4 + row * height;
  const edge = (from, to, lit) => {
    const [a, b, c, d] = [x(from[0]) + width - 20, y(from[1]) + 11, x(to[0]), y(to[1]) + 11];
    svg.append(drawn("path", { class: lit ? "edge lit" : "edge", d: `M${a} ${b} C${a + 12} ${b} ${c - 12} ${d} ${c} ${d}` }));
  };
  const box = (column, row, kind, text, title) => {
    const group = drawn("g", { class: "node " + kind });
    group.append(drawn("title", {}, title), drawn("rect", { x: x(column), y: y(row), width: width - 20, height: 22, rx: 5 }),
      drawn("text", { x: x(column) + 6, y: y(row) + 15 }, text));
    svg.append(group);
  };
  nodes.forEach((node, i) => edge(node.parent < 0 ? [0, rootRow] : [depths[node.parent] + 1, rows[node.parent]],
    [depths[i] + 1, rows[i]], accepted.has(i)));
  if (free) edge(last < 0 ? [0, rootRow] : [depths[last] + 1, rows[last]], [path.length + 1, freeRow], true);
  box(0, rootRow, "root", "last token", "the last token before this step");
  nodes.forEach((node, i) => box(depths[i] + 1, rows[i], accepted.has(i) ? "lit" : "faded", short(node.text),
    `${visible(node.text)} — path probability ${percent(node.probability)}, ${accepted.has(i) ? "accepted" : "rejected"}`));
  if (free) box(path.length + 1, freeRow, "free", short(free.text), `${visible(free.text)} — the model's own next token`);
  place.append(svg);
}

function drawDepths() {
  const svg = drawn("svg", { viewBox: "0 0 360 170", role: "img", "aria-label": "Per cent of drafts accepted at each depth" });
  const shown = state.depths.slice(0, 12), step = 340 / Math.max(shown.length, 6);
  svg.append(drawn("line", { class: "axis", x1: 10, x2: 350, y1: 140, y2: 140 }));
  shown.forEach(({ tried, accepted }, depth) => {
    const share = accepted / tried, left = 10 + depth * step, group = drawn("g");
    group.append(drawn("title", {}, `depth ${depth + 1}: ${accepted} of ${tried} accepted`),
      drawn("rect", { class: "bar all", x: left + 3, y: 20, width: step - 6, height: 120 }),
      drawn("rect", { class: "bar", x: left + 3, y: 140 - 120 * share, width: step - 6, height: 120 * share }),
      drawn("text", { x: left + step / 2, y: 156, "text-anchor": "middle" }, String(depth + 1)),
      drawn("text", { class: "quiet", x: left + step / 2, y: 15, "text-anchor": "middle" }, String(Math.round(100 * share))));
    svg.append(group);
  });
  $("depth").replaceChildren(shown.length ? svg : element("p", { class: "quiet" }, "No drafts yet."));
}
function drawCost(cost) {
  const { tokens, seconds } = cost, svg = drawn("svg", { viewBox: "0 0 360 170", role: "img",
    "aria-label": "Milliseconds of a step by its number of tokens" });
  const most = tokens.at(-1), high = Math.max(...seconds), x = (n) => 34 + 316 * n / most, y = (s) => 145 - 125 * s / high;
  svg.append(drawn("line", { class: "axis", x1: 34, x2: 350, y1: 145, y2: 145 }),
    drawn("line", { class: "axis", x1: 34, x2: 34, y1: 20, y2: 145 }),
    drawn("polyline", { class: "curve", points: tokens.map((n, i) => `${x(n)},${y(seconds[i])}`).join(" ") }),
    drawn("text", { class: "quiet", x: 350, y: 162, "text-anchor": "end" }, `${most} tokens`),
    drawn("text", { class: "quiet", x: 34, y: 162 }, "1"),
    drawn("text", { class: "quiet", x: 2, y: 14 }, `${(1000 * high).toFixed(0)} ms`),
    drawn("text", { class: "quiet", x: 40, y: y(seconds[0]) + 18 }, `1 token: ${(1000 * seconds[0]).toFixed(1)} ms`));
  $("cost").replaceChildren(svg);
}
function showFigures(figures, plainRate) {
  const rate = figures.tokens / figures.seconds;
  $("per-step").textContent = figures.steps ? (figures.tokens / figures.steps).toFixed(2) : "–";
  $("rate").textContent = rate.toFixed(1);
  $("accepted").textContent = figures.drafted ? `${figures.accepted} of ${figures.drafted}` : "none drafted";
  $("exact").textContent = figures.exact ?? "–";
  $("plain-rate").textContent = plainRate ? plainRate.toFixed(1) : "–";
  $("speedup").textContent = plainRate ? (rate / plainRate).toFixed(2) + "x" : "–";
}
function clear() {
  Object.assign(state, { steps: [], tokens: [], depths: [], chosen: -1, token: -1, following: true });
  for (const id of ["answer", "tree"]) $(id).replaceChildren();
  for (const id of ["per-step", "rate", "plain-rate", "speedup", "accepted", "exact"]) $(id).textContent = "–";
  $("detail").textContent = "";
  $("step").disabled = true;
  drawDepths();
}

// Asking.
function headers() {
  return { "Content-Type": "application/json", ...($("key").value ? { Authorization: `Bearer ${$("key").value}` } : {}) };
}
async function failed(response) {
  let said = `${response.status} ${response.statusText}`;
  try { said = (await response.json()).error.message; } catch { /* it is no JSON */ }
  if (response.status === 401) $("key-label").hidden = false;
  throw new Error(said);
}
async function ask(ours, onStep, signal) {
  const body = { messages: [{ role: "user", content: $("prompt").value }], stream: true,
    temperature: Number($("temperature").value), seed: 0, max_completion_tokens: Number($("tokens").value), aded: ours };
  const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) await failed(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "", figures = null, text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { figures, text };
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const line of events) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const part = JSON.parse(line.slice(6));
      if (part.error) throw new Error(part.error.message);
      text += part.choices[0]?.delta?.content ?? "";
      if (part.aded?.step) onStep(part.aded.step);
      else if (part.aded) figures = part.aded;
    }
  }
}
async function run() {
  if (state.stop) return;
  const stop = state.stop = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  clear();
  const began = performance.now();
  let tokens = 0, frame = 0;
  const draw = () => {
    frame = 0;
    drawDepths();
    if (state.following) showStep(state.steps.length - 1);
    $("rate").textContent = (tokens / ((performance.now() - began) / 1000)).toFixed(1);
    $("per-step").textContent = (tokens / state.steps.length).toFixed(2);
  };
  try {
    const most = Number($("most").value);
    const ours = { drafter: $("drafter").value, trace: true, ...(most < 0 ? {} : { max_draft_tokens: most }) };
    say("Answering …");
    const answer = await ask(ours, (step) => {
      takeStep(step);
      tokens += step.tokens.length;
      frame ||= requestAnimationFrame(draw);
    }, stop.signal);
    cancelAnimationFrame(frame);
    draw();
    showFigures(answer.figures, null);
    if ($("compare").checked && ours.drafter !== "plain") {
      say("The same without ADED …");
      const plain = await ask({ drafter: "plain" }, () => {}, stop.signal);
      showFigures(answer.figures, plain.figures.tokens / plain.figures.seconds);
      say(plain.text === answer.text ? "Done: the same text with and without ADED." : "Done: the texts differ.",
        plain.text !== answer.text);
    } else say("Done.");
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : error.message, error.name !== "AbortError");
  } finally {
    state.stop = null;
    $("send").disabled = false;
    $("stop").disabled = true;
  }
}

function showInfo(info) {
  state.info = info;
  $("about").textContent = `${info.model} · ${info.facts.dtype} on ${info.facts.device}` +
    (info.facts.threads ? `, ${info.facts.threads} threads` : "") + ` · version ${info.version}`;
  if (info.step_cost) drawCost(info.step_cost);
  $("drafter").replaceChildren(...info.drafters.map((name) => element("option", { value: name }, name)));
  $("drafter").value = info.drafter;
}
async function connect() {
  try {
    const response = await fetch("/aded/info", { headers: headers() });
    if (!response.ok) await failed(response);
    showInfo(await response.json());
    say("");
  } catch (error) { say(error.message, true); }
}
function replay() {
  $("asking").hidden = true;
  showInfo(REPLAY.info);
  say(REPLAY.prompt);
  REPLAY.steps.forEach(takeStep);
  drawDepths();
  showStep(state.steps.length - 1);
  showFigures(REPLAY.figures, REPLAY.plain_tokens_per_second);
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); run(); });
$("stop").addEventListener("click", () => state.stop?.abort());
$("key").addEventListener("change", connect);
$("most").addEventListener("input", () => { $("most-shown").textContent = $("most").value < 0 ? "auto" : $("most").value; });
$("step").addEventListener("input", () => { state.following = false; showStep(Number($("step").value)); });
$("answer").addEventListener("keydown", (event) => {
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!move) return;
  event.preventDefault();
  choose(state.token + move);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !REPLAY) { event.preventDefault(); run(); }
  if (event.key === "Escape") state.stop?.abort();
});
$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
clear();
if (REPLAY) replay(); else connect();
