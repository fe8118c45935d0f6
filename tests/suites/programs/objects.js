// SPDX-License-Identifier: Apache-2.0
// Objects, typed arrays, compiled functions, worker threads, a child process and much garbage.
'use strict';
const { createHash } = require('crypto');
const { execFileSync } = require('child_process');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');

function hash(text) {
  return createHash('sha256').update(text).digest('hex');
}

function work(seed) {
  let x = seed;
  const next = () => (x = (Math.imul(x, 1103515245) + 12345) >>> 0);
  const rows = [];
  for (let i = 0; i < 120000; i++) {
    rows.push({ id: i, name: `name-${next() % 5003}`, tags: [next() % 7, next() % 11], score: next() / 7 });
  }
  const groups = new Map();
  for (let round = 0; round < 6; round++) {
    for (const row of rows) {
      const key = row.name + round;
      groups.set(key, (groups.get(key) || 0) + row.tags[0] * round + row.id);
    }
    rows.sort((a, b) => a.tags[1] - b.tags[1] || a.name.localeCompare(b.name) || a.id - b.id);
  }
  const numbers = new Float64Array(1 << 19);
  for (let i = 0; i < numbers.length; i++) numbers[i] = Math.sqrt(i * seed) + (next() & 255);
  numbers.sort();
  return hash(JSON.stringify(rows)) + hash(JSON.stringify([...groups])) + hash(Buffer.from(numbers.buffer));
}

async function main() {
  console.log('main', work(1));
  const answers = await Promise.all([2, 3, 2].map((seed) => new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: seed });
    worker.once('message', resolve).once('error', reject);
  })));
  answers.forEach((answer) => console.log('worker', answer));
  console.log('child', execFileSync(process.execPath, ['-e', 'console.log([..."abc"].reverse().join(""))'],
    { encoding: 'utf8' }).trim());
  for (let i = 0; i < 40; i++) {
    const buffer = Buffer.alloc(1 << 21, `garbage ${i}`);
    if (buffer[(1 << 21) - 1] !== buffer[((1 << 21) - 1) % `garbage ${i}`.length]) throw new Error('wrong byte');
  }
  console.log('main', work(1));
}

if (isMainThread) main();
else parentPort.postMessage(work(workerData));
