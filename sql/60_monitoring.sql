-- What stream tables say about themselves. Bodies of the form BEGIN ATOMIC are bound to what they name when they are
-- created; only the name of a stream table is looked up with the caller's search_path. Functions with a definer's rights
-- look into change logs and at other sessions, and return counts and positions only, never rows.

---------------------------------------------------------------------------------------------------- status

CREATE FUNCTION pgtrickle.pgt_status()
    RETURNS TABLE (name text, status text, refresh_mode text, is_populated boolean, consecutive_errors integer,
        schedule text, data_timestamp timestamptz, staleness interval)
    LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT s.name, s.status, s.refresh_mode, s.is_populated, s.consecutive_errors, s.schedule, s.data_timestamp,
        stale.staleness
    FROM pgtrickle.pgt_states s LEFT JOIN pgtrickle.pgt_stalenesses stale ON stale.pgt_id = s.pgt_id ORDER BY s.name;
END;
COMMENT ON FUNCTION pgtrickle.pgt_status IS 'every stream table with its state';

CREATE FUNCTION pgtrickle.get_staleness(name text) RETURNS double precision LANGUAGE sql VOLATILE STRICT
BEGIN ATOMIC
    SELECT extract(epoch FROM pgtrickle.pgt_staleness(pgtrickle.pgt_lookup(get_staleness.name)))::double precision;
END;
COMMENT ON FUNCTION pgtrickle.get_staleness IS
    'seconds for which a stream table has not shown all changes, at most; 0 if it shows everything, NULL before it is filled';

CREATE VIEW pgtrickle.stream_tables_info AS
    SELECT s.pgt_id, s.schema_name, s.table_name, pg_get_userbyid(s.owner) AS owner, s.status, s.schedule, s.refresh_mode,
        s.effective_refresh_mode, s.downgrade_reason, s.is_populated, s.data_timestamp, s.last_refresh_at,
        stale.staleness, COALESCE(pgtrickle.pgt_is_overdue(stale.staleness, wanted.duration), false) AS overdue, s.needs_reinit,
        s.reinit_reason, s.consecutive_errors, s.last_error_at, s.last_error_sqlstate, s.last_error_message, s.retry_at,
        pg_total_relation_size(s.relid) AS total_bytes,
        ARRAY(SELECT DISTINCT pgtrickle.pgt_name(d.source) FROM pgtrickle.pgt_units unit
              JOIN pgtrickle.pgt_dependencies d ON d.pgt_id = unit.unit
              WHERE unit.pgt_id = s.pgt_id AND d.source_type <> 'stage' ORDER BY 1) AS sources,
        pg_get_viewdef(s.def_view) AS defining_query, s.created_at, s.altered_at
    FROM pgtrickle.pgt_states s LEFT JOIN pgtrickle.pgt_stalenesses stale ON stale.pgt_id = s.pgt_id
    LEFT JOIN pgtrickle.pgt_intervals wanted ON wanted.pgt_id = s.pgt_id;
COMMENT ON VIEW pgtrickle.stream_tables_info IS 'every stream table with its definition and state';

---------------------------------------------------------------------------------------------------- history

CREATE FUNCTION pgtrickle.get_refresh_history(name text, max_rows integer DEFAULT 20)
    RETURNS TABLE (refresh_id bigint, data_timestamp timestamptz, start_time timestamptz, end_time timestamptz,
        action text, status text, rows_inserted bigint, rows_updated bigint, rows_deleted bigint, delta_rows bigint,
        duration_ms double precision, reason text, error_message text)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT h.* FROM pgtrickle.pgt_lookup(get_refresh_history.name) AS wanted (pgt_id), LATERAL (
        SELECT r.refresh_id, r.data_timestamp, r.start_time, r.end_time, r.action, r.status, r.rows_inserted,
            r.rows_updated, r.rows_deleted, r.delta_rows, r.duration_ms, r.reason, r.error_message
        FROM pgtrickle.pgt_refresh_history r WHERE r.pgt_id = wanted.pgt_id
        ORDER BY r.refresh_id DESC LIMIT max_rows
    ) h;
END;
COMMENT ON FUNCTION pgtrickle.get_refresh_history IS 'the last refreshes of a stream table, newest first';

CREATE FUNCTION pgtrickle.refresh_timeline(max_rows integer DEFAULT 50)
    RETURNS TABLE (start_time timestamptz, stream_table text, action text, status text, initiated_by text,
        rows_inserted bigint, rows_updated bigint, rows_deleted bigint, delta_rows bigint, duration_ms double precision,
        reason text, error_message text)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT h.start_time, s.name, h.action, h.status, h.initiated_by, h.rows_inserted, h.rows_updated, h.rows_deleted,
        h.delta_rows, h.duration_ms, h.reason, h.error_message
    FROM pgtrickle.pgt_refresh_history h JOIN pgtrickle.pgt_states s ON s.pgt_id = h.pgt_id
    ORDER BY h.refresh_id DESC LIMIT max_rows;
END;
COMMENT ON FUNCTION pgtrickle.refresh_timeline IS 'the last refreshes of all stream tables, newest first';

CREATE VIEW pgtrickle.pg_stat_stream_tables AS
    SELECT s.relid, s.schema_name AS schemaname, s.table_name AS relname, h.*
    FROM pgtrickle.pgt_states s, LATERAL (
        SELECT count(*) AS refreshes,
            count(*) FILTER (WHERE r.status = 'COMPLETED' AND r.action = 'DIFFERENTIAL') AS differential_refreshes,
            count(*) FILTER (WHERE r.status = 'COMPLETED' AND r.action IN ('FULL', 'REINITIALIZE')) AS full_refreshes,
            count(*) FILTER (WHERE r.status = 'FAILED') AS failed_refreshes,
            COALESCE(sum(r.rows_inserted), 0)::bigint AS rows_inserted,
            COALESCE(sum(r.rows_updated), 0)::bigint AS rows_updated,
            COALESCE(sum(r.rows_deleted), 0)::bigint AS rows_deleted,
            COALESCE(sum(r.delta_rows), 0)::bigint AS delta_rows,
            COALESCE(sum(r.duration_ms), 0) AS total_ms,
            avg(r.duration_ms) AS mean_ms,
            max(r.duration_ms) AS max_ms,
            max(r.end_time) FILTER (WHERE r.status = 'COMPLETED') AS last_refresh,
            max(r.end_time) FILTER (WHERE r.status = 'FAILED') AS last_failure
        FROM pgtrickle.pgt_refresh_history r WHERE r.pgt_id = s.pgt_id
    ) h;
