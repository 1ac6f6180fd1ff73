-- Names and states of stream tables, what they have not seen yet, and since when. Everything is for many stream tables in one
-- pass: a view that asks row by row takes minutes where there are thousands.

---------------------------------------------------------------------------------------------------- names

CREATE FUNCTION pgtrickle.pgt_lookup(name text) RETURNS bigint LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    relation pg_catalog.oid;
    found_id bigint;
BEGIN
    relation := pg_catalog.to_regclass(name);
    IF relation IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = pg_catalog.format('stream table "%s" does not exist', name),
            HINT = 'pgtrickle.pgt_status() lists the stream tables of this database.';
    END IF;
    SELECT st.pgt_id INTO found_id FROM pgtrickle.pgt_stream_tables st
    WHERE st.pgt_relid OPERATOR(pg_catalog.=) relation AND st.stage_query IS NULL;
    IF found_id IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = pg_catalog.format('"%s" is not a stream table', name),
            HINT = 'pgtrickle.pgt_status() lists the stream tables of this database.';
    END IF;
    RETURN found_id;
END $$;
COMMENT ON FUNCTION pgtrickle.pgt_lookup IS 'the id of the stream table a name stands for; 42P01 if there is none';

CREATE FUNCTION pgtrickle.pgt_lookup_source(name text) RETURNS oid LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    relation pg_catalog.oid;
BEGIN
    relation := pg_catalog.to_regclass(name);
    IF relation IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = pg_catalog.format('relation "%s" does not exist', name),
            HINT = 'pgtrickle.change_buffer_sizes() lists the sources whose changes are captured.';
    END IF;
    IF NOT EXISTS (SELECT FROM pgtrickle.pgt_change_sources s WHERE s.source OPERATOR(pg_catalog.=) relation) THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_table',
            MESSAGE = pg_catalog.format('changes of "%s" are not captured', name),
            HINT = 'pgtrickle.change_buffer_sizes() lists the sources whose changes are captured.';
    END IF;
    RETURN relation;
END $$;
COMMENT ON FUNCTION pgtrickle.pgt_lookup_source IS 'the captured relation a name stands for; 42P01 if there is none';

CREATE FUNCTION pgtrickle.pgt_name(relation oid) RETURNS text LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    -- Nothing that would keep it from being inlined: lists call it thousands of times.
    SELECT (pg_identify_object('pg_class'::regclass, relation, 0)).identity;
END;
COMMENT ON FUNCTION pgtrickle.pgt_name IS 'schema and name of a relation, quoted where necessary';

CREATE FUNCTION pgtrickle.version() RETURNS text LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT extversion FROM pg_extension WHERE extname = 'pg_trickle';
END;
COMMENT ON FUNCTION pgtrickle.version IS 'the version of the extension in this database';

---------------------------------------------------------------------------------------------------- states

-- A stream table with its intermediate results, which are refreshed with it. In two parts, so that either id is looked up in
-- an index.
CREATE VIEW pgtrickle.pgt_units AS
    SELECT pgt_id, pgt_id AS unit FROM pgtrickle.pgt_stream_tables WHERE stage_query IS NULL
    UNION ALL
    SELECT pgt_id, stage FROM pgtrickle.pgt_stages;
COMMENT ON VIEW pgtrickle.pgt_units IS 'what is stored for each stream table: itself and its intermediate results';

CREATE VIEW pgtrickle.pgt_consumed AS
    SELECT s.pgt_id AS unit, u.upstream, u.version
    FROM pgtrickle.pgt_refresh_state s, unnest(s.upstream, s.consumed) AS u (upstream, version);
COMMENT ON VIEW pgtrickle.pgt_consumed IS 'which versions of what it reads each stream table or intermediate result has consumed';

CREATE VIEW pgtrickle.pgt_upstream_versions AS
    SELECT u.pgt_id, c.upstream, min(c.version) AS version
    FROM pgtrickle.pgt_units u JOIN pgtrickle.pgt_consumed c ON c.unit = u.unit
    JOIN pgtrickle.pgt_stream_tables st ON st.pgt_id = c.upstream AND st.stage_query IS NULL
    GROUP BY u.pgt_id, c.upstream;
COMMENT ON VIEW pgtrickle.pgt_upstream_versions IS 'which version of the stream tables it reads each stream table has consumed';

