"""How a log is kept in PostgreSQL.

A topic has a row, which an append locks until its transaction has ended: so events of a topic are numbered in the order
in which they become visible, without gaps, and nobody is shown one ahead of another that comes before it. Whoever
listens is notified by PostgreSQL when the transaction is committed, of the place and not of the event.
"""

from __future__ import annotations

from litestar_safe_sse.sources._stored import REMEMBERED

__all__ = ("FINISHED_STATE", "append_query", "delete_query", "remembered", "tables")

FINISHED_STATE = "SSE01"
"""The code of the error by which something is not appended to a finished topic."""

_TABLES = """
CREATE TABLE IF NOT EXISTS {name}_secret (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    secret text NOT NULL
);
INSERT INTO {name}_secret (secret) VALUES (replace(gen_random_uuid()::text, '-', '')) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS {name}_topics (
    topic text PRIMARY KEY CHECK (octet_length(topic) BETWEEN 1 AND 256),
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    nonce bigint NOT NULL,
    at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    finished boolean NOT NULL DEFAULT false,
    emptied boolean NOT NULL DEFAULT false,
    since bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS {name}_events (
    topic text NOT NULL,
    seq bigint NOT NULL,
    epoch bigint NOT NULL,
    nonce bigint NOT NULL,
    before bigint NOT NULL,
    at timestamptz NOT NULL,
    event text,
    data text,
    retry bigint,
    comment text,
    PRIMARY KEY (topic, seq)
);

CREATE TABLE IF NOT EXISTS {name}_keys (
    topic text NOT NULL,
    key text NOT NULL,
    epoch bigint NOT NULL,
    first bigint NOT NULL,
    nonces bigint[] NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (topic, key)
);

CREATE UNLOGGED TABLE IF NOT EXISTS {name}_present (
    topic text NOT NULL,
    stream text NOT NULL,
    member text NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (topic, stream)
);

CREATE OR REPLACE FUNCTION {name}_append_many(
    p_topic text, p_data text[], p_event text[], p_retry bigint[], p_comment text[],
    p_key text DEFAULT NULL, p_max_events bigint DEFAULT {max_events}, p_expire bigint DEFAULT {expire},
    p_remember bigint DEFAULT {remember}, OUT epoch bigint, OUT first bigint, OUT nonces bigint[]
) LANGUAGE plpgsql AS $append$
#variable_conflict use_column
DECLARE
    moment timestamptz;
    known {name}_topics%ROWTYPE;
    nonce bigint;
    number bigint;
    previous bigint;
BEGIN
    LOOP
        SELECT * INTO known FROM {name}_topics t WHERE t.topic = p_topic FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO {name}_topics VALUES (p_topic, 0, 0, 0, clock_timestamp(), clock_timestamp())
            ON CONFLICT DO NOTHING;
    END LOOP;
    moment := greatest(known.at, clock_timestamp());
    IF p_key IS NOT NULL THEN
        SELECT k.epoch, k.first, k.nonces INTO epoch, first, nonces FROM {name}_keys k
            WHERE k.topic = p_topic AND k.key = p_key AND k.expires_at > moment;
        IF FOUND THEN RETURN; END IF;
    END IF;
    IF known.finished AND {remembered} THEN
        IF p_event[1] IS DISTINCT FROM 'finished' THEN
            RAISE EXCEPTION 'the topic is finished' USING ERRCODE = '{finished}';
        END IF;
        epoch := known.epoch;
        first := known.seq;
        nonces := ARRAY[known.nonce];
        RETURN;
    END IF;
    IF known.seq = 0 OR known.expires_at <= moment THEN
        DELETE FROM {name}_events e WHERE e.topic = p_topic;
        known.epoch := greatest(known.epoch + 1, floor(extract(epoch FROM moment) * 1000)::bigint);
        known.seq := 0;
        known.nonce := 0;
    END IF;
    epoch := known.epoch;
    first := known.seq + 1;
    number := known.seq;
    previous := known.nonce;
    nonces := ARRAY[]::bigint[];
    FOR i IN 1 .. cardinality(p_data) LOOP
        number := number + 1;
        nonce := ('x' || left(gen_random_uuid()::text, 8))::bit(32)::bigint;
        INSERT INTO {name}_events VALUES (
            p_topic, number, epoch, nonce, previous, moment, p_event[i], p_data[i], p_retry[i], p_comment[i]
        );
        previous := nonce;
        nonces := nonces || nonce;
    END LOOP;
    UPDATE {name}_topics t SET epoch = known.epoch, seq = number, nonce = previous, at = moment,
        expires_at = moment + p_expire * interval '1 millisecond', emptied = false,
        finished = coalesce(p_event[cardinality(p_data)] = 'finished', false) WHERE t.topic = p_topic;
    IF number / greatest(1, least(100, p_max_events / 10)) > known.seq / greatest(1, least(100, p_max_events / 10)) THEN
        DELETE FROM {name}_events e WHERE e.topic = p_topic AND e.seq <= number - p_max_events;
    END IF;
    IF p_key IS NOT NULL THEN
        INSERT INTO {name}_keys VALUES (
            p_topic, p_key, epoch, first, nonces, moment + p_remember * interval '1 millisecond'
        ) ON CONFLICT (topic, key) DO UPDATE SET epoch = excluded.epoch, first = excluded.first,
            nonces = excluded.nonces, expires_at = excluded.expires_at;
    END IF;
    PERFORM pg_notify('{name}', epoch || ' ' || number || ' ' || previous || ' ' || p_topic);
END $append$;

CREATE OR REPLACE FUNCTION {name}_delete(p_topic text, p_expire bigint DEFAULT {expire}) RETURNS void
LANGUAGE plpgsql AS $delete$
DECLARE
    known {name}_topics%ROWTYPE;
    moment timestamptz;
    now bigint;
BEGIN
    SELECT * INTO known FROM {name}_topics WHERE topic = p_topic AND seq > 0 FOR UPDATE;
    IF NOT FOUND THEN RETURN; END IF;
    moment := clock_timestamp();
    now := floor(extract(epoch FROM moment) * 1000);
    IF known.expires_at > moment OR known.finished AND {remembered} THEN
        known.since := now;
    END IF;
    DELETE FROM {name}_events WHERE topic = p_topic;
    UPDATE {name}_topics SET epoch = greatest(epoch, now), seq = 0, nonce = 0, since = known.since, finished = false,
        emptied = false, expires_at = moment + p_expire * interval '1 millisecond' WHERE topic = p_topic;
    PERFORM pg_notify('{name}', '0 0 0 ' || p_topic);
END $delete$;

CREATE OR REPLACE FUNCTION {name}_append(
    p_topic text, p_data text, p_event text DEFAULT NULL, p_key text DEFAULT NULL
) RETURNS bigint LANGUAGE sql AS $append$
    SELECT first FROM {name}_append_many(
        p_topic, ARRAY[p_data], ARRAY[p_event], ARRAY[NULL::bigint], ARRAY[NULL::text], p_key
    )
$append$;
"""


