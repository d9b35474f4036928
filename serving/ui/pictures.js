// Pictures as files, and, for models that declare no preprocess, as tensors that the browser scales.

export const blobOf = (canvas) => new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });

export async function tensorOf(source, spec) {
  const canvas = document.createElement("canvas");
  canvas.width = spec.width;
  canvas.height = spec.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, spec.width, spec.height);
  const { data } = context.getImageData(0, 0, spec.width, spec.height);
  const level = (row, column, channel) => data[4 * (row * spec.width + column) + channel] / 255;
  const grey = (row, column) => 0.299 * level(row, column, 0) + 0.587 * level(row, column, 1) + 0.114 * level(row, column, 2);
  const value = (row, column, channel) => {
    const part = spec.channels === 1 ? grey(row, column) : level(row, column, channel);
    const scaled = spec.low + (spec.high - spec.low) * part;
    return spec.whole ? Math.round(scaled) : Number(scaled.toPrecision(6));
  };
  const range = (count) => Array.from({ length: count }, (_, index) => index);
  const rows = (channel) => range(spec.height).map((row) => range(spec.width).map((column) => value(row, column, channel)));
  if (spec.shape === "CHW") return range(spec.channels).map(rows);
  if (spec.shape === "HWC") return range(spec.height).map((row) => range(spec.width).map((column) => range(spec.channels).map((channel) => value(row, column, channel))));
  return spec.shape === "HW" ? rows(0) : rows(0).flat();
}