CREATE FUNCTION pgtrickle.pgt_is_here(cluster bigint, database oid) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgt_is_here_wrapper';
COMMENT ON FUNCTION pgtrickle.pgt_is_here IS 'whether these are this cluster and database';

CREATE FUNCTION pgtrickle.pgt_frontier_usable(base pg_snapshot, cluster bigint, database oid) RETURNS boolean
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT COALESCE(pgtrickle.pgt_is_here(cluster, database)
        AND pg_snapshot_xmax(base) <= pg_snapshot_xmax(pg_current_snapshot()), false);
END;
COMMENT ON FUNCTION pgtrickle.pgt_frontier_usable IS 'whether a frontier was taken in this database of this cluster';

CREATE VIEW pgtrickle.pgt_states AS
    SELECT st.pgt_id, st.pgt_relid::oid AS relid, n.nspname AS schema_name, c.relname AS table_name,
        format('%I.%I', n.nspname, c.relname) AS name, c.relowner AS owner, st.def_view, st.schedule, st.refresh_mode,
        CASE WHEN s.from_view THEN 'FULL' ELSE st.effective_refresh_mode END AS effective_refresh_mode,
        CASE WHEN s.from_view THEN 'rows that are equal under an ORDER BY decide' ELSE st.downgrade_reason END AS downgrade_reason,
        st.downgrade_hint, st.status, st.created_at, st.altered_at,
        COALESCE(s.is_populated, false) AS is_populated, u.data_timestamp, u.last_refresh_at,
        COALESCE(u.needs_reinit, false) AS needs_reinit, u.reinit_reason,
        COALESCE(s.consecutive_errors, 0) AS consecutive_errors, s.last_error_at, s.last_error_sqlstate,
        s.last_error_message, s.retry_at, s.data_version
    FROM pgtrickle.pgt_stream_tables st
    JOIN pg_class c ON c.oid = st.pgt_relid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pgtrickle.pgt_refresh_state s ON s.pgt_id = st.pgt_id
    CROSS JOIN LATERAL (
        -- What others use as well has been refreshed with them.
        SELECT max(r.data_timestamp) FILTER (WHERE own.own) AS data_timestamp, max(r.last_refresh_at) FILTER (WHERE own.own) AS last_refresh_at,
            bool_or(r.needs_reinit OR NOT pgtrickle.pgt_frontier_usable(r.frontier_base, r.frontier_cluster, r.frontier_db))
                FILTER (WHERE r.is_populated) AS needs_reinit,
            string_agg(DISTINCT CASE WHEN r.needs_reinit THEN COALESCE(r.reinit_reason, 'definition changed')
                ELSE 'frontier of another cluster' END, ', ') FILTER (WHERE r.is_populated AND (r.needs_reinit
                OR NOT pgtrickle.pgt_frontier_usable(r.frontier_base, r.frontier_cluster, r.frontier_db))) AS reinit_reason
        FROM pgtrickle.pgt_units unit JOIN pgtrickle.pgt_refresh_state r ON r.pgt_id = unit.unit,
            LATERAL (SELECT NOT EXISTS (SELECT FROM pgtrickle.pgt_stages x WHERE x.stage = unit.unit AND x.pgt_id <> st.pgt_id) AS own) own
        WHERE unit.pgt_id = st.pgt_id
    ) u
    WHERE st.stage_query IS NULL;
COMMENT ON VIEW pgtrickle.pgt_states IS 'definition and state of each stream table; its staleness is left to pgt_stalenesses';

---------------------------------------------------------------------------------------------------- pending changes

CREATE FUNCTION pgtrickle.pgt_unseen(units bigint[], count_rows boolean)
    RETURNS TABLE (unit bigint, source oid, pending bigint, oldest bigint)
    LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    log record;
    later text;
    open_then text;
    bounds text;
    counts text;
