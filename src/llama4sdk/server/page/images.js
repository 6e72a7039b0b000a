// Images that wait to be sent: picked, dropped or pasted, made small enough, and shown with a button to remove each.

const LONGEST_SIDE = 1344; // pixels: four tiles of the model

/** The images of the message that is being written. */
export class Attached {
  constructor(list, changed) {
    this.list = list;
    this.changed = changed;
    this.urls = [];
  }

  async add(files) {
    for (const file of files) {
      const name = file.name || "pasted image";
      try {
        if (!file.type.startsWith("image/")) throw new TypeError("no image");
        const url = await smallEnough(file);
        this.urls.push(url);
        this.show(url, name);
      } catch {
        this.refuse(name);
      }
    }
    this.changed();
  }

  refuse(name) {
    const item = document.createElement("li");
    item.setAttribute("role", "alert");
    item.textContent = `${name} cannot be read as an image.`;
    this.list.append(item);
    setTimeout(() => item.remove(), 8000);
  }

  show(url, name) {
    const item = document.createElement("li");
    const image = document.createElement("img");
    image.src = url;
    image.alt = name;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Remove ${name}`);
    remove.addEventListener("click", () => {
      this.urls.splice(this.urls.indexOf(url), 1);
      item.remove();
      this.changed();
    });
    item.append(image, remove);
    this.list.append(item);
  }

  /** Return the images as data: URLs, and forget them. */
  take() {
    const urls = this.urls;
    this.urls = [];
    this.list.replaceChildren();
    return urls;
  }
}

async function smallEnough(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return file.type === "image/jpeg" ? canvas.toDataURL("image/jpeg", 0.92) : canvas.toDataURL("image/png");
}

/** Take images that are dropped on the page or pasted into it. */
export function receive(attached, cover) {
  let depth = 0;
  const holdsFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const show = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    cover.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => holdsFiles(event) && show(1));
  addEventListener("dragleave", (event) => holdsFiles(event) && show(-1));
  addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    show(0);
    attached.add(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    attached.add(files);
  });
}
