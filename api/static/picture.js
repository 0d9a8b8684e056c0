// Pictures from files as base64 for the wire, made smaller in the browser if they are too large.

/** Limits of a picture to search by: the model sees a small square, so more pixels do not help. */
export const FOR_QUERY = { bytes: 256 * 1024, side: 640 };
/** Limits of a published picture: a phone's photos are larger than an item may be. */
export const FOR_PUBLISHING = { bytes: 1400 * 1024, side: 1600 };

/** Return `file` as base64, encoded again with at most `side` pixels a side if above `bytes`. */
export async function base64Of(file, { bytes, side }) {
  return encode(file.size > bytes ? await smaller(file, side) : file);
}

/** Return the pictures among the files that were dropped, pasted or chosen. */
export function picturesOf(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

async function smaller(file, side) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return file; // the server says what it cannot decode
  }
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  // JPEG has no transparency; the encoder puts pictures on white as well.
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.88));
  return blob && blob.size < file.size ? blob : file;
}

function encode(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(blob);
  });
}