BEGIN
    -- Each log is looked at once, for all its readers; one without pages has nothing for anybody.
    FOR log IN
        SELECT reads.source, reads.by_version, reads.readers, reads.frontiers, reads.consumed, reads.some_were_open, segments.names
        FROM (
            SELECT d.source::oid AS source, up.pgt_id IS NOT NULL AS by_version, array_agg(s.pgt_id) AS readers,
                array_agg(s.frontier_base) AS frontiers, array_agg(COALESCE(v.version, 0)) AS consumed,
                bool_or(pg_snapshot_xmin(s.frontier_base) <> pg_snapshot_xmax(s.frontier_base)) AS some_were_open
            FROM pgtrickle.pgt_refresh_state s
            JOIN pgtrickle.pgt_dependencies d ON d.pgt_id = s.pgt_id
            LEFT JOIN pgtrickle.pgt_stream_tables up ON up.pgt_relid = d.source
            LEFT JOIN pgtrickle.pgt_consumed v ON v.unit = s.pgt_id AND v.upstream = up.pgt_id
            WHERE s.pgt_id = ANY (units)
            GROUP BY d.source, up.pgt_id
        ) reads CROSS JOIN LATERAL (
            SELECT array_agg(pgtrickle.pgt_name(g.relid)) AS names FROM pgtrickle.pgt_change_segments g
            WHERE g.source = reads.source AND pg_relation_size(g.relid) > 0 AND pgtrickle.pgt_name(g.relid) IS NOT NULL
        ) segments
        WHERE segments.names IS NOT NULL
    LOOP
        IF log.by_version THEN
            later := '%2$s FROM %1$s WHERE version > r.consumed %3$s';
            open_then := NULL;
        ELSE
            later := '%2$s FROM %1$s WHERE xid >= pg_snapshot_xmax(r.frontier) %3$s';
            IF log.some_were_open THEN
                open_then := '%2$s FROM %1$s WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(r.frontier))) %3$s';
            ELSE
                open_then := NULL;
            END IF;
        END IF;
        SELECT string_agg(format(format('(%s)', part), name, format('SELECT %I AS position', positions.named),
                format('ORDER BY %I LIMIT 1', positions.named)), ' UNION ALL '),
            string_agg(format(part, name, 'SELECT count(*) AS n', ''), ' UNION ALL ')
        INTO bounds, counts
        FROM unnest(log.names) AS name, unnest(ARRAY[later, open_then]) AS part,
            (SELECT CASE WHEN log.by_version THEN 'version' ELSE 'xid' END) AS positions (named)
        WHERE part IS NOT NULL;
        BEGIN
            RETURN QUERY EXECUTE format(
                'SELECT r.unit, $4, %s, b.oldest FROM unnest($1, $2, $3) AS r (unit, frontier, consumed),
                 LATERAL (SELECT min(position)::text::bigint AS oldest FROM (%s) p) b WHERE b.oldest IS NOT NULL',
                CASE WHEN count_rows THEN format('(SELECT sum(n)::bigint FROM (%s) c)', counts) ELSE 'NULL::bigint' END, bounds)
                USING log.readers, log.frontiers, log.consumed, log.source;
        EXCEPTION WHEN undefined_table THEN
            -- The log went away meanwhile: nobody reads it any more.
            CONTINUE;
        END;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgtrickle.pgt_unseen IS
    'logged changes that stream tables and intermediate results have not seen: how many, and the first transaction or version';

