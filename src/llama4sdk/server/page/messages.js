// Messages as they are shown; text from the model is only ever text, never markup.

const FENCE = /^```[^\n]*\n([\s\S]*?)(?:^```[^\n]*$|$(?![\s\S]))/gm;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Fill an element with text; fenced code becomes blocks. */
export function fill(target, text) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(FENCE)) {
    parts.push(document.createTextNode(text.slice(from, match.index)));
    const block = element("pre");
    block.append(element("code", "", match[1]));
    parts.push(block);
    from = match.index + match[0].length;
  }
  parts.push(document.createTextNode(text.slice(from)));
  target.replaceChildren(...parts);
}

/** Show a message of the user. */
export function showUser(log, text, images) {
  const article = element("article", "user");
  article.append(element("h2", "hidden", "You"));
  images.forEach((url, number) => {
    const image = element("img");
    image.src = url;
    image.alt = `Image ${number + 1} of this message`;
    article.append(image);
  });
  const body = element("div", "text", text);
  article.append(body);
  log.append(article);
}

/** An answer that is being written. */
export class ShownAnswer {
  constructor(log, model) {
    this.article = element("article", "assistant busy");
    this.body = element("div", "text");
    this.article.append(element("h2", "", model), this.body);
    log.append(this.article);
    this.text = "";
    this.drawing = false;
  }

  add(text) {
    this.text += text;
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.drawing = false;
    fill(this.body, this.text);
  }

  end(words) {
    this.draw();
    this.article.classList.remove("busy");
    if (words) this.article.append(element("p", "meta", words));
  }

  fail(error, again) {
    const box = element("div", "error");
    box.setAttribute("role", "alert");
    box.append(element("strong", "", title(error)), element("p", "", error.message));
    const details = [error.type, error.code, error.status && `status ${error.status}`].filter(Boolean).join(" · ");
    box.append(element("code", "", details));
    const button = element("button", "", "Try again");
    button.type = "button";
    button.addEventListener("click", () => {
      this.article.remove();
      again();
    });
    const row = element("p");
    row.append(button);
    box.append(row);
    this.article.append(box);
  }
}

function title(error) {
  if (error.status === 401) return "The server asks for an API key";
  if (error.code === "guard_blocked") return "A guard blocked this turn";
  if (error.code === "guard_unavailable") return "A guard gave no verdict";
  if (error.status === 429 || error.status === 503) return "The server is busy";
  if (error.code === "context_length_exceeded") return "The conversation is too long";
  if (error.type === "network") return "The connection failed";
  if (error.type === "invalid_request_error") return "The request was refused";
  return "The answer failed";
}
