// The drawing: a canvas for the pointer, and for the keyboard a pen that moves in steps.

const STEP = 8;
const WIDTH = 22;

export class Drawing {
  constructor(canvas, pen) {
    this.canvas = canvas;
    this.pen = pen;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.at = { x: canvas.width / 2, y: canvas.height / 2 };
    this.darkInk = false;
    this.clear();
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.put(false);
      canvas.setPointerCapture(event.pointerId);
      this.at = this.place(event);
      this.isDrawing = true;
      this.begin();
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

  // Strokes are kept, each a list of points, and painted anew: the mark of the pen is never part of the picture.
  clear() {
    this.strokes = [];
    this.put(false);
    this.paint();
  }

  // Puts the keyboard's pen down, or takes it up, and tells.
  put(isDown) {
    this.isDown = isDown;
    const text = isDown ? "Pen down" : "Pen up";
    if (this.pen.textContent !== text) this.pen.textContent = text;
  }

  get isEmpty() {
    return this.strokes.length === 0;
  }

  begin() {
    this.strokes.push([this.at]);
    this.paint();
  }

  line(to) {
    this.strokes.at(-1).push(to);
    this.at = to;
    this.paint();
  }

  key(event) {
    const steps = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (steps) {
      const to = { x: clamp(this.at.x + steps[0], this.canvas.width), y: clamp(this.at.y + steps[1], this.canvas.height) };
      if (this.isDown) this.line(to);
      else this.at = to;
    } else if (event.key === " ") {
      this.put(!this.isDown);
      if (this.isDown) this.begin();
    } else if (event.key === "Delete") {
      this.clear();
    } else if (event.key === "Backspace") {
      this.strokes.pop();
      this.put(false);
    } else {
      return;
    }
    event.preventDefault();
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
    context.lineJoin = "round";
    for (const [first, ...others] of this.strokes) {
      context.beginPath();
      context.moveTo(first.x, first.y);
      context.lineTo(first.x + 0.01, first.y); // a stroke of one point is a dot
      for (const point of others) context.lineTo(point.x, point.y);
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
