"""Every table, index, function and statement of the PostgreSQL backend, and how a schema is brought to this release.

A save, a delete and an append are one function call: one round trip and one transaction, whatever they touch. A job
is known by its id and queue in every table; what indexes need stands beside the encoded record. The first namespace
of an active job is a column, because nearly every job has one; the others are rows of ``memberships``.

Counters must not be rows that all writers wait for. So nobody updates one: each save adds rows with its differences
to ``counts``, a reader sums them, and from time to time ``fold_counts`` replaces what has gathered by its sum. The
queue "" counts the whole store. Locks are taken in one order, by job id and queue, so that two batches cannot wait
for each other.

Text is compared byte by byte (collation C): that is the order of the contract, whatever the database's own is.
A shape may be longer than an index entry can be, so indexes hold its hash; statements ask for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from asman.errors import ConfigError
from asman.job import State

if TYPE_CHECKING:
    from asyncpg import Connection

__all__ = ["MIGRATIONS", "STATE_NUMBERS", "STATEMENTS", "migrate"]

STATE_NUMBERS: Mapping[State, int] = {State.QUEUED: 0, State.RUNNING: 1, State.FINISHED: 2, State.REMOVED: 3}
"""As stored; active states are below 2, counted ones below 3."""

_TABLES = """
CREATE TABLE jobs (
    job_id text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    state smallint NOT NULL,
    shape text COLLATE "C" NOT NULL,
    queued_at float8 NOT NULL,
    due_at float8 NOT NULL,
    namespace text COLLATE "C",
    others integer NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (job_id, queue)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX jobs_by_age ON jobs (job_id, queued_at, queue);
CREATE INDEX jobs_by_state ON jobs (queue, state, queued_at, job_id);
CREATE INDEX jobs_by_shape ON jobs (queue, hashtextextended(shape, state), queued_at, job_id);
CREATE INDEX jobs_by_due ON jobs (due_at);
CREATE INDEX jobs_by_namespace ON jobs (queue, namespace, queued_at, job_id) WHERE namespace IS NOT NULL;
CREATE TABLE memberships (
    job_id text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    queued_at float8 NOT NULL,
    PRIMARY KEY (job_id, queue, namespace)
);
CREATE INDEX memberships_by_namespace ON memberships (queue, namespace, queued_at, job_id);
CREATE TABLE documents (
    job_id text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (job_id, queue, name)
);
CREATE TABLE counts (
    queue text COLLATE "C" NOT NULL,
    state smallint NOT NULL,
    shape text COLLATE "C" NOT NULL,
    n bigint NOT NULL,
    is_folded boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX counts_by_shape ON counts (queue, state, hashtextextended(shape, 0));
CREATE INDEX counts_to_fold ON counts (queue) WHERE NOT is_folded;
CREATE TABLE roles (
    role text COLLATE "C" PRIMARY KEY,
    holder text COLLATE "C" NOT NULL,
    kept_at float8 NOT NULL,
    kept_before float8 NOT NULL
);
CREATE TABLE logs (
    job_id text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    half text COLLATE "C" NOT NULL,
    attempt bigint NOT NULL,
    total bigint NOT NULL,
    head_lines bigint NOT NULL,
    head_bytes bigint NOT NULL,
    tail_bytes bigint NOT NULL,
    is_head_full boolean NOT NULL,
    PRIMARY KEY (job_id, queue, half)
);
CREATE TABLE log_chunks (
    job_id text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    half text COLLATE "C" NOT NULL,
    first bigint NOT NULL,
    count bigint NOT NULL,
    size_bytes bigint NOT NULL,
    lines bytea NOT NULL,
    PRIMARY KEY (job_id, queue, half, first)
);
"""

_SAVE = """
CREATE FUNCTION save_jobs(
    job_ids text[], queues text[], expected bigint[], versions bigint[], states smallint[], shapes text[],
    queued_ats float8[], due_ats float8[], namespaces text[], others integer[], records bytea[],
    member_of integer[], members text[], document_of integer[], names text[], datas bytea[]
) RETURNS bigint[] LANGUAGE plpgsql AS $$
-- Many saves, each of another job, sorted by (job_id, queue). Answers, for each, NULL if it was done, else the version
-- that is stored (0 for none).
DECLARE
    stored bigint[]; old_states smallint[]; old_shapes text[]; old_others integer[]; done boolean[];
BEGIN
    WITH locked AS (
        SELECT g.n, j.version, j.state, j.shape, j.others
        FROM unnest(job_ids, queues) WITH ORDINALITY AS g (job_id, queue, n)
        JOIN jobs j ON j.job_id = g.job_id AND j.queue = g.queue
        ORDER BY g.n FOR NO KEY UPDATE OF j
    )
    SELECT array_agg(coalesce(l.version, 0) ORDER BY g.n), array_agg(l.state ORDER BY g.n),
        array_agg(l.shape ORDER BY g.n), array_agg(l.others ORDER BY g.n)
    INTO stored, old_states, old_shapes, old_others
    FROM generate_series(1, cardinality(job_ids)) AS g (n) LEFT JOIN locked l ON l.n = g.n;

    WITH given AS MATERIALIZED (
        SELECT * FROM unnest(
                job_ids, queues, expected, versions, states, shapes, queued_ats, due_ats, namespaces, others, records
            ) WITH ORDINALITY
            AS g (job_id, queue, expected, version, state, shape, queued_at, due_at, namespace, others, record, n)
    ), updated AS (
        UPDATE jobs j SET version = g.version, state = g.state, shape = g.shape, queued_at = g.queued_at,
            due_at = g.due_at, namespace = g.namespace, others = g.others, record = g.record
        FROM given g WHERE g.expected > 0 AND j.job_id = g.job_id AND j.queue = g.queue AND j.version = g.expected
        RETURNING g.n
    ), inserted AS (
        INSERT INTO jobs (job_id, queue, version, state, shape, queued_at, due_at, namespace, others, record)
        SELECT g.job_id, g.queue, g.version, g.state, g.shape, g.queued_at, g.due_at, g.namespace, g.others, g.record
        FROM given g WHERE g.expected = 0 ORDER BY g.n
        ON CONFLICT (job_id, queue) DO NOTHING RETURNING job_id, queue
    )
    SELECT array_agg(u.n IS NOT NULL OR i.job_id IS NOT NULL ORDER BY g.n) INTO done
    FROM given g LEFT JOIN updated u ON u.n = g.n
        LEFT JOIN inserted i ON i.job_id = g.job_id AND i.queue = g.queue AND g.expected = 0;

    IF cardinality(document_of) > 0 THEN
        DELETE FROM documents d USING unnest(document_of, names, datas) AS g (n, name, data)
        WHERE g.data IS NULL AND done[g.n]
            AND d.job_id = job_ids[g.n] AND d.queue = queues[g.n] AND d.name = g.name;
        INSERT INTO documents (job_id, queue, name, data)
        SELECT job_ids[g.n], queues[g.n], g.name, g.data FROM unnest(document_of, names, datas) AS g (n, name, data)
        WHERE g.data IS NOT NULL AND done[g.n]
        ON CONFLICT (job_id, queue, name) DO UPDATE SET data = excluded.data;
    END IF;

    DELETE FROM memberships m USING unnest(job_ids, queues, old_others, done) AS g (job_id, queue, others, done)
    WHERE g.done AND g.others > 0 AND m.job_id = g.job_id AND m.queue = g.queue;
    IF cardinality(member_of) > 0 THEN
        INSERT INTO memberships (job_id, queue, namespace, queued_at)
        SELECT job_ids[g.n], queues[g.n], g.name, queued_ats[g.n] FROM unnest(member_of, members) AS g (n, name)
        WHERE done[g.n];
    END IF;

    INSERT INTO counts (queue, state, shape, n)
    SELECT coalesce(g.queue, ''), g.state, g.shape, sum(g.n) FROM (
        SELECT *, 1 AS n FROM unnest(queues, states, shapes, done)
        UNION ALL SELECT *, -1 FROM unnest(queues, old_states, old_shapes, done)
    ) AS g (queue, state, shape, done, n)
    WHERE g.done AND g.state < 3
    GROUP BY GROUPING SETS ((g.queue, g.state, g.shape), (g.state, g.shape)) HAVING sum(g.n) <> 0;

    RETURN (SELECT array_agg(CASE WHEN g.done THEN NULL ELSE g.version END ORDER BY g.n)
        FROM unnest(stored, done) WITH ORDINALITY AS g (version, done, n));
END $$;
"""

_DELETE = """
CREATE FUNCTION delete_job(the_job_id text, the_queue text, expected bigint) RETURNS bigint LANGUAGE plpgsql AS $$
-- Answers NULL if it is gone, else the version that is stored.
DECLARE
    old record;
BEGIN
    SELECT j.version, j.state, j.shape INTO old FROM jobs j
    WHERE j.job_id = the_job_id AND j.queue = the_queue FOR UPDATE;
    IF NOT FOUND THEN RETURN NULL; END IF;
    IF old.version <> expected THEN RETURN old.version; END IF;
    DELETE FROM jobs WHERE job_id = the_job_id AND queue = the_queue;
    DELETE FROM memberships WHERE job_id = the_job_id AND queue = the_queue;
    DELETE FROM documents WHERE job_id = the_job_id AND queue = the_queue;
    DELETE FROM logs WHERE job_id = the_job_id AND queue = the_queue;
    DELETE FROM log_chunks WHERE job_id = the_job_id AND queue = the_queue;
    IF old.state < 3 THEN
        INSERT INTO counts (queue, state, shape, n)
        VALUES (the_queue, old.state, old.shape, -1), ('', old.state, old.shape, -1);
    END IF;
    RETURN NULL;
END $$;
"""

_FOLD = """
CREATE FUNCTION fold_counts() RETURNS void LANGUAGE plpgsql AS $$
-- Replaces rows of ``counts`` by their sum. Waits for nobody: if another connection is at it, that is enough.
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('asman counts of ' || current_schema(), 0)) THEN RETURN; END IF;
    WITH fresh AS (
        SELECT DISTINCT c.queue, c.state, c.shape FROM counts c WHERE NOT c.is_folded AND c.queue >= ''
    ), gone AS (
        DELETE FROM counts c USING fresh f
        WHERE c.queue = f.queue AND c.state = f.state AND hashtextextended(c.shape, 0) = hashtextextended(f.shape, 0)
            AND c.shape = f.shape
        RETURNING c.queue, c.state, c.shape, c.n
    )
    INSERT INTO counts (queue, state, shape, n, is_folded)
    SELECT g.queue, g.state, g.shape, sum(g.n), true FROM gone g
    GROUP BY g.queue, g.state, g.shape HAVING sum(g.n) <> 0;
END $$;
"""

_LOGS = """
CREATE FUNCTION append_log(
    the_job_id text, the_queue text, the_attempt bigint, the_half text, half_bytes bigint,
    runs bytea[], line_counts bigint[], sizes bigint[]
) RETURNS bigint LANGUAGE plpgsql AS $$
-- Adds runs of lines as chunks and answers with the total. The head is filled first and then closed for good; from
-- there on the tail grows at its end and loses its oldest chunk when it is too long.
DECLARE
    kept logs; newest bigint; gone bigint;
BEGIN
    PERFORM 1 FROM jobs j WHERE j.job_id = the_job_id AND j.queue = the_queue FOR NO KEY UPDATE;
    IF NOT FOUND THEN RETURN 0; END IF;
    SELECT max(l.attempt) INTO newest FROM logs l WHERE l.job_id = the_job_id AND l.queue = the_queue;
    IF the_attempt > newest THEN
        IF cardinality(runs) = 0 THEN RETURN 0; END IF;
        PERFORM drop_log(the_job_id, the_queue);
    END IF;
    SELECT * INTO kept FROM logs l WHERE l.job_id = the_job_id AND l.queue = the_queue AND l.half = the_half;
    IF the_attempt < newest OR cardinality(runs) = 0 THEN RETURN coalesce(kept.total, 0); END IF;
    IF kept.total IS NULL THEN
        kept := ROW(the_job_id, the_queue, the_half, the_attempt, 0, 0, 0, 0, false)::logs;
    END IF;
    FOR i IN 1 .. cardinality(runs) LOOP
        IF NOT kept.is_head_full AND kept.head_bytes + sizes[i] <= half_bytes THEN
            kept.head_bytes := kept.head_bytes + sizes[i];
            kept.head_lines := kept.head_lines + line_counts[i];
        ELSE
            kept.is_head_full := true;
            kept.tail_bytes := kept.tail_bytes + sizes[i];
        END IF;
        INSERT INTO log_chunks (job_id, queue, half, first, count, size_bytes, lines)
        VALUES (the_job_id, the_queue, the_half, kept.total, line_counts[i], sizes[i], runs[i]);
        kept.total := kept.total + line_counts[i];
        WHILE kept.tail_bytes > half_bytes LOOP
            DELETE FROM log_chunks c WHERE c.job_id = the_job_id AND c.queue = the_queue AND c.half = the_half
                AND c.first = (SELECT min(o.first) FROM log_chunks o WHERE o.job_id = the_job_id
                    AND o.queue = the_queue AND o.half = the_half AND o.first >= kept.head_lines)
            RETURNING c.size_bytes INTO STRICT gone;
            kept.tail_bytes := kept.tail_bytes - gone;
        END LOOP;
    END LOOP;
    INSERT INTO logs SELECT kept.* ON CONFLICT (job_id, queue, half) DO UPDATE SET total = excluded.total,
        head_lines = excluded.head_lines, head_bytes = excluded.head_bytes, tail_bytes = excluded.tail_bytes,
        is_head_full = excluded.is_head_full;
    RETURN kept.total;
END $$;
CREATE FUNCTION read_log(the_job_id text, the_queue text, the_half text, since bigint, max_bytes bigint)
RETURNS TABLE (attempt bigint, total bigint, first bigint, lines bytea) LANGUAGE plpgsql STABLE AS $$
-- A row without lines, then the chunk that holds line ``since``, if it was kept, and those behind it, up to about
-- ``max_bytes``. All from one snapshot, because the function is STABLE.
DECLARE
    begin_at bigint; chunk record;
BEGIN
    SELECT coalesce(max(l.attempt), 0), coalesce(max(l.total) FILTER (WHERE l.half = the_half), 0)
    INTO attempt, total FROM logs l WHERE l.job_id = the_job_id AND l.queue = the_queue;
    RETURN NEXT;
    SELECT coalesce(max(c.first), since) INTO begin_at FROM log_chunks c
    WHERE c.job_id = the_job_id AND c.queue = the_queue AND c.half = the_half AND c.first <= since;
    FOR chunk IN
        SELECT c.first, c.size_bytes, c.lines FROM log_chunks c
        WHERE c.job_id = the_job_id AND c.queue = the_queue AND c.half = the_half AND c.first >= begin_at
        ORDER BY c.first
    LOOP
        first := chunk.first;
        lines := chunk.lines;
        RETURN NEXT;
        IF chunk.first >= since THEN max_bytes := max_bytes - chunk.size_bytes; END IF;
        EXIT WHEN max_bytes < 0;
    END LOOP;
END $$;
CREATE FUNCTION drop_log(the_job_id text, the_queue text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM jobs j WHERE j.job_id = the_job_id AND j.queue = the_queue FOR NO KEY UPDATE;
    DELETE FROM logs l WHERE l.job_id = the_job_id AND l.queue = the_queue;
    DELETE FROM log_chunks c WHERE c.job_id = the_job_id AND c.queue = the_queue;
END $$;
"""

MIGRATIONS: tuple[tuple[str, ...], ...] = ((_TABLES, _SAVE, _DELETE, _FOLD, _LOGS),)
"""What brings a schema from version n to n + 1. Only ever appended to: a new entry replaces a function."""


def _listed(narrowed: str) -> str:
    """One branch per state, each in the order of its index and no longer than the answer: one query over several
    states would sort all that is in them."""
    branches = " UNION ALL ".join(
        f"""(SELECT queued_at, job_id, record FROM jobs WHERE queue = $1 AND {narrowed.format(number)}
        AND {number} = ANY($2::smallint[]) AND (queued_at, job_id) > ($3, $4) ORDER BY queued_at, job_id LIMIT $5)"""
        for number in STATE_NUMBERS.values()
    )
    return f"SELECT record FROM ({branches}) AS found ORDER BY queued_at, job_id LIMIT $5"


STATEMENTS: Mapping[str, str] = {
    "load": """SELECT g.n, j.record FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS g (job_id, queue, n)
        JOIN jobs j ON j.job_id = g.job_id AND j.queue = g.queue""",
    "document": "SELECT data FROM documents WHERE job_id = $1 AND queue = $2 AND name = $3",
    "list": _listed("state = {0}"),
    # State and shape are in one hash; "state + 0" keeps the planner from the index of states, which it likes as well.
    "list_shape": _listed(
        "hashtextextended(shape, state) = hashtextextended($6::text, {0}) AND shape = $6 AND state + 0 = {0}"
    ),
    "find": "SELECT record FROM jobs WHERE job_id = $1 ORDER BY queued_at, queue LIMIT $2",
    "due": "SELECT record FROM jobs WHERE due_at <= $1 ORDER BY due_at LIMIT $2",
    "in_namespace": """SELECT record FROM (
        (SELECT queued_at, job_id, record FROM jobs WHERE queue = $1 AND namespace = $2
            ORDER BY queued_at, job_id LIMIT $3)
        UNION ALL
        (SELECT m.queued_at, m.job_id, j.record FROM memberships m JOIN jobs j ON j.job_id = m.job_id AND j.queue = $1
            WHERE m.queue = $1 AND m.namespace = $2 ORDER BY m.queued_at, m.job_id LIMIT $3)
        ) AS found ORDER BY queued_at, job_id LIMIT $3""",
    "counts": """SELECT state, shape, sum(n)::bigint FROM counts WHERE queue = $1
        GROUP BY state, shape HAVING sum(n) <> 0""",
    "scan": """SELECT job_id, queue, record FROM jobs WHERE (job_id, queue) > ($1, $2)
        ORDER BY job_id, queue LIMIT $3""",
    "save": "SELECT save_jobs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    "delete": "SELECT delete_job($1, $2, $3)",
    "fold": "SELECT fold_counts()",
    "append_log": "SELECT append_log($1, $2, $3, $4, $5, $6, $7, $8)",
    "read_log": "SELECT attempt, total, first, lines FROM read_log($1, $2, $3, $4, $5)",
    "drop_log": "SELECT drop_log($1, $2)",
    "lead": """INSERT INTO roles AS r (role, holder, kept_at, kept_before)
        VALUES ($1, $2, extract(epoch FROM clock_timestamp()), 0)
        ON CONFLICT (role) DO UPDATE SET holder = excluded.holder, kept_at = excluded.kept_at, kept_before = r.kept_at
        WHERE r.holder = excluded.holder OR excluded.kept_at - r.kept_at >= $3
        RETURNING greatest(kept_at - kept_before, 0)""",
    "clock": "SELECT extract(epoch FROM clock_timestamp())::float8",
    "settings": "SELECT current_setting('fsync'), current_setting('synchronous_commit')",
    "publish": "SELECT count(pg_notify(channel, piece)) FROM unnest($1::text[], $2::text[]) AS given (channel, piece)",
}
"""Every statement that runs after a schema is ready, by name."""


async def migrate(connection: Connection, schema: str) -> None:
    """Bring the schema to this release's form, in one transaction; many servers may do this at once.

    Errors: ConfigError when a newer release wrote it, or when it holds another program's tables; nothing is changed.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('asman schema ' || $1, 0))", schema)
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
            await connection.execute(f'CREATE SCHEMA "{schema}"')
        present = await _present(connection, schema)
        for statements in MIGRATIONS[present:]:
            for statement in statements:
                await connection.execute(statement)
        if present < len(MIGRATIONS):
            await connection.execute("UPDATE schema_version SET version = $1", len(MIGRATIONS))


async def _present(connection: Connection, schema: str) -> int:
    """The version that is there, 0 for a new schema, in which the table that tells it is made."""
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    if not tables:
        await connection.execute("CREATE TABLE schema_version (version integer NOT NULL)")
        await connection.execute("INSERT INTO schema_version (version) VALUES (0)")
    elif "schema_version" not in {row[0] for row in tables}:
        raise ConfigError(
            f'the schema "{schema}" holds another program\'s tables', hint="Name another with ?schema=name in the URL."
        )
    present = int(await connection.fetchval("SELECT version FROM schema_version"))
    if present > len(MIGRATIONS):
        raise ConfigError(
            f'the schema "{schema}" has version {present}, written by a newer asman; this release knows up to'
            f" {len(MIGRATIONS)}",
            hint="Start the newer release again, or name another schema with ?schema=name in the URL.",
        )
    return present
