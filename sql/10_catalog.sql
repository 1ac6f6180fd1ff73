-- Catalog. Read through pgtrickle's functions and views; written only by the extension.

CREATE SEQUENCE pgtrickle.pgt_id_seq;
-- Not +1: what a transaction that was rolled back has compiled must not be taken for what comes after it.
CREATE SEQUENCE pgtrickle.pgt_generation_seq;

CREATE TABLE pgtrickle.pgt_stream_tables (
    pgt_id                  bigint PRIMARY KEY DEFAULT nextval('pgtrickle.pgt_id_seq'),
    pgt_relid               regclass NOT NULL UNIQUE,
    def_view                regclass NOT NULL,
    schedule                text NOT NULL,
    refresh_mode            text NOT NULL CHECK (refresh_mode IN ('AUTO', 'DIFFERENTIAL', 'FULL', 'IMMEDIATE')),
    effective_refresh_mode  text NOT NULL CHECK (effective_refresh_mode IN ('DIFFERENTIAL', 'FULL', 'IMMEDIATE')),
    downgrade_reason        text,
    downgrade_hint          text,
    status                  text NOT NULL CHECK (status IN ('INITIALIZING', 'ACTIVE', 'SUSPENDED', 'ERROR')),
    -- name=value of settings under which the query is evaluated: those of the session that created the stream table.
    settings                text[] NOT NULL,
    -- Another one with every change of the definition, its sources or its storage; compiled plans are kept by it.
    generation              bigint NOT NULL DEFAULT nextval('pgtrickle.pgt_generation_seq'),
    -- The storage layout as compiled last; a different one asks for a rebuild.
    layout                  text NOT NULL,
    -- For an intermediate result (a stage): what it keeps. Equal ones of one owner are one.
    stage_query             text,
    diamond_consistency     text,
    diamond_schedule_policy text,
    created_at              timestamptz NOT NULL DEFAULT now(),
    altered_at              timestamptz,
    tier                    text NOT NULL DEFAULT 'hot' CHECK (tier IN ('hot', 'warm', 'cold', 'frozen')),
    fuse                    text NOT NULL DEFAULT 'off' CHECK (fuse IN ('off', 'on')),
    fuse_ceiling            bigint CHECK (fuse_ceiling > 0),
    fuse_blown_at           timestamptz,
    fuse_reason             text,
    -- Its contents change as time passes: it is looked at by its schedule, whether its sources changed or not.
    moves                   boolean NOT NULL DEFAULT false,
    -- The smallest id of the stream tables it is refreshed with, if it belongs to a group.
    consistency_group       bigint
);
CREATE INDEX ON pgtrickle.pgt_stream_tables USING hash (stage_query) WHERE stage_query IS NOT NULL;

-- The stages of each stream table, in the order in which they are maintained. Not dumped.
CREATE TABLE pgtrickle.pgt_stages (
    pgt_id       bigint REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    number       int,
    stage        bigint NOT NULL REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    PRIMARY KEY (pgt_id, number)
);
CREATE INDEX ON pgtrickle.pgt_stages (stage);

-- Compiled forms, for the first session after a restart. Each row says whose it is: to any other build of the library,
-- version of the server, cluster or database it is worth nothing. Not dumped.
CREATE TABLE pgtrickle.pgt_compiled (
    pgt_id     bigint PRIMARY KEY REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    made_by    text NOT NULL,
    compiled   bytea NOT NULL
);

