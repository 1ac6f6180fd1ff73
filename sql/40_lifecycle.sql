-- Defining and refreshing stream tables. No SET clauses here: names and queries are the caller's, read with the caller's
-- search_path; everything internal runs with a pinned one.

CREATE FUNCTION pgtrickle.create_stream_table(
    name text,
    query text,
    schedule text DEFAULT 'calculated',
    refresh_mode text DEFAULT 'AUTO',
    initialize boolean DEFAULT true,
    diamond_consistency text DEFAULT NULL,
    diamond_schedule_policy text DEFAULT NULL
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'create_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.create_stream_table IS 'creates a stream table: a table defined by a query and kept equal to it';

CREATE FUNCTION pgtrickle.drop_stream_table(name text, cascade boolean DEFAULT false)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'drop_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.drop_stream_table IS 'drops a stream table';

CREATE FUNCTION pgtrickle.refresh_stream_table(name text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'refresh_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.refresh_stream_table IS 'brings a stream table and what it reads to the current state';

CREATE FUNCTION pgtrickle.verify_stream_table(
    name text,
    mode text DEFAULT 'rows',
    OUT ok boolean,
    OUT missing bigint,
    OUT surplus bigint,
    OUT checked_rows bigint,
    OUT snapshot text
) RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'verify_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.verify_stream_table IS 'compares a stream table with its query at one snapshot';
