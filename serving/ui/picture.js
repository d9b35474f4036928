// The picture that a person drops, pastes or chooses.

import { byId } from "./element.js";

export class Picture {
  // `taken` is called when there is a new one: wherever on the page it was dropped or pasted.
  constructor(taken) {
    this.file = null;
    this.taken = taken;
    byId("file").addEventListener("change", (event) => this.take(event.target.files[0]));
    const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
    const over = (event) => { if (holdsFiles(event)) { event.preventDefault(); byId("drop").classList.add("over"); } };
    const left = (event) => { if (event.relatedTarget === null) byId("drop").classList.remove("over"); };
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", left);
    document.addEventListener("drop", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault(); // else the browser would leave the page to show the file
      byId("drop").classList.remove("over");
      this.take(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => {
      this.take([...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/")));
    });
  }

  take(file) {
    if (!file) return;
    this.file = file;
    const preview = byId("preview");
    if (preview.src) URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(file);
    preview.alt = file.name;
    preview.onerror = () => { preview.hidden = true; };
    preview.hidden = false;
    byId("drop-text").textContent = `${file.name}, ${sizeOf(file.size)}`;
    this.taken();
  }
}

const sizeOf = (bytes) => (bytes < 10000 ? `${bytes} bytes` : bytes < 1024 * 1024 ? `${(bytes / 1024).toFixed(0)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`);