CREATE FUNCTION pgtrickle.pgt_pending(units bigint[], count_rows boolean)
    RETURNS TABLE (unit bigint, source oid, pending bigint, oldest bigint, since timestamptz)
    LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH wanted AS MATERIALIZED (
        SELECT s.pgt_id, s.data_timestamp, s.frontier_cluster, s.frontier_db,
            s.needs_reinit OR NOT pgtrickle.pgt_frontier_usable(s.frontier_base, s.frontier_cluster, s.frontier_db) AS rebuild
        FROM pgtrickle.pgt_refresh_state s WHERE s.pgt_id = ANY (units) AND s.is_populated
    ), unknown AS MATERIALIZED (
        -- Nothing tells whether it has changed: not captured, or emptied with its log by a crash.
        SELECT w.pgt_id, d.source::oid AS source, w.data_timestamp
        FROM wanted w JOIN pgtrickle.pgt_dependencies d ON d.pgt_id = w.pgt_id
        LEFT JOIN pgtrickle.pgt_change_sources c ON c.source = d.source
        WHERE NOT w.rebuild AND (d.source_type = 'uncaptured' OR (c.unlogged AND NOT EXISTS (
            SELECT FROM pgtrickle.pgt_unlogged_alive a WHERE a.source = d.source AND a.pgt_id = d.pgt_id)))
    ), unseen AS MATERIALIZED (
        SELECT f.unit, f.source, f.pending, f.oldest, up.pgt_id AS upstream, w.data_timestamp, w.frontier_cluster, w.frontier_db
        FROM pgtrickle.pgt_unseen(ARRAY(SELECT w.pgt_id FROM wanted w WHERE NOT w.rebuild), count_rows) f
        JOIN wanted w ON w.pgt_id = f.unit
        LEFT JOIN pgtrickle.pgt_stream_tables up ON up.pgt_relid = f.source
        WHERE NOT EXISTS (SELECT FROM unknown u WHERE u.pgt_id = f.unit AND u.source = f.source)
    ), refreshed AS (
        -- Whatever does not see the oldest change was refreshed before that change was committed.
        SELECT m.unit, m.source, max(m.data_timestamp)
            OVER (PARTITION BY m.frontier_cluster, m.frontier_db ORDER BY m.position) AS before
        FROM (
            SELECT NULL::bigint AS unit, NULL::oid AS source, o.data_timestamp, o.frontier_cluster, o.frontier_db,
                pg_snapshot_xmax(o.frontier_base)::text::bigint AS position
            FROM pgtrickle.pgt_refresh_state o
            WHERE o.frontier_base IS NOT NULL AND EXISTS (SELECT FROM unseen WHERE upstream IS NULL)
            UNION ALL
            SELECT unit, source, NULL, frontier_cluster, frontier_db, oldest FROM unseen WHERE upstream IS NULL
        ) m
    )
    SELECT w.pgt_id, NULL::oid, NULL::bigint, NULL::bigint, w.data_timestamp FROM wanted w WHERE w.rebuild
    UNION ALL
    SELECT u.pgt_id, u.source, NULL, NULL, u.data_timestamp FROM unknown u
    UNION ALL
    SELECT f.unit, f.source, f.pending, f.oldest, GREATEST(f.data_timestamp, r.before)
    FROM unseen f JOIN refreshed r ON r.unit = f.unit AND r.source = f.source
    UNION ALL
    -- The refresh that made the first version not consumed.
    SELECT f.unit, f.source, f.pending, f.oldest, GREATEST(f.data_timestamp, (
        SELECT h.data_timestamp FROM pgtrickle.pgt_refresh_history h
        WHERE h.pgt_id = f.upstream AND h.status = 'COMPLETED' AND h.rows_inserted + h.rows_updated + h.rows_deleted > 0
        ORDER BY h.refresh_id DESC LIMIT 1 OFFSET GREATEST(us.data_version - COALESCE(v.version, 0) - 1, 0)))
    FROM unseen f LEFT JOIN pgtrickle.pgt_refresh_state us ON us.pgt_id = f.upstream
    LEFT JOIN pgtrickle.pgt_consumed v ON v.unit = f.unit AND v.upstream = f.upstream
    WHERE f.upstream IS NOT NULL;
END;
COMMENT ON FUNCTION pgtrickle.pgt_pending IS
    'sources with changes that stream tables or intermediate results have not seen, and since when at the earliest; a row without source asks for a rebuild';

---------------------------------------------------------------------------------------------------- staleness

CREATE FUNCTION pgtrickle.pgt_stale_since(stream_table bigint) RETURNS timestamptz LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    WITH RECURSIVE involved (pgt_id) AS (
        SELECT stream_table
        UNION
        SELECT upstream.pgt_id FROM involved
        JOIN pgtrickle.pgt_dependencies d ON d.pgt_id = involved.pgt_id
        JOIN pgtrickle.pgt_stream_tables upstream ON upstream.pgt_relid = d.source
    )
    SELECT min(p.since) FROM pgtrickle.pgt_pending(ARRAY(SELECT pgt_id FROM involved), false) p;
END;
COMMENT ON FUNCTION pgtrickle.pgt_stale_since IS
    'since when, at the earliest, there are changes that a stream table does not show; NULL if it shows everything';

CREATE FUNCTION pgtrickle.pgt_staleness(stream_table bigint) RETURNS interval LANGUAGE sql VOLATILE STRICT
BEGIN ATOMIC
    SELECT CASE WHEN s.is_populated THEN GREATEST(
        COALESCE(clock_timestamp() - pgtrickle.pgt_stale_since(s.pgt_id), '0'::interval), '0'::interval) END
    FROM pgtrickle.pgt_refresh_state s WHERE s.pgt_id = stream_table;
