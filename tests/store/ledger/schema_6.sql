-- The tables as schema 6 had them.
CREATE TABLE prompts (
    id TEXT PRIMARY KEY, text TEXT NOT NULL, origin TEXT NOT NULL, skill TEXT NOT NULL,
    parent_id TEXT, lineage_id TEXT NOT NULL, width_px INTEGER, height_px INTEGER);
CREATE TABLE held_out (prompt_id TEXT PRIMARY KEY);
CREATE TABLE revisions (
    sha TEXT PRIMARY KEY, number INTEGER NOT NULL, parent_sha TEXT, round_id TEXT NOT NULL);
CREATE TABLE rounds (
    round_id TEXT PRIMARY KEY, number INTEGER NOT NULL, revision_sha TEXT NOT NULL, global_step INTEGER NOT NULL,
    child_sha TEXT, figures TEXT NOT NULL DEFAULT '{}');
CREATE TABLE calls (
    request_id TEXT PRIMARY KEY, round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, lineage_id TEXT NOT NULL,
    teacher TEXT NOT NULL, status TEXT NOT NULL, image_sha256 TEXT, reason TEXT NOT NULL DEFAULT '',
    cost_usd REAL NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, repeats INTEGER NOT NULL DEFAULT 0,
    price_usd REAL NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0);
CREATE INDEX calls_by_round ON calls (round_id);
CREATE INDEX calls_by_lineage ON calls (lineage_id);
CREATE TABLE looks (
    key TEXT PRIMARY KEY, round_id TEXT NOT NULL, judge TEXT NOT NULL, probability REAL, covered_mass REAL,
    reason TEXT NOT NULL DEFAULT '', lost INTEGER NOT NULL DEFAULT 0, rung TEXT NOT NULL DEFAULT '',
    cost_usd REAL NOT NULL DEFAULT 0);
CREATE INDEX looks_by_round ON looks (round_id);
CREATE TABLE renders (
    round_id TEXT NOT NULL, request_id TEXT NOT NULL, image_sha256 TEXT NOT NULL, PRIMARY KEY (round_id, request_id));
CREATE TABLE writes (request_id TEXT PRIMARY KEY, round_id TEXT NOT NULL, reply TEXT NOT NULL);
CREATE TABLE evidence (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, kind TEXT NOT NULL, image_sha256 TEXT NOT NULL,
    verdict TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (round_id, prompt_id, kind, image_sha256));
CREATE TABLE duels (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, first_teacher TEXT NOT NULL, second_teacher TEXT NOT NULL,
    first_sha256 TEXT NOT NULL, second_sha256 TEXT NOT NULL, verdict TEXT NOT NULL,
    PRIMARY KEY (round_id, prompt_id, first_teacher, second_teacher));
CREATE TABLE teacher_results (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, teacher TEXT NOT NULL, result TEXT NOT NULL,
    PRIMARY KEY (round_id, prompt_id, teacher));
CREATE TABLE decisions (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (round_id, prompt_id, kind));

CREATE TABLE earlier_calls (
    request_id TEXT NOT NULL, round_id TEXT NOT NULL, calls INTEGER NOT NULL, lost INTEGER NOT NULL,
    cost_usd REAL NOT NULL, PRIMARY KEY (request_id, round_id));
CREATE TABLE earlier_looks (
    key TEXT NOT NULL, round_id TEXT NOT NULL, looks INTEGER NOT NULL, cost_usd REAL NOT NULL,
    PRIMARY KEY (key, round_id));
CREATE VIEW calls_by_rounds AS
    SELECT round_id, teacher, 1 + lost + repeats AS calls, lost, lost + (status = 'submitted') AS silent, cost_usd,
        price_usd FROM calls
    UNION ALL SELECT e.round_id, c.teacher, e.calls, e.lost, e.lost, e.cost_usd, c.price_usd
        FROM earlier_calls e CROSS JOIN calls c USING (request_id)
    UNION ALL SELECT c.round_id, c.teacher, -e.calls, -e.lost, -e.lost, -e.cost_usd, c.price_usd
        FROM calls c CROSS JOIN earlier_calls e USING (request_id);
CREATE VIEW looks_by_rounds AS
    SELECT round_id, 1 + lost AS looks, lost, cost_usd FROM looks
    UNION ALL SELECT round_id, looks, looks, cost_usd FROM earlier_looks
    UNION ALL SELECT l.round_id, -e.looks, -e.looks, -e.cost_usd FROM looks l CROSS JOIN earlier_looks e USING (key);
PRAGMA user_version = 6;
