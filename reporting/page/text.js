// What a model wrote is hostile: it only ever becomes text nodes and titles, never markup. Characters that are not to
// be seen (escapes, bidi controls, half surrogates) are shown by their names.

const UNSEEN = /(?![\n\t])[\p{C}\p{Zl}\p{Zp}]/gu;
const data = JSON.parse(document.getElementById("data").textContent);
const rollouts = data.rollouts || [];
const byId = (id) => document.getElementById(id);

const ASCII = (
  "NUL SOH STX ETX EOT ENQ ACK BEL BS HT LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"
).split(" ");

function nameOf(character) {
  const code = character.codePointAt(0);
  return ASCII[code] || "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}

const visible = (text) => String(text).replace(UNSEEN, (character) => `[${nameOf(character)}]`);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = visible(text);
  return element;
}

// Adds text to an element; what is not to be seen stands in frames, so that it cannot be taken for what was written.
function put(parent, text) {
  let end = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > end) parent.append(text.slice(end, match.index));
    parent.append(make("span", "unseen", nameOf(match[0])));
    end = match.index + match[0].length;
  }
  if (end < text.length) parent.append(text.slice(end));
  return parent;
}

const plural = (count, thing) => `${short(count)} ${thing}${count === 1 ? "" : "s"}`;
const known = (value) => value !== undefined && value !== null;

const minus = (text) => text.replaceAll("-", "\u2212");

// Three digits or so, without an exponent where that reads well.
function short(value) {
  if (!known(value)) return "\u2013";
  if (Number.isInteger(value)) return minus(value.toLocaleString("en"));
  const size = Math.abs(value);
  if (size < 0.001) return minus(value.toExponential(1));
  return minus(size < 0.01 ? value.toFixed(4) : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 3));
}

function signed(value) {
  if (!known(value)) return "\u2013";
  const text = fixed(value, 2);
  return Number(value.toFixed(2)) > 0 ? "+" + text : text;
}

function fixed(value, digits) {
  if (!known(value)) return "\u2013";
  return minus((Number(value.toFixed(digits)) || 0).toFixed(digits)); // no minus before a nought
}

// The class, sign and word of a verdict: told apart without colour.
function verdict(status) {
  if (status === "pass") return ["pass", "\u2713 pass"];
  return status === "fail" ? ["fail", "\u2717 fail"] : ["odd", "! " + status];
}