-- What every refresh writes. Not dumped: a restored stream table has no state here and is rebuilt.
CREATE TABLE pgtrickle.pgt_refresh_state (
    pgt_id              bigint PRIMARY KEY REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    is_populated        boolean NOT NULL DEFAULT false,
    frontier_base       pg_snapshot,
    frontier_cluster    bigint,
    frontier_db         oid,
    frontier_wal        pg_lsn,
    data_version        bigint NOT NULL DEFAULT 0,
    -- Consumed versions of upstream stream tables, in the order of upstream.
    upstream            bigint[] NOT NULL DEFAULT '{}',
    consumed            bigint[] NOT NULL DEFAULT '{}',
    data_timestamp      timestamptz,
    last_refresh_at     timestamptz,
    last_full_ms        double precision,
    last_diff_ms        double precision,
    -- A rebuild is asked for by raising one number and done by raising the other, so that a request that arrives
    -- while a refresh is at work is not taken for done by it.
    reinit_requests     bigint NOT NULL DEFAULT 0,
    reinit_done         bigint NOT NULL DEFAULT 0,
    needs_reinit        boolean NOT NULL GENERATED ALWAYS AS (reinit_requests > reinit_done) STORED,
    reinit_reason       text,
    consecutive_errors  int NOT NULL DEFAULT 0,
    last_error_at       timestamptz,
    last_error_sqlstate text,
    last_error_message  text,
    retry_at            timestamptz,
    -- The time at which conditions on it were evaluated, where there are any.
    clock               timestamptz,
    -- Rows that are equal under an ORDER BY decide: the stored rows are those of the view.
    from_view           boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE TABLE pgtrickle.pgt_dependencies (
    pgt_id       bigint NOT NULL REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    source       regclass NOT NULL,
    source_type  text NOT NULL CHECK (source_type IN ('table', 'stream_table', 'stage', 'uncaptured')),
    columns_used smallint[] NOT NULL,
    PRIMARY KEY (pgt_id, source)
);
CREATE INDEX ON pgtrickle.pgt_dependencies (source);

-- Sources with a change log: captured tables and stream tables that are read by others.
CREATE TABLE pgtrickle.pgt_change_sources (
    source      oid PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('table', 'stream_table')),
    layout      int NOT NULL,
    cur_segment int NOT NULL,
    switched_at timestamptz NOT NULL DEFAULT now(),
    unlogged    boolean NOT NULL,
    -- The leaves of the partition tree, or what inherits from the table, when it was last looked at.
    members     oid[] NOT NULL,
    -- The expressions of its generated columns, as hashes.
    generated   jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE pgtrickle.pgt_change_segments (
    source   oid NOT NULL REFERENCES pgtrickle.pgt_change_sources ON DELETE CASCADE,
    layout   int NOT NULL,
    segment  int NOT NULL,
    relid    oid NOT NULL,
    index_id oid NOT NULL,
    -- Attribute numbers of the source whose values are logged.
    columns  smallint[] NOT NULL,
    PRIMARY KEY (source, layout, segment)
);

-- Stream tables that must not be refreshed now, and why: a gated source, watermarks that are not aligned. Without
-- references: who closes a gate must not wait for who changes a definition.
CREATE TABLE pgtrickle.pgt_held (pgt_id bigint PRIMARY KEY, reason text NOT NULL);

-- By which columns of its sources a stream table's plans look rows up.
CREATE TABLE pgtrickle.pgt_lookups (
    pgt_id  bigint NOT NULL REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    source  oid NOT NULL,
    columns smallint[] NOT NULL,
    PRIMARY KEY (pgt_id, source)
);

-- Indexes that are missing there: none begins with one of the columns. Small tables are read as fast without.
CREATE VIEW pgtrickle.pgt_missing_indexes AS
    SELECT l.pgt_id, l.source, c.oid::pg_catalog.regclass::text AS relation,
        pg_catalog.format('CREATE INDEX ON %s (%I)', c.oid::pg_catalog.regclass, a.attname) AS statement
    FROM pgtrickle.pgt_lookups l
    JOIN pg_catalog.pg_class c ON c.oid = l.source
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = l.columns[1]
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = l.source AND i.indisvalid
            AND i.indpred IS NULL AND i.indkey[0] = ANY (l.columns))
        AND CASE c.relkind
            WHEN 'p' THEN (SELECT pg_catalog.sum(pg_catalog.pg_relation_size(t.relid)) FROM pg_catalog.pg_partition_tree(c.oid) t)
            ELSE pg_catalog.pg_relation_size(c.oid) END >= 1024 * 1024;

-- Diamonds and refresh groups, merged where they overlap; made from the definitions, and again after a restore.
CREATE TABLE pgtrickle.pgt_consistency_groups (
    group_id bigint PRIMARY KEY,
    -- Refreshes that changed something, so far.
    epoch    bigint NOT NULL DEFAULT 0
);