def tables(name: str, max_events: int, expire: int, remember: int) -> str:
    """Returns the commands that make a log's tables, unless they are there, and its functions anew.

    Args:
        name: What their names begin with.
        max_events: Events kept of each topic, unless an append says otherwise.
        expire: Milliseconds that a topic lasts, unless an append says otherwise.
        remember: Milliseconds for which an idempotency key is known, unless an append says otherwise.
    """
    return _TABLES.format(
        name=name,
        max_events=max_events,
        expire=expire,
        remember=remember,
        remembered=remembered("known", "moment"),
        finished=FINISHED_STATE,
    )


def remembered(topic: str, now: str) -> str:
    """Returns the condition of a finished topic being known to be that; its row outlives its events.

    Args:
        topic: The row.
        now: The time.
    """
    week = f"interval '{round(REMEMBERED)} seconds'"
    return f"({topic}.expires_at > {now} - CASE WHEN {topic}.emptied THEN interval '0' ELSE {week} END)"


def delete_query(name: str) -> str:
    """Returns the query that deletes a topic."""
    return f"SELECT {name}_delete($1, $2)"


def append_query(name: str) -> str:
    """Returns the query that appends events."""
    return (
        f"SELECT epoch, first, nonces FROM {name}_append_many"
        "($1, $2::text[], $3::text[], $4::bigint[], $5::text[], $6, $7, $8, $9)"
    )
