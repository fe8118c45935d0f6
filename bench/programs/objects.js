// SPDX-License-Identifier: Apache-2.0
// A program of the workload node: makes objects, arrays of numbers and Buffers, the same in every
// process, as many as the factor says; says "ready", and answers every line on its standard input
// with a checksum of all of it.
'use strict';

const crypto = require('crypto');
const readline = require('readline');

const factor = Number(process.argv[2]);

// The same bytes for the same label.
function bytes(label, size) {
    const key = crypto.createHash('sha256').update(label).digest();
    const cipher = crypto.createCipheriv('aes-256-ctr', key, Buffer.alloc(16));
    const buffer = Buffer.allocUnsafeSlow(size);

    cipher.update(Buffer.alloc(size)).copy(buffer);
    return buffer;
}

function make() {
    const made = { records: [], series: [], buffers: [] };

    for (let i = 0; i < 120000 * factor; i++)
        made.records.push({
            id: i, user: 'user-' + (i * 7919) % 100003, active: i % 3 === 0,
            score: i * 31 % 1000, ratio: i / 7, tags: ['t' + i % 17, 't' + i % 23],
        });
    for (let i = 0; i < 200 * factor; i++)
        made.series.push(Array.from({ length: 10000 }, (_, k) => Math.sin(i * 10000 + k)));
    for (let i = 0; i < 48 * factor; i++)
        made.buffers.push(bytes('large' + i, 1 << 20));
    for (let i = 0; i < 512 * factor; i++)
        made.buffers.push(bytes('small' + i, 1 << 16));
    return made;
}

function checksum(made) {
    const sum = crypto.createHash('sha256');

    for (const record of made.records)
        sum.update(JSON.stringify(record));
    for (const numbers of made.series)
        sum.update(Float64Array.from(numbers));
    for (const buffer of made.buffers)
        sum.update(buffer);
    return sum.digest('hex');
}

const made = make();

global.gc();
global.gc();
console.log('ready');
readline.createInterface({ input: process.stdin }).on('line', () => console.log(checksum(made)));
