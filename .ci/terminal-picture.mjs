// A picture of a terminal: what `tmux capture-pane -p -e` prints comes in, an SVG goes out.
//
//     tmux capture-pane -p -e | node terminal-picture.mjs > PICTURE.svg
//
// Each character has a place of its own, so that columns stay columns in any font.

import fs from 'node:fs';

const colours = [
  '#1d1f21', '#cc6666', '#98b860', '#e0b860', '#6f9fd8', '#b294bb', '#6fc0b8', '#d0d4d8',
  '#707880', '#e06c6c', '#b5d070', '#f0d080', '#8ab4f0', '#c8a8d8', '#88d8d0', '#ffffff',
];
const [width, height, margin] = [8, 17, 12];
const usual = () => ({ fg: null, bg: null, bold: false, dim: false, under: false, swap: false });

let style = usual();
function attribute(numbers) {
  for (let i = 0; i < numbers.length; i++) {
    const n = numbers[i];
    if (n === 0) style = usual();
    else if (n === 1) style.bold = true;
    else if (n === 2) style.dim = true;
    else if (n === 4) style.under = true;
    else if (n === 7) style.swap = true;
    else if (n === 22) style.bold = style.dim = false;
    else if (n === 24) style.under = false;
    else if (n === 27) style.swap = false;
    else if (n >= 30 && n < 38) style.fg = n - 30;
    else if (n >= 90 && n < 98) style.fg = n - 82;
    else if (n >= 40 && n < 48) style.bg = n - 40;
    else if (n >= 100 && n < 108) style.bg = n - 92;
    else if (n === 39) style.fg = null;
    else if (n === 49) style.bg = null;
  }
}

const rows = fs.readFileSync(0, 'utf8').replace(/\n$/, '').split('\n').map((line) => {
  const cells = [];
  for (const [, code, character] of line.matchAll(/\x1b\[([\d;]*)m|([^\x1b])/gu)) {
    if (character === undefined) attribute(code.split(';').map(Number));
    else cells.push({ character, ...style });
  }
  return cells;
});

while (rows.length > 1 && rows.at(-1).every((cell) => cell.character === ' ')) rows.pop();

const escape = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
const columns = Math.max(80, ...rows.map((row) => row.length));
const [w, h] = [columns * width + 2 * margin, rows.length * height + 2 * margin];
const out = [
  `<svg xmlns="http://www.w3.org/2000/svg" width="${w}" height="${h}" viewBox="0 0 ${w} ${h}">`,
  `<rect width="${w}" height="${h}" rx="6" fill="${colours[0]}"/>`,
  '<g font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="13.3" xml:space="preserve">',
];
rows.forEach((row, y) => {
  const [top, base] = [margin + y * height, margin + y * height + 13];
  // What looks alike is one element.
  for (let from = 0; from < row.length;) {
    const look = ({ character, ...rest }) => JSON.stringify(rest);
    let to = from + 1;
    while (to < row.length && look(row[to]) === look(row[from])) to++;
    const { fg, bg, bold, dim, under, swap } = row[from];
    const [front, back] = [fg === null ? colours[7] : colours[fg], bg === null ? null : colours[bg]];
    const [ink, paper] = swap ? [back ?? colours[0], front] : [front, back];
    const [x, length] = [margin + from * width, (to - from) * width];
    if (paper) out.push(`<rect x="${x}" y="${top}" width="${length}" height="${height}" fill="${paper}"/>`);
    const more = (bold ? ' font-weight="bold"' : '') + (dim ? ' opacity="0.6"' : '') + (under ? ' text-decoration="underline"' : '');
    // Word by word: then a font that is a little narrower does no harm.
    for (let at = from; at < to; at++) {
      const begin = at;
      while (at < to && row[at].character !== ' ') at++;
      if (at === begin) continue;
      const word = row.slice(begin, at).map((cell) => cell.character);
      const places = word.map((_, i) => margin + (begin + i) * width).join(' ');
      out.push(`<text x="${places}" y="${base}" fill="${ink}"${more}>${escape(word.join(''))}</text>`);
    }
    from = to;
  }
});
out.push('</g>', '</svg>');
process.stdout.write(out.join('\n') + '\n');
