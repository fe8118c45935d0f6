// SPDX-License-Identifier: Apache-2.0
// A program of the workload node: makes objects, arrays of numbers and Buffers, the same in every
// process, as many as the factor says; says "ready", and answers every line on its standard input
// with a checksum of all of it.
'use strict';

const crypto = require('crypto');
const readline = require('readline');

const factor = Number(process.argv[2]);

const LARGE = 1 << 20, SMALL = 1 << 16, SERIES = 100000;

// Fills a buffer with the same bytes for the same label.
function fill(buffer, label) {
    const key = crypto.createHash('sha256').update(label).digest();
    const cipher = crypto.createCipheriv('aes-256-ctr', key, Buffer.alloc(16));
    const zeros = Buffer.alloc(SMALL);

    for (let at = 0; at < buffer.length; at += SMALL)
        cipher.update(zeros).copy(buffer, at);
}

// What is large comes first, before there is garbage: so that the allocator gives it the same
// place in every process, however the collector's timing differs.
function make() {
    const made = { records: [], series: [], buffers: [] };

    for (let i = 0; i < 512 * factor; i++)
        made.buffers.push(Buffer.allocUnsafeSlow(SMALL));
    for (let i = 0; i < 48 * factor; i++)
        made.buffers.push(Buffer.allocUnsafeSlow(LARGE));
    for (let i = 0; i < 20 * factor; i++)
        made.series.push(new Array(SERIES).fill(0.5));
    made.buffers.forEach((buffer, i) => fill(buffer, 'buffer' + i));
    made.series.forEach((numbers, i) => {
        for (let k = 0; k < SERIES; k++)
            numbers[k] = Math.sin(i * SERIES + k);
    });
    for (let i = 0; i < 120000 * factor; i++)
        made.records.push({
            id: i, user: 'user-' + (i * 7919) % 100003, active: i % 3 === 0,
            score: i * 31 % 1000, ratio: i / 7, tags: ['t' + i % 17, 't' + i % 23],
        });
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
