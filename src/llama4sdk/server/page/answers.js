// Asks the server, and yields the parts of its streamed answer.

/** An error of the server, of the network, or of the stream, as it is shown. */
export class AnswerError extends Error {
  constructor({ message, type = "error", code = null, status = null }) {
    super(message);
    this.type = type;
    this.code = code;
    this.status = status;
  }
}

/** Return the error of a turn that a guard blocked, which ends as an answer does. */
export function blocked() {
  return new AnswerError({
    message: "A guard blocked this question or its answer. The turn is not part of the conversation; ask for something else.",
    type: "content_filter",
    code: "guard_blocked",
  });
}

function headers(key) {
  const fields = { "content-type": "application/json" };
  if (key) fields.authorization = `Bearer ${key}`;
  return fields;
}

async function failure(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // no JSON: a proxy's page, perhaps
  }
  return new AnswerError({ message: `The server answered with status ${response.status}.`, ...error, status: response.status });
}

/** Return the model that the server lists first. */
export async function firstModel(key) {
  const response = await fetch("v1/models", { headers: headers(key) });
  if (!response.ok) throw await failure(response);
  return (await response.json()).data[0];
}

/** Yield the chunks of a chat answer; throws AnswerError, or AbortError when `signal` ends it. */
export async function* ask(body, key, signal) {
  let response;
  try {
    response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(key),
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new AnswerError({ message: "The server cannot be reached.", type: "network", code: "unreachable" });
  }
  if (!response.ok) throw await failure(response);
  let finished = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      finished = true;
      continue;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new AnswerError(chunk.error);
    yield chunk;
  }
  if (!finished) throw new AnswerError({ message: "The answer broke off.", type: "network", code: "interrupted" });
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return;
    }
    if (part.done) return;
    rest += part.value;
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}
