-- SPDX-License-Identifier: Apache-2.0
-- A database in memory and one in a file, the same rows, indexes, an aggregate and a check of it all.
PRAGMA cache_size = -65536;
PRAGMA journal_mode = WAL;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER, body BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
INSERT INTO item SELECT i, 'item-' || (i * 7919 % 100003), i * 31 % 1000, zeroblob(i % 60) || hex(i) FROM n;
CREATE INDEX item_name ON item (name);
CREATE INDEX item_amount ON item (amount, id);
ATTACH ':memory:' AS other;
CREATE TABLE other.copy AS SELECT * FROM item;
CREATE INDEX other.copy_name ON copy (name);
UPDATE item SET amount = amount + 1, body = body || 'x' WHERE id % 7 = 0;
DELETE FROM other.copy WHERE id % 3 = 0;
SELECT count(*), sum(amount), sum(length(body)), min(name), max(name) FROM item;
SELECT count(*), sum(amount), sum(length(body)), min(name), max(name) FROM other.copy;
SELECT a.amount, count(*), sum(b.amount) FROM item a JOIN other.copy b ON a.name = b.name
GROUP BY a.amount ORDER BY 1;
PRAGMA integrity_check;
PRAGMA other.integrity_check;
VACUUM;
PRAGMA wal_checkpoint(TRUNCATE);
PRAGMA integrity_check;
