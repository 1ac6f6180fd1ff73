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

CREATE FUNCTION pgtrickle.create_stream_table_if_not_exists(
    name text,
    query text,
    schedule text DEFAULT 'calculated',
    refresh_mode text DEFAULT 'AUTO',
    initialize boolean DEFAULT true,
    diamond_consistency text DEFAULT NULL,
    diamond_schedule_policy text DEFAULT NULL
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'create_stream_table_if_not_exists_wrapper';
COMMENT ON FUNCTION pgtrickle.create_stream_table_if_not_exists IS 'creates a stream table unless it exists';

CREATE FUNCTION pgtrickle.create_or_replace_stream_table(
    name text,
    query text,
    schedule text DEFAULT 'calculated',
    refresh_mode text DEFAULT 'AUTO',
    initialize boolean DEFAULT true,
    diamond_consistency text DEFAULT NULL,
    diamond_schedule_policy text DEFAULT NULL
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'create_or_replace_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.create_or_replace_stream_table IS 'creates a stream table or makes an existing one equal to this definition';

CREATE FUNCTION pgtrickle.alter_stream_table(
    name text,
    query text DEFAULT NULL,
    schedule text DEFAULT NULL,
    refresh_mode text DEFAULT NULL,
    status text DEFAULT NULL,
    diamond_consistency text DEFAULT NULL,
    diamond_schedule_policy text DEFAULT NULL,
    tier text DEFAULT NULL,
    fuse text DEFAULT NULL,
    fuse_ceiling bigint DEFAULT NULL
) RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'alter_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.alter_stream_table IS 'changes a stream table; NULL leaves a property as it is';

CREATE FUNCTION pgtrickle.drop_stream_table(name text, cascade boolean DEFAULT false)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'drop_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.drop_stream_table IS 'drops a stream table';

CREATE FUNCTION pgtrickle.refresh_stream_table(name text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'refresh_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.refresh_stream_table IS 'brings a stream table and what it reads to the current state';

CREATE FUNCTION pgtrickle.refresh_if_stale(name text, max_age interval DEFAULT '5 minutes')
    RETURNS boolean LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'refresh_if_stale_wrapper';
COMMENT ON FUNCTION pgtrickle.refresh_if_stale IS 'refreshes a stream table if it is staler than max_age; true if it was';

CREATE FUNCTION pgtrickle.pause_stream_table(name text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pause_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.pause_stream_table IS 'takes a stream table out of the schedule';

CREATE FUNCTION pgtrickle.resume_stream_table(name text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'resume_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.resume_stream_table IS 'puts a stream table back into the schedule and clears its errors';

CREATE FUNCTION pgtrickle.pause_all() RETURNS int LANGUAGE c AS 'MODULE_PATHNAME', 'pause_all_wrapper';
COMMENT ON FUNCTION pgtrickle.pause_all IS 'pauses every stream table of the caller';

CREATE FUNCTION pgtrickle.resume_all() RETURNS int LANGUAGE c AS 'MODULE_PATHNAME', 'resume_all_wrapper';
COMMENT ON FUNCTION pgtrickle.resume_all IS 'resumes every stream table of the caller';

CREATE FUNCTION pgtrickle.compare_stream_table(
    name text,
    mode text,
    OUT ok boolean,
    OUT missing bigint,
    OUT surplus bigint,
    OUT checked_rows bigint,
    OUT snapshot text
) RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'verify_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.compare_stream_table IS 'what verify_stream_table() is made of';

CREATE FUNCTION pgtrickle.verify_stream_table(
    name text,
    mode text DEFAULT 'rows',
    OUT ok boolean,
    OUT missing bigint,
    OUT surplus bigint,
    OUT checked_rows bigint,
    OUT snapshot pg_snapshot
) RETURNS SETOF record LANGUAGE sql STRICT AS
    'SELECT v.ok, v.missing, v.surplus, v.checked_rows, v.snapshot::pg_catalog.pg_snapshot
     FROM pgtrickle.compare_stream_table(name, mode) AS v(ok, missing, surplus, checked_rows, snapshot)';
COMMENT ON FUNCTION pgtrickle.verify_stream_table IS 'compares a stream table with its query at one snapshot';

CREATE FUNCTION pgtrickle.repair_stream_table(
    name text,
    dry_run boolean DEFAULT false,
    OUT op text,
    OUT "row" jsonb
) RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'repair_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.repair_stream_table IS 'makes a stream table equal to its query and reports what was different';

CREATE FUNCTION pgtrickle.export_definition(name text)
    RETURNS text LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'export_definition_wrapper';
COMMENT ON FUNCTION pgtrickle.export_definition IS 'a script that creates the stream table again';

-- All or nothing: the function runs in the caller's transaction.
CREATE FUNCTION pgtrickle.bulk_create(definitions jsonb) RETURNS jsonb LANGUAGE plpgsql STRICT AS $$
DECLARE
    definition jsonb;
    created jsonb := '[]';
BEGIN
    IF pg_catalog.jsonb_typeof(definitions) <> 'array' THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'definitions must be a JSON array',
            HINT = 'Each element is an object with the arguments of create_stream_table().';
    END IF;
    FOR definition IN SELECT d FROM pg_catalog.jsonb_array_elements(definitions) AS d LOOP
        PERFORM pgtrickle.create_stream_table(
            name => definition ->> 'name',
            query => definition ->> 'query',
            schedule => COALESCE(definition ->> 'schedule', 'calculated'),
            refresh_mode => COALESCE(definition ->> 'refresh_mode', 'AUTO'),
            initialize => COALESCE((definition ->> 'initialize')::boolean, true),
            diamond_consistency => definition ->> 'diamond_consistency',
            diamond_schedule_policy => definition ->> 'diamond_schedule_policy');
        created := created || pg_catalog.jsonb_build_array(definition -> 'name');
    END LOOP;
    RETURN created;
END
$$;
COMMENT ON FUNCTION pgtrickle.bulk_create IS 'creates several stream tables, all or none';

CREATE FUNCTION pgtrickle.rotate_change_buffer(source text, force boolean DEFAULT false)
    RETURNS boolean LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'rotate_change_buffer_wrapper';
COMMENT ON FUNCTION pgtrickle.rotate_change_buffer IS 'rotates the change log of a source; true if anything was switched or truncated';
