-- Triggers.

CREATE FUNCTION pgtrickle.capture() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'pgt_capture';
COMMENT ON FUNCTION pgtrickle.capture() IS 'logs changes of a source of stream tables';

CREATE FUNCTION pgtrickle.refuse_write() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'pgt_refuse_write';
COMMENT ON FUNCTION pgtrickle.refuse_write() IS 'keeps a stream table from being written directly';

CREATE FUNCTION pgtrickle.on_ddl_end() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'pgt_on_ddl_end';
CREATE FUNCTION pgtrickle.on_drop() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'pgt_on_drop';
CREATE FUNCTION pgtrickle.on_rewrite() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'pgt_on_rewrite';

CREATE EVENT TRIGGER pgt_on_ddl_end ON ddl_command_end EXECUTE FUNCTION pgtrickle.on_ddl_end();
CREATE EVENT TRIGGER pgt_on_drop ON sql_drop EXECUTE FUNCTION pgtrickle.on_drop();
CREATE EVENT TRIGGER pgt_on_rewrite ON table_rewrite EXECUTE FUNCTION pgtrickle.on_rewrite();
ALTER EVENT TRIGGER pgt_on_ddl_end ENABLE ALWAYS;
ALTER EVENT TRIGGER pgt_on_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER pgt_on_rewrite ENABLE ALWAYS;