COMMENT ON VIEW pgtrickle.pg_stat_stream_tables IS 'refreshes of each stream table, summed up over the history that is kept';

CREATE FUNCTION pgtrickle.st_refresh_stats()
    RETURNS TABLE (stream_table text, status text, refresh_mode text, is_populated boolean, total_refreshes bigint,
        successful_refreshes bigint, failed_refreshes bigint, rows_inserted bigint, rows_updated bigint,
        rows_deleted bigint, avg_duration_ms double precision, max_duration_ms double precision, last_action text,
        last_status text, last_refresh_at timestamptz, staleness interval)
    LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT s.name, s.status, s.refresh_mode, s.is_populated, t.refreshes, t.refreshes - t.failed_refreshes,
        t.failed_refreshes, t.rows_inserted, t.rows_updated, t.rows_deleted, t.mean_ms, t.max_ms, last.action,
        last.status, t.last_refresh, stale.staleness
    FROM pgtrickle.pgt_states s LEFT JOIN pgtrickle.pgt_stalenesses stale ON stale.pgt_id = s.pgt_id
    JOIN pgtrickle.pg_stat_stream_tables t ON t.relid = s.relid
    LEFT JOIN LATERAL (
        SELECT h.action, h.status FROM pgtrickle.pgt_refresh_history h WHERE h.pgt_id = s.pgt_id
        ORDER BY h.refresh_id DESC LIMIT 1
    ) last ON true
    ORDER BY s.name;
END;
COMMENT ON FUNCTION pgtrickle.st_refresh_stats IS 'how often, how long and how well each stream table was refreshed';

CREATE FUNCTION pgtrickle.refresh_efficiency()
    RETURNS TABLE (stream_table text, differential_refreshes bigint, full_refreshes bigint,
        avg_differential_ms double precision, avg_full_ms double precision, speedup double precision,
        delta_rows bigint, rows_changed bigint, ms_per_delta_row double precision, last_full_reason text)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT s.name, h.differential, h.fully, h.differential_ms, h.full_ms, h.full_ms / NULLIF(h.differential_ms, 0),
        h.delta_rows, h.rows_changed, h.total_differential_ms / NULLIF(h.delta_rows, 0), last.reason
    FROM pgtrickle.pgt_states s
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE d) AS differential, count(*) FILTER (WHERE NOT d) AS fully,
            avg(r.duration_ms) FILTER (WHERE d) AS differential_ms, avg(r.duration_ms) FILTER (WHERE NOT d) AS full_ms,
            sum(r.duration_ms) FILTER (WHERE d) AS total_differential_ms,
            COALESCE(sum(r.delta_rows) FILTER (WHERE d), 0)::bigint AS delta_rows,
            COALESCE(sum(r.rows_inserted + r.rows_updated + r.rows_deleted) FILTER (WHERE d), 0)::bigint AS rows_changed
        FROM pgtrickle.pgt_refresh_history r, LATERAL (SELECT r.action = 'DIFFERENTIAL') AS kind (d)
        WHERE r.pgt_id = s.pgt_id AND r.status = 'COMPLETED' AND r.action IN ('DIFFERENTIAL', 'FULL', 'REINITIALIZE')
    ) h
    LEFT JOIN LATERAL (
        SELECT r.reason FROM pgtrickle.pgt_refresh_history r
        WHERE r.pgt_id = s.pgt_id AND r.status = 'COMPLETED' AND r.action IN ('FULL', 'REINITIALIZE')
        ORDER BY r.refresh_id DESC LIMIT 1
    ) last ON true
    ORDER BY s.name;
END;
COMMENT ON FUNCTION pgtrickle.refresh_efficiency IS 'what differential refreshes cost beside full ones, and why the last full one was full';

CREATE FUNCTION pgtrickle.diagnose_errors(name text)
    RETURNS TABLE (failed_at timestamptz, sqlstate text, error_message text, meaning text, advice text)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT e.failed_at, e.code, e.message,
        CASE WHEN e.code = '42501' OR e.class = '28' THEN 'The owner of the stream table may not read something the query reads.'
             WHEN e.class = '22' THEN 'The query fails on rows that its sources hold.'
             WHEN e.class = '23' THEN 'A row of the result violates a constraint or a unique index of the stream table.'
             WHEN e.class = '42' THEN 'Something the query uses was altered or dropped.'
             WHEN e.class = '40' OR e.code IN ('55P03', '55006') THEN 'Another transaction was in the way.'
             WHEN e.class = '57' THEN 'The refresh was cancelled or the server was shut down.'
             WHEN e.class IN ('53', '58', '08') THEN 'The server ran out of a resource or could not read or write.'
             WHEN e.class = '54' THEN 'A limit of the server was exceeded.'
             WHEN e.class = 'XX' THEN 'The refresh found something that should never be.'
             ELSE 'The query or its refresh failed.' END,
        CASE WHEN e.code = '42501' OR e.class = '28' THEN 'Grant the privilege to the owner, then call pgtrickle.resume_stream_table().'
             WHEN e.class = '22' THEN 'Correct the rows, or guard the expression in the query (NULLIF, CASE), then call pgtrickle.resume_stream_table().'
             WHEN e.class = '23' THEN 'Drop the constraint or index from the stream table, then call pgtrickle.resume_stream_table().'
             WHEN e.class = '42' THEN 'Restore what is missing, or give the stream table another query with pgtrickle.alter_stream_table().'
             WHEN e.class IN ('40', '57', '53', '58', '08') OR e.code IN ('55P03', '55006')
                 THEN 'It is tried again by itself; if it goes on, look for long transactions and at the server log.'
             WHEN e.class = 'XX' THEN 'Call pgtrickle.verify_stream_table() and pgtrickle.repair_stream_table(), and report it.'
             ELSE 'Run the defining query by hand to see the error, then call pgtrickle.resume_stream_table().' END
    FROM pgtrickle.pgt_lookup(diagnose_errors.name) AS wanted (pgt_id), LATERAL (
        SELECT f.failed_at, f.code, left(f.code, 2) AS class, f.message FROM (
            SELECT h.end_time AS failed_at, h.error_sqlstate AS code, h.error_message AS message
            FROM pgtrickle.pgt_refresh_history h WHERE h.pgt_id = wanted.pgt_id AND h.status = 'FAILED'
            UNION ALL
            SELECT s.last_error_at, s.last_error_sqlstate, s.last_error_message
            FROM pgtrickle.pgt_refresh_state s
            WHERE s.pgt_id = wanted.pgt_id AND s.last_error_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM pgtrickle.pgt_refresh_history h WHERE h.pgt_id = wanted.pgt_id AND h.status = 'FAILED'
                    AND h.error_message = s.last_error_message)
        ) f ORDER BY f.failed_at DESC LIMIT 5
    ) e;
