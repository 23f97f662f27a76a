// What changed between two texts, by the longest common subsequence of their words; of their lines where words are too
// many; as a whole where lines are too.

const MOST_CELLS = 4e6;

const words = (text) => text.match(/\n|[^\S\n]+|[\p{L}\p{N}_]+|[^]/gu) || [];
const lines = (text) => text.match(/[^\n]*\n|[^\n]+/g) || [];

// [["=" | "-" | "+", text], ...]
function changes(before, after) {
  for (const cut of [words, lines]) {
    const found = aligned(cut(before), cut(after));
    if (found) return found;
  }
  return [["-", before], ["+", after]];
}

// The changes from a to b, both arrays of texts; null: too long to be aligned.
function aligned(a, b) {
  let start = 0, same = 0;
  while (start < Math.min(a.length, b.length) && a[start] === b[start]) start++;
  while (same < Math.min(a.length, b.length) - start && a[a.length - 1 - same] === b[b.length - 1 - same]) same++;
  const n = a.length - start - same, m = b.length - start - same;
  if (n * m > MOST_CELLS) return null;
  const width = m + 1;
  const longest = new Uint32Array((n + 1) * width); // of a[i:] and b[j:], without the ends that agree
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      longest[i * width + j] = a[start + i] === b[start + j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const found = [];
  const add = (kind, text) => {
    const last = found[found.length - 1];
    if (last && last[0] === kind) last[1].push(text);
    else found.push([kind, [text]]);
  };
  a.slice(0, start).forEach((text) => add("=", text));
  for (let i = 0, j = 0; i < n || j < m; ) {
    if (i < n && j < m && a[start + i] === b[start + j]) {
      add("=", a[start + i]);
      i++, j++;
    } else if (j === m || (i < n && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) {
      add("-", a[start + i++]);
    } else add("+", b[start + j++]);
  }
  a.slice(a.length - same).forEach((text) => add("=", text));
  return found.map(([kind, texts]) => [kind, texts.join("")]);
}
