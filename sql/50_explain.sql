-- Looking inside.

CREATE FUNCTION pgtrickle.explain_stream_table(name text, stage text DEFAULT 'summary')
    RETURNS text LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'explain_stream_table_wrapper';
COMMENT ON FUNCTION pgtrickle.explain_stream_table IS 'one stage of a stream table''s way from query to SQL: summary, rel, rewritten, delta, sql, apply, plan';

CREATE FUNCTION pgtrickle.explain_delta(name text, format text DEFAULT 'text')
    RETURNS SETOF text LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'explain_delta_wrapper';
COMMENT ON FUNCTION pgtrickle.explain_delta IS 'EXPLAIN of the delta statement';

CREATE FUNCTION pgtrickle.validate_query(
    query text,
    OUT node text,
    OUT class text,
    OUT reason text,
    OUT hint text
) RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'validate_query_wrapper';
COMMENT ON FUNCTION pgtrickle.validate_query IS 'how a query would be maintained, operator by operator, before anything is created';

CREATE FUNCTION pgtrickle.scheduler_pid() RETURNS int LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'scheduler_pid_wrapper';
COMMENT ON FUNCTION pgtrickle.scheduler_pid IS 'process id of this database''s scheduler, NULL if none is running';
