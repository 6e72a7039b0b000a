// The page: a conversation, its settings, and the answer that is under way.

import { ask, AnswerError, blocked, firstModel } from "./answers.js";
import { Attached, receive } from "./images.js";
import { ShownAnswer, showUser } from "./messages.js";

const at = (id) => document.getElementById(id);
const log = at("log");
const prompt = at("prompt");
const attached = new Attached(at("attached"), () => prompt.focus());
let messages = [];
let running = null;
let model = null;

async function connect() {
  try {
    model = await firstModel(at("key").value);
    at("model").textContent = model.id;
  } catch (error) {
    at("model").textContent = error instanceof AnswerError ? error.message : "The server cannot be reached.";
    if (error.status === 401) askForKey();
  }
}

function askForKey() {
  at("settings").open = true;
  at("key").focus();
}

function content(text, images) {
  if (!images.length) return text;
  const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return text ? [...parts, { type: "text", text }] : parts;
}

function body() {
  const system = at("system").value.trim();
  const fields = { messages: system ? [{ role: "system", content: system }, ...messages] : messages };
  if (model) fields.model = model.id;
  if (at("temperature").value !== "") fields.temperature = Number(at("temperature").value);
  if (at("max-tokens").value !== "") fields.max_tokens = Number(at("max-tokens").value);
  return fields;
}

function setRunning(controller) {
  running = controller;
  at("send").hidden = controller !== null;
  at("stop").hidden = controller === null;
  if (controller === null) prompt.focus();
}

/** Scroll to the end, unless the reader has scrolled away from it. */
function follow({ always = false } = {}) {
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
  if (near || always) requestAnimationFrame(() => log.scrollTo({ top: log.scrollHeight }));
}

function timing(begun, first, usage, words) {
  const now = performance.now();
  const parts = words ? [words] : [];
  if (usage) {
    parts.push(`${usage.completion_tokens} tokens, ${usage.prompt_tokens} in the prompt`);
    const images = usage.prompt_tokens_details?.image_tokens;
    if (images) parts.push(`${images} of them for images`);
  }
  if (first !== null) parts.push(`${((first - begun) / 1000).toFixed(2)} s to the first`);
  if (usage && first !== null && usage.completion_tokens > 1) {
    parts.push(`${((usage.completion_tokens - 1) / Math.max((now - first) / 1000, 0.001)).toFixed(0)} tokens/s`);
  }
  return parts.join(" · ");
}

async function answer() {
  const controller = new AbortController();
  const asked = messages;
  setRunning(controller);
  const shown = new ShownAnswer(log, model?.id ?? "model");
  follow({ always: true });
  const begun = performance.now();
  let first = null;
  let usage = null;
  let words = "";
  let failed = null;
  try {
    for await (const chunk of ask(body(), at("key").value, controller.signal)) {
      usage = chunk.usage ?? usage;
      for (const choice of chunk.choices) {
        if (choice.delta.content) {
          first ??= performance.now();
          shown.add(choice.delta.content);
          follow();
        }
        if (choice.finish_reason === "length") words = "cut off at the most tokens";
        if (choice.finish_reason === "content_filter") failed = blocked();
      }
    }
  } catch (error) {
    if (error.name === "AbortError") words = "stopped";
    else failed = error instanceof AnswerError ? error : new AnswerError({ message: String(error) });
  }
  shown.end(timing(begun, first, usage, words));
  if (!failed && shown.text) asked.push({ role: "assistant", content: shown.text });
  if (running !== controller) return; // another conversation has begun
  setRunning(null);
  if (failed) {
    shown.fail(failed, answer);
    if (failed.status === 401) askForKey();
  }
  follow({ always: failed !== null });
}

function send() {
  const text = prompt.value.trim();
  if (running || (!text && !attached.urls.length)) return;
  const images = attached.take();
  at("welcome")?.remove();
  dropUnanswered();
  for (const button of log.querySelectorAll(".error button")) button.remove();
  messages.push({ role: "user", content: content(text, images) });
  showUser(log, text, images);
  prompt.value = "";
  grow();
  answer();
}

/** A question whose answer failed or was stopped at once is not sent again with the next one. */
function dropUnanswered() {
  if (messages.at(-1)?.role === "user") messages.pop();
}

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

function begin() {
  running?.abort();
  setRunning(null);
  messages = [];
  attached.take();
  log.replaceChildren();
  prompt.value = "";
  grow();
  prompt.focus();
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
prompt.addEventListener("input", grow);
addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
at("stop").addEventListener("click", () => running?.abort());
at("new-chat").addEventListener("click", begin);
at("attach").addEventListener("click", () => at("files").click());
at("files").addEventListener("change", (event) => {
  attached.add(event.target.files);
  event.target.value = "";
});
at("key").addEventListener("change", connect);
receive(attached, at("drop"));
connect();
