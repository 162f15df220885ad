"""The tables of the ledger."""

from __future__ import annotations

SCHEMA_VERSION = 5

# One statement per table, no semicolon inside. A row in `calls` or `looks` exists from the moment before the request
# leaves (reserved), so a kill can lose an answer but never the fact that it was asked for; `lost` counts submissions
# whose answer never came, `repeats` those sent again after a failure. `cost_usd` is what all submissions of a call
# cost, `price_usd` what one of them costs: listed before it was sent, or told by an answer.
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
    price_usd REAL NOT NULL DEFAULT 0);
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
"""

MIGRATIONS = {
    2: "ALTER TABLE looks ADD COLUMN rung TEXT NOT NULL DEFAULT ''",
    3: "ALTER TABLE looks ADD COLUMN cost_usd REAL NOT NULL DEFAULT 0",
    4: "ALTER TABLE calls ADD COLUMN price_usd REAL NOT NULL DEFAULT 0",
}
"""Statement that brings a file of this schema to the next one."""