END;
COMMENT ON FUNCTION pgtrickle.pgt_staleness IS 'how long a stream table has not shown all changes; NULL before it is filled';

-- From whatever has pending changes down to its readers, so that the cost is that of what is late.
CREATE VIEW pgtrickle.pgt_stalenesses AS
    WITH RECURSIVE late (pgt_id, since) AS (
        SELECT p.unit, p.since
        FROM pgtrickle.pgt_pending(ARRAY(SELECT s.pgt_id FROM pgtrickle.pgt_refresh_state s), false) p
        UNION
        SELECT d.pgt_id, late.since FROM late
        JOIN pgtrickle.pgt_stream_tables st ON st.pgt_id = late.pgt_id
        JOIN pgtrickle.pgt_dependencies d ON d.source = st.pgt_relid
    )
    SELECT s.pgt_id, CASE WHEN s.is_populated THEN GREATEST(
        COALESCE(clock_timestamp() - stale.since, '0'::interval), '0'::interval) END AS staleness
    FROM pgtrickle.pgt_refresh_state s
    LEFT JOIN (SELECT pgt_id, min(since) AS since FROM late GROUP BY pgt_id) stale ON stale.pgt_id = s.pgt_id;
COMMENT ON VIEW pgtrickle.pgt_stalenesses IS 'pgt_staleness() of every stream table';

CREATE VIEW pgtrickle.pgt_intervals AS
    WITH RECURSIVE wanted (asked, pgt_id, relid, schedule) AS (
        SELECT pgt_id, pgt_id, pgt_relid::oid, lower(btrim(schedule)) FROM pgtrickle.pgt_stream_tables WHERE stage_query IS NULL
        UNION
        SELECT wanted.asked, reader.pgt_id, reader.pgt_relid::oid, lower(btrim(reader.schedule)) FROM wanted
        JOIN pgtrickle.pgt_dependencies d ON d.source::oid = wanted.relid
        JOIN pgtrickle.pgt_units part ON part.unit = d.pgt_id
        JOIN pgtrickle.pgt_stream_tables reader ON reader.pgt_id = part.pgt_id
        WHERE wanted.schedule = 'calculated'
    ), spelled AS MATERIALIZED (
        SELECT w.schedule, CASE WHEN w.schedule = 'continuous' THEN '0'::interval
            WHEN w.schedule <> 'calculated' AND w.schedule !~ '[@ ]' THEN (
                SELECT sum(m[1]::double precision * CASE m[2] WHEN 'ms' THEN '1 ms'::interval WHEN 's' THEN '1 s'
                    WHEN 'm' THEN '1 min' WHEN 'h' THEN '1 h' WHEN 'd' THEN '1 day' WHEN 'w' THEN '7 days' END)
                FROM regexp_matches(w.schedule, '([0-9]+)(ms|s|m|h|d|w)', 'g') m)
            END AS duration, w.schedule ~ '[@ ]' AS is_cron
        FROM (SELECT DISTINCT schedule FROM wanted) w
    ), standing AS (
        SELECT current_setting('pg_trickle.default_schedule_seconds', true)::interval AS duration
    )
    SELECT w.asked AS pgt_id, COALESCE(
        min(CASE WHEN s.is_cron AND w.pgt_id <> w.asked THEN standing.duration ELSE s.duration END),
        min(standing.duration) FILTER (WHERE w.pgt_id = w.asked AND w.schedule = 'calculated')) AS duration
    FROM wanted w JOIN spelled s ON s.schedule = w.schedule, standing
    GROUP BY w.asked;
COMMENT ON VIEW pgtrickle.pgt_intervals IS 'how often each stream table is to be refreshed; NULL for cron schedules';

CREATE FUNCTION pgtrickle.pgt_is_overdue(staleness interval, every interval) RETURNS boolean LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT staleness > GREATEST(10 * every, '1 minute'::interval) AND every IS NOT NULL;
END;
COMMENT ON FUNCTION pgtrickle.pgt_is_overdue IS
    'whether a staleness is more than ten intervals of the schedule, and more than a minute; never for cron schedules';

GRANT SELECT ON pgtrickle.pgt_units, pgtrickle.pgt_upstream_versions, pgtrickle.pgt_states, pgtrickle.pgt_stalenesses,
    pgtrickle.pgt_intervals TO PUBLIC;
