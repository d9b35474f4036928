// The drawing: a canvas for the pointer, and for the keyboard a pen that moves in steps.

const STEP = 8;
const WIDTH = 22;

export class Drawing {
  constructor(canvas, pen) {
    this.canvas = canvas;
    this.pen = pen;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.at = { x: canvas.width / 2, y: canvas.height / 2 };
    this.isDown = false;
    this.isEmpty = true;
    this.darkInk = false;
    this.clear();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.at = this.place(event);
      this.isDrawing = true;
      this.line(this.at);
    });
    canvas.addEventListener("pointermove", (event) => this.isDrawing && this.line(this.place(event)));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { this.isDrawing = false; });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.mark());
    canvas.addEventListener("blur", () => this.paint());
  }

  setDarkInk(darkInk) {
    this.darkInk = darkInk;
    this.canvas.classList.toggle("dark-ink", darkInk);
    this.paint();
  }

  // Strokes are kept as lines, and painted anew: the mark of the pen is never part of the picture.
  clear() {
    this.lines = [];
    this.isEmpty = true;
    this.paint();
  }

  line(to) {
    this.lines.push([{ ...this.at }, { ...to }]);
    this.at = to;
    this.isEmpty = false;
    this.paint();
  }

  key(event) {
    const steps = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (steps) {
      const to = { x: clamp(this.at.x + steps[0], this.canvas.width), y: clamp(this.at.y + steps[1], this.canvas.height) };
      if (this.isDown) this.line(to);
      this.at = to;
    } else if (event.key === " ") {
      this.isDown = !this.isDown;
      if (this.isDown) this.line(this.at);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
    this.pen.textContent = this.isDown ? "Pen down" : "Pen up";
    this.mark();
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: ((event.clientX - box.left) * this.canvas.width) / box.width, y: ((event.clientY - box.top) * this.canvas.height) / box.height };
  }

  paint(context = this.context) {
    context.fillStyle = this.darkInk ? "#fff" : "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.strokeStyle = this.darkInk ? "#000" : "#fff";
    context.lineWidth = WIDTH;
    context.lineCap = "round";
    for (const [from, to] of this.lines) {
      context.beginPath();
      context.moveTo(from.x, from.y);
      context.lineTo(to.x + 0.01, to.y);
      context.stroke();
    }
  }

  mark() {
    this.paint();
    this.context.strokeStyle = this.isDown ? "#e0442e" : "#3b82f6";
    this.context.lineWidth = 2;
    this.context.beginPath();
    this.context.arc(this.at.x, this.at.y, WIDTH / 2, 0, 2 * Math.PI);
    this.context.stroke();
  }

  // The picture alone, as another canvas.
  picture() {
    const copy = document.createElement("canvas");
    copy.width = this.canvas.width;
    copy.height = this.canvas.height;
    this.paint(copy.getContext("2d"));
    return copy;
  }
}

const clamp = (value, most) => Math.min(Math.max(value, 0), most);