END;
COMMENT ON FUNCTION pgtrickle.diagnose_errors IS 'the last failures of a stream table, what they mean and what to do';

---------------------------------------------------------------------------------------------------- definition

CREATE FUNCTION pgtrickle.explain_refresh_mode(name text)
    RETURNS TABLE (configured_mode text, effective_mode text, downgrade_reason text)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT st.refresh_mode, CASE WHEN forced.fully OR now.tied THEN 'FULL' ELSE st.effective_refresh_mode END,
        CASE WHEN st.downgrade_reason IS NOT NULL THEN concat_ws('. ', st.downgrade_reason, st.downgrade_hint)
             WHEN forced.fully THEN 'pg_trickle.refresh_strategy is full'
             WHEN now.tied THEN concat_ws('. ', 'rows that are equal under an ORDER BY decide', 'It is incremental again when they '
                 'do not. Order by more columns until no two rows are equal, or ask for DIFFERENTIAL: any of them is right then.') END
    FROM pgtrickle.pgt_lookup(explain_refresh_mode.name) AS wanted (pgt_id), LATERAL (
        SELECT t.* FROM pgtrickle.pgt_stream_tables t WHERE t.pgt_id = wanted.pgt_id OFFSET 0
    ) st, LATERAL (
        SELECT st.effective_refresh_mode <> 'FULL'
            AND COALESCE(lower(current_setting('pg_trickle.refresh_strategy', true)) = 'full', false)
    ) AS forced (fully), LATERAL (
        SELECT EXISTS (SELECT FROM pgtrickle.pgt_refresh_state s WHERE s.pgt_id = wanted.pgt_id AND s.from_view)
    ) AS now (tied);
END;
COMMENT ON FUNCTION pgtrickle.explain_refresh_mode IS 'how a stream table is refreshed, and why not incrementally if it is not';

CREATE FUNCTION pgtrickle.list_sources(name text)
    RETURNS TABLE (source text, source_type text, columns_used text[], captured boolean)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT r.* FROM pgtrickle.pgt_lookup(list_sources.name) AS wanted (pgt_id), LATERAL (
        SELECT pgtrickle.pgt_name(d.source), d.source_type,
            ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = d.source AND a.attnum > 0
                  AND NOT a.attisdropped AND a.attnum IN (
                      SELECT unnest(e.columns_used) FROM pgtrickle.pgt_units u
                      JOIN pgtrickle.pgt_dependencies e ON e.pgt_id = u.unit
                      WHERE u.pgt_id = wanted.pgt_id AND e.source = d.source)
                  ORDER BY a.attnum),
            EXISTS (SELECT FROM pgtrickle.pgt_change_sources c WHERE c.source = d.source)
        FROM (SELECT DISTINCT e.source::oid, e.source_type FROM pgtrickle.pgt_units unit
              JOIN pgtrickle.pgt_dependencies e ON e.pgt_id = unit.unit
              WHERE unit.pgt_id = wanted.pgt_id AND e.source_type <> 'stage') d
        ORDER BY 1 OFFSET 0
    ) r;
END;
COMMENT ON FUNCTION pgtrickle.list_sources IS 'the relations a stream table reads and which of their columns it uses';

CREATE FUNCTION pgtrickle.list_auxiliary_columns(name text)
    RETURNS TABLE (column_name text, data_type text, purpose text)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT stored.value ->> 'name', format_type(a.atttypid, a.atttypmod),
        CASE WHEN stored.value -> 'role' ? 'Key' THEN 'group key that the query does not select'
             WHEN state.kind = '"Rows"' THEN 'rows of the group'
             WHEN state.kind ? 'NonNull' THEN 'inputs of the group that are not null'
             WHEN state.kind ? 'Sum' THEN 'sum of the group''s inputs'
             WHEN state.kind ? 'Scales' THEN 'scales of the group''s inputs, for the sum''s'
             WHEN state.kind ? 'Minimum' THEN 'minimum of the group''s inputs'
             WHEN state.kind ? 'Maximum' THEN 'maximum of the group''s inputs'
             WHEN state.kind ? 'Recompute' THEN 'an aggregate''s value, evaluated again for every changed group'
             ELSE 'state for the next refresh' END
    FROM pgtrickle.pgt_lookup(list_auxiliary_columns.name) AS wanted (pgt_id), LATERAL (
        SELECT t.pgt_relid, t.layout::jsonb AS layout FROM pgtrickle.pgt_stream_tables t
        WHERE t.pgt_id = wanted.pgt_id OFFSET 0
    ) st, jsonb_array_elements(st.layout -> 'columns') WITH ORDINALITY AS stored (value, position), LATERAL (
        SELECT CASE WHEN stored.value -> 'role' ? 'State'
            THEN st.layout -> 'grouped' -> 'states' -> (stored.value -> 'role' ->> 'State')::int -> 'kind' END
    ) AS state (kind), pg_attribute a
    WHERE a.attrelid = st.pgt_relid AND a.attname = stored.value ->> 'name' AND NOT (stored.value ->> 'visible')::boolean
    ORDER BY stored.position;
END;
COMMENT ON FUNCTION pgtrickle.list_auxiliary_columns IS 'hidden columns of a stream table: state kept for the next refresh';

CREATE VIEW pgtrickle.pgt_edges AS
    SELECT DISTINCT d.source::oid AS source, reader.pgt_relid::oid AS reader
    FROM pgtrickle.pgt_dependencies d JOIN pgtrickle.pgt_units part ON part.unit = d.pgt_id
    JOIN pgtrickle.pgt_stream_tables reader ON reader.pgt_id = part.pgt_id
    WHERE d.source_type <> 'stage';
COMMENT ON VIEW pgtrickle.pgt_edges IS 'which stream table reads what';

