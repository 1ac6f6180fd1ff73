-- What delta statements call.

CREATE FUNCTION pgtrickle.image(VARIADIC "any") RETURNS bytea
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgt_image';
COMMENT ON FUNCTION pgtrickle.image(VARIADIC "any") IS 'the stored bytes of the values, encoded injectively';

CREATE FUNCTION pgtrickle.image_hash(VARIADIC "any") RETURNS bigint
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgt_image_hash';
COMMENT ON FUNCTION pgtrickle.image_hash(VARIADIC "any") IS 'a 64-bit hash of the stored bytes of the values';

CREATE FUNCTION pgtrickle.row_hash(VARIADIC "any") RETURNS bigint
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgt_row_hash';
COMMENT ON FUNCTION pgtrickle.row_hash(VARIADIC "any") IS 'a 64-bit hash; values equal under their type''s = hash alike';

CREATE FUNCTION pgtrickle.pgt_give_up() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgt_give_up_wrapper';
COMMENT ON FUNCTION pgtrickle.pgt_give_up() IS 'ends a delta statement that does not know the new rows';
