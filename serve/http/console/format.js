// Format numbers, prices and times for people.

export const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

export function price(item) {
  if (item.price == null) return "";
  try {
    return item.price.toLocaleString("en", { style: "currency", currency: item.currency });
  } catch {
    return `${number(item.price, 2)} ${item.currency ?? ""}`; // a currency unknown to the browser
  }
}

/** A share from 0 to 1 in percent. */
export const percent = (share, digits = 0) => `${number(share * 100, digits)} %`;

export function bytes(value) {
  const power = Math.min(3, Math.floor(Math.log2(Math.max(1, value)) / 10)), shown = value / 2 ** (10 * power);
  return `${number(shown, power && shown < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB"][power]}`;
}

/** A time, from ISO 8601 or epoch seconds. */
export function time(moment) {
  const date = new Date(typeof moment === "number" ? moment * 1000 : moment);
  const year = date.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return date.toLocaleString("en-GB", { day: "numeric", month: "short", year, hour: "2-digit", minute: "2-digit" });
}

export const signed = (value, digits = 2) =>
  (value > 0 ? "+" : value < 0 ? "−" : "") + number(Math.abs(value), digits);

/** The last part of a category path. */
export const leaf = (category) => category?.split("/").at(-1) ?? "";