CREATE FUNCTION pgtrickle.dependency_tree()
    RETURNS TABLE (tree text, name text, kind text, depth integer, status text, schedule text, refresh_mode text)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE edges AS MATERIALIZED (
        SELECT e.source, e.reader, pgtrickle.pgt_name(e.reader) AS name FROM pgtrickle.pgt_edges e
    ), nodes (relid, depth, path) AS (
        SELECT root.relid, 0, ARRAY[pgtrickle.pgt_name(root.relid)] FROM (
            SELECT source AS relid FROM edges UNION SELECT pgt_relid::oid FROM pgtrickle.pgt_stream_tables WHERE stage_query IS NULL
        ) root WHERE NOT EXISTS (SELECT FROM edges e WHERE e.reader = root.relid)
        UNION ALL
        SELECT e.reader, nodes.depth + 1, nodes.path || e.name
        FROM nodes JOIN edges e ON e.source = nodes.relid
        WHERE nodes.depth < 100
    )
    SELECT CASE WHEN nodes.depth = 0 THEN '' ELSE repeat('    ', nodes.depth - 1) || ' -> ' END
            || nodes.path[nodes.depth + 1],
        nodes.path[nodes.depth + 1], CASE WHEN s.pgt_id IS NULL THEN 'table' ELSE 'stream table' END, nodes.depth,
        s.status, s.schedule, s.effective_refresh_mode
    FROM nodes LEFT JOIN pgtrickle.pgt_stream_tables s ON s.pgt_relid = nodes.relid AND s.stage_query IS NULL
    ORDER BY nodes.path;
END;
COMMENT ON FUNCTION pgtrickle.dependency_tree IS 'sources with the stream tables that read them below, directly and through others';

CREATE FUNCTION pgtrickle.explain_dag(format text DEFAULT 'mermaid') RETURNS text
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nodes text;
    edges text;
