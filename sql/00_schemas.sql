-- Schemas. Everything in them that is not a defining view belongs to the extension.

\echo Use "CREATE EXTENSION pg_trickle" to load this file. \quit

CREATE SCHEMA pgtrickle;
CREATE SCHEMA pgtrickle_defs;
CREATE SCHEMA pgtrickle_changes;
CREATE SCHEMA pgtrickle_stages;

COMMENT ON SCHEMA pgtrickle IS 'pg_trickle: functions and catalog';
COMMENT ON SCHEMA pgtrickle_defs IS 'pg_trickle: defining queries of stream tables, as views';
COMMENT ON SCHEMA pgtrickle_changes IS 'pg_trickle: change logs';
COMMENT ON SCHEMA pgtrickle_stages IS 'pg_trickle: intermediate results of stream tables';

-- Names in these schemas are reached only from statements that run as the owner of a stream table; what the owner may
-- read is decided by grants on the relations themselves.
GRANT USAGE ON SCHEMA pgtrickle, pgtrickle_defs, pgtrickle_changes, pgtrickle_stages TO PUBLIC;
