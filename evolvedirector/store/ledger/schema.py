"""The tables of the ledger."""

from __future__ import annotations

SCHEMA_VERSION = 10

# A row of `calls` or `looks` counts all its tries and names the round that made the last one. What other rounds made
# stands in `earlier_calls` and `earlier_looks` as well, so that the views can book each try to the round that made it.
_BY_ROUND = """
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
"""

_EVIDENCE = """
CREATE TABLE evidence (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, kind TEXT NOT NULL, image_sha256 TEXT NOT NULL,
    reading TEXT, verdict TEXT, skill TEXT, lineage_id TEXT, body TEXT NOT NULL,
    PRIMARY KEY (round_id, prompt_id, kind, image_sha256));
"""
_FILES_AND_SCORES = """
CREATE TABLE call_files (
    request_id TEXT NOT NULL, role TEXT NOT NULL, sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    media_type TEXT NOT NULL, width_px INTEGER NOT NULL, height_px INTEGER NOT NULL, PRIMARY KEY (request_id, role));
CREATE TABLE scores (
    key TEXT PRIMARY KEY, round_id TEXT NOT NULL, reward TEXT NOT NULL, value REAL, reason TEXT NOT NULL DEFAULT '');
"""
_FAULTS = """
CREATE TABLE faults (
    round_id TEXT NOT NULL, part TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (round_id, part, reason));
"""

_LOSSES = """
CREATE TABLE losses (
    round_id TEXT NOT NULL, sample_key TEXT NOT NULL, loss REAL NOT NULL, PRIMARY KEY (round_id, sample_key));
"""

_DECISIONS = """
CREATE TABLE decisions (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL, reason TEXT NOT NULL,
    image_sha256 TEXT, variant TEXT NOT NULL DEFAULT '', PRIMARY KEY (round_id, prompt_id, kind, variant));
"""

# One statement per table, no semicolon inside. A row in `calls` or `looks` exists from the moment before the request
# leaves (reserved), so a kill can lose an answer but never the fact that it was asked for; `lost` counts submissions
# whose answer never came, `repeats` those sent again after a failure. `cost_usd` is what all submissions of a call
# cost, `price_usd` what one of them costs: listed before it was sent, or told by an answer. `attempt` counts the tries
# that came to nothing for good: with each of them the next one is new work for the service. `seed` and `fingerprint`
# (of the teacher: its model, weights and settings) say how an image came about; calls of before schema 10 have neither.
# A score has no value where the image could not be scored.
SCHEMA = """
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
    price_usd REAL NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0,
    seed INTEGER, fingerprint TEXT NOT NULL DEFAULT '');
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
CREATE TABLE duels (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, first_teacher TEXT NOT NULL, second_teacher TEXT NOT NULL,
    first_sha256 TEXT NOT NULL, second_sha256 TEXT NOT NULL, preference TEXT NOT NULL,
    PRIMARY KEY (round_id, prompt_id, first_teacher, second_teacher));
CREATE TABLE teacher_results (
    round_id TEXT NOT NULL, prompt_id TEXT NOT NULL, teacher TEXT NOT NULL, result TEXT NOT NULL,
    PRIMARY KEY (round_id, prompt_id, teacher));
"""
SCHEMA += _DECISIONS + _EVIDENCE + _FILES_AND_SCORES + _BY_ROUND + _FAULTS + _LOSSES

# Before schema 7 a checked image that shows its prompt was recorded as `student`, one that lacks it as `teacher`.
_READINGS = f"""
ALTER TABLE evidence RENAME TO evidence_before_7;
{_EVIDENCE};
INSERT INTO evidence SELECT round_id, prompt_id, kind, image_sha256,
    CASE WHEN kind = 'compare' THEN NULL WHEN verdict = 'student' THEN 'shows' WHEN verdict = 'teacher' THEN 'lacks'
        ELSE 'unreadable' END,
    CASE WHEN kind = 'compare' THEN verdict END, CASE WHEN json_valid(body) THEN json_extract(body, '$.skill') END,
    CASE WHEN json_valid(body) THEN json_extract(body, '$.lineage_id') END, body FROM evidence_before_7 ORDER BY rowid;
DROP TABLE evidence_before_7;
ALTER TABLE duels RENAME COLUMN verdict TO preference;
UPDATE duels SET preference = 'unreadable' WHERE preference = 'invalid';
ALTER TABLE decisions ADD COLUMN image_sha256 TEXT;
{_FILES_AND_SCORES}"""

# Before schema 10 a prompt had one decision of a kind in a round: one image of it could be bought.
_VARIANTS = f"""
ALTER TABLE decisions RENAME TO decisions_before_10;
{_DECISIONS};
INSERT INTO decisions SELECT round_id, prompt_id, kind, count, reason, image_sha256, '' FROM decisions_before_10
    ORDER BY rowid;
DROP TABLE decisions_before_10;
ALTER TABLE calls ADD COLUMN seed INTEGER;
ALTER TABLE calls ADD COLUMN fingerprint TEXT NOT NULL DEFAULT ''"""

MIGRATIONS = {
    2: "ALTER TABLE looks ADD COLUMN rung TEXT NOT NULL DEFAULT ''",
    3: "ALTER TABLE looks ADD COLUMN cost_usd REAL NOT NULL DEFAULT 0",
    4: "ALTER TABLE calls ADD COLUMN price_usd REAL NOT NULL DEFAULT 0",
    5: f"ALTER TABLE calls ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0; {_BY_ROUND}",
    6: _READINGS,
    7: _FAULTS,
    8: _LOSSES,
    9: _VARIANTS,
}
"""Statements that bring a file of this schema to the next one."""