CREATE TABLE pgtrickle.pgt_group_members (
    pgt_id         bigint PRIMARY KEY REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    group_id       bigint NOT NULL REFERENCES pgtrickle.pgt_consistency_groups ON DELETE CASCADE,
    is_convergence boolean NOT NULL,
    -- A refresh group asks for it, whatever diamonds say.
    is_wanted      boolean NOT NULL
);
CREATE INDEX ON pgtrickle.pgt_group_members (group_id);

CREATE TABLE pgtrickle.pgt_refresh_groups (
    group_name text NOT NULL,
    pgt_id     bigint NOT NULL REFERENCES pgtrickle.pgt_stream_tables ON DELETE CASCADE,
    PRIMARY KEY (group_name, pgt_id)
);

CREATE TABLE pgtrickle.pgt_source_gates (
    source   oid PRIMARY KEY,
    gated_at timestamptz NOT NULL DEFAULT now(),
    gated_by text NOT NULL
);

CREATE TABLE pgtrickle.pgt_watermarks (
    source      oid PRIMARY KEY,
    watermark   timestamptz NOT NULL,
    advanced_at timestamptz NOT NULL DEFAULT now(),
    advanced_by text NOT NULL
);

CREATE TABLE pgtrickle.pgt_watermark_groups (
    group_name     text PRIMARY KEY,
    sources        oid[] NOT NULL,
    tolerance_secs double precision NOT NULL CHECK (tolerance_secs >= 0)
);

-- Which readers were built from an unlogged source since the last crash. Empty after a crash, as the sources are: then
-- the readers are rebuilt.
CREATE UNLOGGED TABLE pgtrickle.pgt_unlogged_alive (pgt_id bigint, source oid, PRIMARY KEY (pgt_id, source));

CREATE TABLE pgtrickle.pgt_refresh_history (
    refresh_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pgt_id         bigint NOT NULL,
    data_timestamp timestamptz,
    start_time     timestamptz NOT NULL,
    end_time       timestamptz NOT NULL,
    action         text NOT NULL CHECK (action IN ('NO_DATA', 'DIFFERENTIAL', 'FULL', 'REINITIALIZE', 'SKIP')),
    status         text NOT NULL CHECK (status IN ('COMPLETED', 'FAILED', 'SKIPPED')),
    initiated_by   text NOT NULL CHECK (initiated_by IN ('CREATE', 'MANUAL', 'SCHEDULER', 'REPAIR')),
    reason         text,
    rows_inserted  bigint NOT NULL DEFAULT 0,
    rows_updated   bigint NOT NULL DEFAULT 0,
    rows_deleted   bigint NOT NULL DEFAULT 0,
    delta_rows     bigint NOT NULL DEFAULT 0,
    duration_ms    double precision NOT NULL,
    error_sqlstate text,
    error_message  text
);
CREATE INDEX ON pgtrickle.pgt_refresh_history (pgt_id, refresh_id DESC);

GRANT SELECT ON pgtrickle.pgt_stream_tables, pgtrickle.pgt_stages, pgtrickle.pgt_refresh_state, pgtrickle.pgt_dependencies,
    pgtrickle.pgt_change_sources, pgtrickle.pgt_change_segments, pgtrickle.pgt_refresh_history,
    pgtrickle.pgt_consistency_groups, pgtrickle.pgt_group_members, pgtrickle.pgt_refresh_groups,
    pgtrickle.pgt_source_gates, pgtrickle.pgt_watermarks, pgtrickle.pgt_watermark_groups,
    pgtrickle.pgt_held, pgtrickle.pgt_lookups, pgtrickle.pgt_missing_indexes TO PUBLIC;

-- Definitions are the user's; state, logs and history belong to this cluster.
SELECT pg_catalog.pg_extension_config_dump('pgtrickle.pgt_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgtrickle.pgt_generation_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgtrickle.pgt_stream_tables', 'WHERE stage_query IS NULL');
SELECT pg_catalog.pg_extension_config_dump('pgtrickle.pgt_dependencies',
    'WHERE pgt_id IN (SELECT pgt_id FROM pgtrickle.pgt_stream_tables WHERE stage_query IS NULL) AND source_type <> ''stage''');
SELECT pg_catalog.pg_extension_config_dump('pgtrickle.pgt_refresh_groups', '');