BEGIN
    IF explain_dag.format NOT IN ('mermaid', 'dot') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown format "%s"', explain_dag.format),
            HINT = 'Use mermaid or dot.';
    END IF;
    SELECT string_agg(CASE explain_dag.format
            WHEN 'dot' THEN format(E'    n%s [label="%s", shape=%s];\n', n.relid,
                replace(replace(pgtrickle.pgt_name(n.relid), '\', '\\'), '"', '\"'),
                CASE WHEN n.stream THEN 'ellipse' ELSE 'box' END)
            ELSE format(CASE WHEN n.stream THEN E'    n%s(["%s"])\n' ELSE E'    n%s["%s"]\n' END, n.relid,
                replace(pgtrickle.pgt_name(n.relid), '"', '#quot;')) END,
        '' ORDER BY pgtrickle.pgt_name(n.relid))
    INTO nodes
    FROM (SELECT relid, bool_or(stream) AS stream FROM (
              SELECT source AS relid, false AS stream FROM pgtrickle.pgt_edges
              UNION ALL SELECT pgt_relid::oid, true FROM pgtrickle.pgt_stream_tables WHERE stage_query IS NULL) r GROUP BY relid) n;
    SELECT string_agg(format(CASE explain_dag.format WHEN 'dot' THEN E'    n%s -> n%s;\n' ELSE E'    n%s --> n%s\n' END,
        e.source, e.reader), '' ORDER BY pgtrickle.pgt_name(e.source), pgtrickle.pgt_name(e.reader))
    INTO edges FROM pgtrickle.pgt_edges e;
    RETURN CASE explain_dag.format
        WHEN 'dot' THEN concat(E'digraph stream_tables {\n    rankdir=LR;\n', nodes, edges, E'}\n')
        ELSE concat(E'graph LR\n', nodes, edges) END;
END $$;
COMMENT ON FUNCTION pgtrickle.explain_dag IS 'sources and stream tables as a graph, for Mermaid or Graphviz';

---------------------------------------------------------------------------------------------------- frontiers

CREATE FUNCTION pgtrickle.pgt_transaction_holder(transaction xid8) RETURNS integer
    LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT a.pid FROM pg_stat_activity a WHERE a.backend_xid = transaction::xid LIMIT 1;
END;
COMMENT ON FUNCTION pgtrickle.pgt_transaction_holder IS 'the process that keeps a transaction open, if one does';

CREATE FUNCTION pgtrickle.get_frontier(name text)
    RETURNS TABLE (base pg_snapshot, data_version bigint, upstream jsonb, data_timestamp timestamptz, usable boolean)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT f.* FROM pgtrickle.pgt_lookup(get_frontier.name) AS wanted (pgt_id), LATERAL (
        SELECT s.frontier_base, own.data_version,
            (SELECT COALESCE(jsonb_object_agg(pgtrickle.pgt_name(up.pgt_relid), v.version), '{}')
             FROM pgtrickle.pgt_upstream_versions v JOIN pgtrickle.pgt_stream_tables up ON up.pgt_id = v.upstream
             WHERE v.pgt_id = wanted.pgt_id),
            s.data_timestamp, pgtrickle.pgt_frontier_usable(s.frontier_base, s.frontier_cluster, s.frontier_db)
        FROM pgtrickle.pgt_units u JOIN pgtrickle.pgt_refresh_state s ON s.pgt_id = u.unit
        JOIN pgtrickle.pgt_refresh_state own ON own.pgt_id = u.pgt_id
        WHERE u.pgt_id = wanted.pgt_id
        ORDER BY s.data_timestamp DESC NULLS LAST, s.pgt_id LIMIT 1
    ) f;
END;
COMMENT ON FUNCTION pgtrickle.get_frontier IS 'the snapshot a stream table shows, and the versions of the stream tables it has consumed';

CREATE FUNCTION pgtrickle.frontier_lag(name text)
    RETURNS TABLE (pending_changes bigint, oldest_pending xid8, xmin_age bigint, blocker_pid integer)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT COALESCE(pending.changes, 0), pending.oldest::text::xid8,
        pg_snapshot_xmax(pg_current_snapshot())::text::bigint - pg_snapshot_xmin(state.frontier_base)::text::bigint,
        (SELECT holder.pid FROM pg_snapshot_xip(state.frontier_base) AS held (transaction),
            LATERAL (SELECT pgtrickle.pgt_transaction_holder(held.transaction)) AS holder (pid)
         WHERE holder.pid IS NOT NULL ORDER BY held.transaction LIMIT 1)
    FROM pgtrickle.pgt_lookup(frontier_lag.name) AS wanted (pgt_id), LATERAL (
        SELECT sum(p.pending)::bigint AS changes, min(p.oldest) FILTER (WHERE c.kind = 'table') AS oldest
        FROM pgtrickle.pgt_pending(ARRAY(SELECT unit.unit FROM pgtrickle.pgt_units unit WHERE unit.pgt_id = wanted.pgt_id), true) p
        LEFT JOIN pgtrickle.pgt_change_sources c ON c.source = p.source
    ) pending LEFT JOIN LATERAL (
        SELECT s.frontier_base FROM pgtrickle.pgt_units u JOIN pgtrickle.pgt_refresh_state s ON s.pgt_id = u.unit
        WHERE u.pgt_id = wanted.pgt_id ORDER BY s.data_timestamp DESC NULLS LAST, s.pgt_id LIMIT 1
    ) state ON true;
END;
COMMENT ON FUNCTION pgtrickle.frontier_lag IS
    'logged changes a stream table has not seen, how many transactions its frontier is behind, and who holds it back';

---------------------------------------------------------------------------------------------------- change logs

CREATE FUNCTION pgtrickle.pgt_log_segments(of_source oid, count_rows boolean)
    RETURNS TABLE (layout integer, segment integer, relid oid, is_current boolean, kind text, bytes bigint, rows bigint,
        oldest bigint, newest bigint)
    LANGUAGE plpgsql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT g.layout, g.segment, g.relid, g.layout = s.layout AND g.segment = s.cur_segment AS is_current, s.kind,
            pgtrickle.pgt_name(g.relid) AS name, CASE s.kind WHEN 'table' THEN 'xid' ELSE 'version' END AS position
        FROM pgtrickle.pgt_change_sources s JOIN pgtrickle.pgt_change_segments g USING (source)
        WHERE s.source = of_source ORDER BY g.layout, g.segment
    LOOP
        CONTINUE WHEN part.name IS NULL;
        layout := part.layout;
        segment := part.segment;
        relid := part.relid;
        is_current := part.is_current;
        kind := part.kind;
        bytes := pg_total_relation_size(part.relid);
        BEGIN
            EXECUTE format('SELECT min(%2$I)::text::bigint, max(%2$I)::text::bigint FROM %1$s', part.name, part.position)
                INTO oldest, newest;
            rows := NULL;
            IF count_rows THEN
                EXECUTE format('SELECT count(*) FROM %s', part.name) INTO rows;
            END IF;
        EXCEPTION WHEN undefined_table THEN
            CONTINUE;
        END;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgtrickle.pgt_log_segments IS
    'the segments of a source''s change log: size, and the oldest and newest transaction or version in each';

CREATE FUNCTION pgtrickle.pgt_log_blocker(of_source oid)
    RETURNS TABLE (blocked_by text, reader bigint, since timestamptz, ring_full boolean)
    LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- A segment that takes no more changes waits to be truncated until every reader has passed its newest change.
    WITH segments AS MATERIALIZED (
        SELECT s.relid, s.is_current, s.newest, c.layout = s.layout AND (c.cur_segment + 1) % 3 = s.segment AS is_next
        FROM pgtrickle.pgt_log_segments(of_source, false) s
        JOIN pgtrickle.pgt_change_sources c ON c.source = of_source
    ), held AS MATERIALIZED (
        SELECT max(newest) AS newest, bool_or(is_next) AS ring_full, array_agg(relid) AS relids
        FROM segments WHERE NOT is_current AND pg_relation_size(relid) > 0
    ), readers AS (
        SELECT d.pgt_id AS unit, u.pgt_id,
            CASE WHEN c.kind = 'table' THEN pg_snapshot_xmax(s.frontier_base)::text::bigint ELSE v.version + 1 END AS position
        FROM pgtrickle.pgt_change_sources c
        JOIN pgtrickle.pgt_dependencies d ON d.source = c.source
        JOIN pgtrickle.pgt_refresh_state s ON s.pgt_id = d.pgt_id
        JOIN pgtrickle.pgt_units u ON u.unit = d.pgt_id
        LEFT JOIN pgtrickle.pgt_stream_tables up ON up.pgt_relid = c.source
        LEFT JOIN pgtrickle.pgt_consumed v ON v.unit = d.pgt_id AND v.upstream = up.pgt_id
        WHERE c.source = of_source AND s.is_populated AND NOT s.needs_reinit
    ), slowest AS (
        SELECT pgtrickle.pgt_name(st.pgt_relid) AS blocked_by, readers.pgt_id AS reader, p.since
        FROM held, readers JOIN pgtrickle.pgt_stream_tables st ON st.pgt_id = readers.pgt_id,
            pgtrickle.pgt_pending(ARRAY(SELECT readers.unit FROM readers, held WHERE held.newest IS NOT NULL), false) p
        WHERE p.unit = readers.unit AND p.source = of_source
            -- Either later than the frontier, or by a transaction that was open then.
            AND (held.newest >= readers.position OR p.oldest < readers.position)
        ORDER BY readers.position, readers.pgt_id LIMIT 1
    ), verdict AS (
        SELECT slowest.*, 1 AS rank FROM slowest
        UNION ALL
        -- Everybody has passed, but somebody still writes to the segment, or reads it for longer than a refresh takes.
        SELECT format('transaction of process %s', a.pid), NULL, a.xact_start, 2
        FROM held, pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.relation = ANY (held.relids) AND l.granted AND l.database = (SELECT d.oid FROM pg_database d
            WHERE d.datname = current_database()) AND a.pid <> pg_backend_pid()
            AND (l.mode = 'RowExclusiveLock' OR a.xact_start < clock_timestamp() - '5 seconds'::interval)
        UNION ALL
        SELECT format('prepared transaction %L', p.gid), NULL, p.prepared, 2
        FROM held, pg_locks l JOIN pg_locks own ON own.virtualtransaction = l.virtualtransaction AND own.pid IS NULL
        JOIN pg_prepared_xacts p ON p.transaction = own.transactionid AND p.database = current_database()
        WHERE l.relation = ANY (held.relids) AND l.pid IS NULL
    )
    SELECT verdict.blocked_by, verdict.reader, verdict.since, held.ring_full FROM held, verdict
    ORDER BY verdict.rank, verdict.since LIMIT 1;
END;
COMMENT ON FUNCTION pgtrickle.pgt_log_blocker IS
    'who keeps a segment of a source''s change log from being truncated: the reader that is furthest behind, or an open transaction';

-- Only where there are changes in a segment that takes no more can anybody be in the way.
CREATE VIEW pgtrickle.pgt_logs AS
    SELECT s.source, sum(size.total)::bigint AS bytes, count(size.total)::integer AS segments,
        COALESCE(bool_or((g.layout <> s.layout OR g.segment <> s.cur_segment) AND size.changes > 0), false) AS may_be_held
    FROM pgtrickle.pgt_change_sources s LEFT JOIN pgtrickle.pgt_change_segments g ON g.source = s.source
    LEFT JOIN LATERAL (
        SELECT pg_total_relation_size(g.relid::regclass) AS total, pg_relation_size(g.relid::regclass) AS changes
    ) size ON true
    GROUP BY s.source;
COMMENT ON VIEW pgtrickle.pgt_logs IS 'the size of each source''s change log';

CREATE FUNCTION pgtrickle.change_buffer_sizes()
    RETURNS TABLE (stream_table text, source_table text, pending_rows bigint, buffer_bytes bigint, segments integer,
        blocked_by text)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH pending AS MATERIALIZED (
        SELECT unit.pgt_id, p.source, max(p.pending) AS changes
        FROM pgtrickle.pgt_pending(ARRAY(SELECT s.pgt_id FROM pgtrickle.pgt_refresh_state s), true) p
        JOIN pgtrickle.pgt_units unit ON unit.unit = p.unit
        GROUP BY unit.pgt_id, p.source
    ), logs AS MATERIALIZED (
        SELECT l.source, l.bytes, l.segments, b.blocked_by
        FROM pgtrickle.pgt_logs l
        LEFT JOIN LATERAL pgtrickle.pgt_log_blocker(CASE WHEN l.may_be_held THEN l.source END) b ON true
    )
    SELECT s.name, pgtrickle.pgt_name(reads.source),
        CASE WHEN s.is_populated AND NOT s.needs_reinit THEN COALESCE(pending.changes, 0) END, logs.bytes,
        COALESCE(logs.segments, 0), logs.blocked_by
    FROM pgtrickle.pgt_states s
    JOIN (
        SELECT DISTINCT unit.pgt_id, d.source::oid AS source FROM pgtrickle.pgt_units unit
        JOIN pgtrickle.pgt_dependencies d ON d.pgt_id = unit.unit
        WHERE d.source_type IN ('table', 'stream_table')
    ) reads ON reads.pgt_id = s.pgt_id
    LEFT JOIN pending ON pending.pgt_id = s.pgt_id AND pending.source = reads.source
    LEFT JOIN logs ON logs.source = reads.source
    ORDER BY 1, 2;
END;
COMMENT ON FUNCTION pgtrickle.change_buffer_sizes IS
    'for each stream table and source: logged changes not seen yet, the size of the log, and who keeps it from being truncated';

CREATE FUNCTION pgtrickle.change_buffer_status(source text)
    RETURNS TABLE (layout integer, segment integer, is_current boolean, rows bigint, bytes bigint, oldest_xid xid8,
        oldest_version bigint, blocked_by text, blocked_since timestamptz)
    LANGUAGE sql STABLE STRICT
BEGIN ATOMIC
    SELECT g.layout, g.segment, g.is_current, g.rows, g.bytes,
        CASE WHEN g.kind = 'table' THEN g.oldest::text::xid8 END, CASE WHEN g.kind <> 'table' THEN g.oldest END,
        b.blocked_by, b.since
    FROM pgtrickle.pgt_lookup_source(change_buffer_status.source) AS wanted (source),
        LATERAL pgtrickle.pgt_log_segments(wanted.source, true) g
    LEFT JOIN LATERAL (
        SELECT blocker.blocked_by, blocker.since FROM pgtrickle.pgt_log_blocker(wanted.source) blocker
        WHERE NOT g.is_current AND pg_relation_size(g.relid) > 0
    ) b ON true
    ORDER BY g.layout, g.segment;
END;
COMMENT ON FUNCTION pgtrickle.change_buffer_status IS 'the segments of a source''s change log';

CREATE FUNCTION pgtrickle.trigger_inventory()
    RETURNS TABLE (source text, relation text, trigger_name text, kind text, state text, ok boolean)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH wanted (source, relid, trigger_name, kind) AS (
        SELECT s.source, m.relid, expected.name, expected.kind
        FROM pgtrickle.pgt_change_sources s
        CROSS JOIN LATERAL (
            SELECT s.source AS relid UNION SELECT t.relid::oid FROM pg_partition_tree(s.source::regclass) t
        ) m
        JOIN pg_class c ON c.oid = m.relid AND c.relkind IN ('r', 'p')
        CROSS JOIN (VALUES ('pgt_capture', 'rows'), ('pgt_capture_truncate', 'truncate')) AS expected (name, kind)
        WHERE s.kind = 'table'
        UNION ALL
        SELECT s.relid, s.relid, 'pgt_refuse_write', 'guard' FROM pgtrickle.pgt_states s
    )
    SELECT pgtrickle.pgt_name(w.source), pgtrickle.pgt_name(w.relid), w.trigger_name, w.kind,
        CASE t.tgenabled WHEN 'A' THEN 'always' WHEN 'O' THEN 'origin' WHEN 'R' THEN 'replica' WHEN 'D' THEN 'disabled'
            ELSE 'missing' END,
        t.tgenabled IS NOT NULL AND t.tgenabled = 'A'
    FROM wanted w LEFT JOIN pg_trigger t ON t.tgrelid = w.relid AND t.tgname = w.trigger_name
    ORDER BY 1, 2, 3;
END;
COMMENT ON FUNCTION pgtrickle.trigger_inventory IS 'the triggers that have to be there, on sources, their partitions and stream tables, and their state';

---------------------------------------------------------------------------------------------------- health

CREATE FUNCTION pgtrickle.pgt_preloaded() RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT current_setting('shared_preload_libraries') ~ '(^|[[:space:],/"])pg_trickle(\.so)?([[:space:],"]|$)';
END;
COMMENT ON FUNCTION pgtrickle.pgt_preloaded IS 'whether the library is loaded at server start';

CREATE FUNCTION pgtrickle.worker_pool_status()
    RETURNS TABLE (pid integer, kind text, busy boolean, activity text, since timestamptz, started_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT a.pid, substr(a.backend_type, length('pg_trickle ') + 1), COALESCE(a.state = 'active', false),
        NULLIF(a.query, ''), a.state_change, a.backend_start
    FROM pg_stat_activity a
    WHERE a.backend_type IN ('pg_trickle launcher', 'pg_trickle scheduler', 'pg_trickle worker')
        AND (a.datname = current_database() OR a.datid IS NULL)
    ORDER BY a.backend_start, a.pid;
END;
COMMENT ON FUNCTION pgtrickle.worker_pool_status IS 'the launcher, this database''s scheduler and its refresh workers';

CREATE FUNCTION pgtrickle.pgt_listed(names text[]) RETURNS text LANGUAGE sql IMMUTABLE STRICT
BEGIN ATOMIC
    SELECT array_to_string(names[1:5], '; ')
        || CASE WHEN cardinality(names) > 5 THEN format('; and %s more', cardinality(names) - 5) ELSE '' END;
END;
COMMENT ON FUNCTION pgtrickle.pgt_listed IS 'the first few of many';

CREATE FUNCTION pgtrickle.pgt_overflows() RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'pgt_overflows_wrapper';
COMMENT ON FUNCTION pgtrickle.pgt_overflows IS 'how often a source found no room in shared memory';

CREATE FUNCTION pgtrickle.health_check() RETURNS TABLE (check_name text, severity text, detail text)
    LANGUAGE sql VOLATILE
BEGIN ATOMIC
    WITH states AS MATERIALIZED (
        SELECT s.*, stale.staleness, pgtrickle.pgt_is_overdue(stale.staleness, wanted.duration) AS overdue
        FROM pgtrickle.pgt_states s LEFT JOIN pgtrickle.pgt_stalenesses stale ON stale.pgt_id = s.pgt_id
        LEFT JOIN pgtrickle.pgt_intervals wanted ON wanted.pgt_id = s.pgt_id
    ), logs AS MATERIALIZED (
        SELECT COALESCE(pgtrickle.pgt_name(owner.pgt_relid) || ' (intermediate result)', pgtrickle.pgt_name(c.source)) AS source,
            c.bytes, pg_total_relation_size(c.source::regclass) AS source_bytes, b.blocked_by, b.since, b.ring_full,
            reader.status AS reader_status
        FROM pgtrickle.pgt_logs c
        LEFT JOIN pgtrickle.pgt_stream_tables stage ON stage.pgt_relid = c.source AND stage.stage_query IS NOT NULL
        LEFT JOIN pgtrickle.pgt_stream_tables owner
            ON owner.pgt_id = (SELECT min(x.pgt_id) FROM pgtrickle.pgt_stages x WHERE x.stage = stage.pgt_id)
        LEFT JOIN LATERAL pgtrickle.pgt_log_blocker(CASE WHEN c.may_be_held THEN c.source END) b ON true
        LEFT JOIN pgtrickle.pgt_stream_tables reader ON reader.pgt_id = b.reader
        WHERE EXISTS (SELECT FROM pg_class WHERE oid = c.source)
    )
    SELECT 'scheduler_running', CASE
            WHEN pg_is_in_recovery() THEN 'OK'
            WHEN NOT pgtrickle.pgt_preloaded() THEN 'ERROR'
            WHEN NOT EXISTS (SELECT FROM states) THEN 'OK'
            WHEN current_setting('pg_trickle.enabled', true) = 'off' THEN 'WARN'
            WHEN pgtrickle.scheduler_pid() IS NULL THEN 'ERROR'
            ELSE 'OK' END,
        CASE
            WHEN pg_is_in_recovery() THEN 'this server is a standby'
            WHEN NOT pgtrickle.pgt_preloaded() THEN 'pg_trickle is not in shared_preload_libraries'
            WHEN NOT EXISTS (SELECT FROM states) THEN 'there is nothing to schedule'
            WHEN current_setting('pg_trickle.enabled', true) = 'off' THEN 'pg_trickle.enabled is off'
            WHEN pgtrickle.scheduler_pid() IS NULL THEN 'no scheduler runs for this database'
            ELSE format('process %s', pgtrickle.scheduler_pid()) END
    UNION ALL
    SELECT 'error_tables', CASE WHEN bool_or(status = 'ERROR') THEN 'ERROR' WHEN count(*) > 0 THEN 'WARN' ELSE 'OK' END,
        COALESCE(pgtrickle.pgt_listed(array_agg(format('%s is %s%s', name, status, ': ' || last_error_message)
            ORDER BY status, name)), 'none')
    FROM states WHERE status IN ('ERROR', 'SUSPENDED')
    UNION ALL
    SELECT 'stale_tables', CASE WHEN count(*) > 0 THEN 'WARN' ELSE 'OK' END,
        COALESCE(pgtrickle.pgt_listed(array_agg(format('%s by %s s', name, round(extract(epoch FROM staleness), 1))
            ORDER BY staleness DESC, name)), 'none')
    FROM states WHERE status = 'ACTIVE' AND overdue
    UNION ALL
    SELECT 'needs_reinit', CASE WHEN count(*) > 0 THEN 'WARN' ELSE 'OK' END,
        COALESCE(pgtrickle.pgt_listed(array_agg(format('%s: %s', name, reinit_reason) ORDER BY name)), 'none')
    FROM states WHERE needs_reinit
    UNION ALL
    SELECT 'consecutive_errors', CASE WHEN count(*) > 0 THEN 'WARN' ELSE 'OK' END,
        COALESCE(pgtrickle.pgt_listed(array_agg(format('%s: %s in a row, last %s %s', name, consecutive_errors,
            last_error_sqlstate, last_error_message) ORDER BY consecutive_errors DESC, name)), 'none')
    FROM states WHERE consecutive_errors > 0
    UNION ALL
    SELECT 'change_log_growth', CASE WHEN count(*) > 0 THEN 'WARN' ELSE 'OK' END,
        COALESCE(pgtrickle.pgt_listed(array_agg(format('log of %s: %s', source, pg_size_pretty(bytes))
            ORDER BY bytes DESC, source)), 'none')
    FROM logs WHERE bytes > 1024 * 1024 * 1024 OR (bytes > 64 * 1024 * 1024 AND bytes > source_bytes)
    UNION ALL
    SELECT 'change_log_blocked', CASE WHEN count(*) > 0 THEN 'WARN' ELSE 'OK' END,
        COALESCE(pgtrickle.pgt_listed(array_agg(format('log of %s by %s%s since %s', source, blocked_by,
            ' (' || NULLIF(reader_status, 'ACTIVE') || ')', date_trunc('second', since)) ORDER BY since, source)), 'none')
    FROM logs WHERE blocked_by IS NOT NULL AND (ring_full OR reader_status <> 'ACTIVE')
    UNION ALL
    SELECT 'worker_pool', CASE WHEN workers.busy >= workers.most AND waiting.overdue > 0 THEN 'WARN' ELSE 'OK' END,
        format('%s of at most %s workers are here, %s at work', workers.here, workers.most, workers.busy)
    FROM (SELECT count(*) AS here, count(*) FILTER (WHERE busy) AS busy,
            COALESCE(current_setting('pg_trickle.max_concurrent_refreshes', true), '4')::integer AS most
          FROM pgtrickle.worker_pool_status() WHERE kind = 'worker') workers,
        (SELECT count(*) AS overdue FROM states
         WHERE status = 'ACTIVE' AND overdue) waiting
    UNION ALL
    SELECT 'job_queue', CASE WHEN count(*) FILTER (WHERE overdue)
            > COALESCE(current_setting('pg_trickle.max_concurrent_refreshes', true), '4')::integer THEN 'WARN' ELSE 'OK' END,
        format('%s active stream tables have pending changes', count(*))
    FROM states WHERE status = 'ACTIVE' AND staleness > '0'
    UNION ALL
    SELECT 'capture_triggers', CASE WHEN count(*) > 0 THEN 'ERROR' ELSE 'OK' END,
        COALESCE(pgtrickle.pgt_listed(array_agg(format('trigger %s on %s is %s', trigger_name, relation, state)
            ORDER BY relation, trigger_name)), 'none is missing')
    FROM pgtrickle.trigger_inventory() WHERE NOT ok
    UNION ALL
    SELECT 'missing_indexes', CASE WHEN count(*) > 0 THEN 'WARN' ELSE 'OK' END,
        COALESCE(pgtrickle.pgt_listed(array_agg(DISTINCT statement)), 'none')
    FROM pgtrickle.pgt_missing_indexes
    UNION ALL
    SELECT 'shared_memory', CASE WHEN o.overflows > 0 THEN 'WARN' ELSE 'OK' END,
        CASE WHEN o.overflows > 0 THEN format('%s commits found no room for their sources; raise pg_trickle.shared_memory_mb',
            o.overflows) ELSE 'there is room' END
    FROM pgtrickle.pgt_overflows() AS o (overflows);
END;
COMMENT ON FUNCTION pgtrickle.health_check IS 'what is well and what is not, one row for each check';

CREATE VIEW pgtrickle.quick_health AS
    SELECT count(*) AS total, count(*) FILTER (WHERE s.status = 'ACTIVE') AS active,
        count(*) FILTER (WHERE s.status = 'SUSPENDED') AS suspended, count(*) FILTER (WHERE s.status = 'ERROR') AS error,
        count(*) FILTER (WHERE s.status = 'INITIALIZING') AS initializing,
        count(*) FILTER (WHERE s.consecutive_errors > 0) AS failing, count(*) FILTER (WHERE s.needs_reinit) AS needs_reinit,
        count(*) FILTER (WHERE s.status = 'ACTIVE' AND s.overdue) AS overdue,
        pgtrickle.scheduler_pid() IS NOT NULL AS scheduler_running,
        CASE WHEN count(*) FILTER (WHERE s.status = 'ERROR') > 0
                 OR (count(*) > 0 AND pgtrickle.scheduler_pid() IS NULL AND NOT pg_is_in_recovery()) THEN 'ERROR'
             WHEN count(*) FILTER (WHERE s.status = 'SUSPENDED' OR s.consecutive_errors > 0 OR s.needs_reinit
                 OR (s.status = 'ACTIVE' AND s.overdue)) > 0 OR current_setting('pg_trickle.enabled', true) = 'off' THEN 'WARN'
             ELSE 'OK' END AS severity
    FROM pgtrickle.stream_tables_info s;
COMMENT ON VIEW pgtrickle.quick_health IS 'all stream tables in one row';

CREATE FUNCTION pgtrickle.preflight() RETURNS TABLE (check_name text, ok boolean, detail text)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT 'server_version', current_setting('server_version_num')::integer >= 180000,
        format('PostgreSQL %s; 18 or later is needed', current_setting('server_version'))
    UNION ALL
    SELECT 'shared_preload_libraries', pgtrickle.pgt_preloaded(), CASE WHEN pgtrickle.pgt_preloaded()
        THEN 'pg_trickle is loaded at server start'
        ELSE 'add pg_trickle to shared_preload_libraries in postgresql.conf and restart the server' END
    UNION ALL
    SELECT 'worker_processes', workers.present >= workers.needed,
        format('max_worker_processes is %s; launcher, scheduler and refresh workers take up to %s', workers.present, workers.needed)
    FROM (SELECT current_setting('max_worker_processes')::integer,
              2 + COALESCE(current_setting('pg_trickle.max_concurrent_refreshes', true), '4')::integer) AS workers (present, needed)
    UNION ALL
    SELECT 'event_triggers', count(*) = 3 AND COALESCE(current_setting('event_triggers', true), 'on') = 'on',
        CASE WHEN COALESCE(current_setting('event_triggers', true), 'on') <> 'on' THEN 'event_triggers is off'
             WHEN count(*) < 3 THEN 'event triggers pgt_on_ddl_end, pgt_on_drop and pgt_on_rewrite must be enabled always'
             ELSE 'schema changes are noticed' END
    FROM pg_event_trigger WHERE evtname IN ('pgt_on_ddl_end', 'pgt_on_drop', 'pgt_on_rewrite') AND evtenabled = 'A'
    UNION ALL
    SELECT 'capture_triggers', count(*) = 0, CASE WHEN count(*) = 0 THEN 'none is missing'
        ELSE pgtrickle.pgt_listed(array_agg(format('trigger %s on %s is %s', trigger_name, relation, state)
            ORDER BY relation, trigger_name)) END
    FROM pgtrickle.trigger_inventory() i WHERE NOT i.ok
    UNION ALL
    SELECT 'extension_version', available.version IS NULL OR available.version = pgtrickle.version(),
        CASE WHEN available.version IS NULL OR available.version = pgtrickle.version()
            THEN format('version %s', pgtrickle.version())
            ELSE format('version %s is installed, %s is available: ALTER EXTENSION pg_trickle UPDATE',
                pgtrickle.version(), available.version) END
    FROM (SELECT (SELECT a.default_version FROM pg_available_extensions() a WHERE a.name = 'pg_trickle')) AS available (version)
    UNION ALL
    SELECT 'writable', NOT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery()
        THEN 'this server is a standby: stream tables are refreshed on its primary' ELSE 'this server is not a standby' END;
END;
COMMENT ON FUNCTION pgtrickle.preflight IS 'whether this server and database are set up for stream tables';

GRANT SELECT ON pgtrickle.pgt_edges, pgtrickle.pgt_logs, pgtrickle.stream_tables_info, pgtrickle.pg_stat_stream_tables,
    pgtrickle.quick_health TO PUBLIC;
