-- Coordination: what is refreshed together, what has to wait, what stops.

---------------------------------------------------------------------------------------------------- groups

CREATE FUNCTION pgtrickle.diamond_groups()
    RETURNS TABLE (group_id integer, member_name text, member_schema text, is_convergence boolean, epoch bigint,
        schedule_policy text)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT m.group_id::integer, c.relname::text, n.nspname::text, m.is_convergence, g.epoch,
        -- The strictest of the convergence nodes.
        max(COALESCE(st.diamond_schedule_policy, current_setting('pg_trickle.diamond_schedule_policy')))
            FILTER (WHERE m.is_convergence) OVER (PARTITION BY m.group_id)
    FROM pgtrickle.pgt_group_members m
    JOIN pgtrickle.pgt_consistency_groups g USING (group_id)
    JOIN pgtrickle.pgt_stream_tables st USING (pgt_id)
    JOIN pg_class c ON c.oid = st.pgt_relid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE EXISTS (SELECT FROM pgtrickle.pgt_group_members x WHERE x.group_id = m.group_id AND x.is_convergence)
    ORDER BY 1, 4, 3, 2;
END;
COMMENT ON FUNCTION pgtrickle.diamond_groups IS 'diamonds: stream tables that read the same along several ways, with those on the ways';

CREATE FUNCTION pgtrickle.create_refresh_group(group_name text, members text[])
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'create_refresh_group_wrapper';
COMMENT ON FUNCTION pgtrickle.create_refresh_group IS 'has stream tables refreshed together, at one snapshot or not at all';

CREATE FUNCTION pgtrickle.drop_refresh_group(group_name text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'drop_refresh_group_wrapper';
COMMENT ON FUNCTION pgtrickle.drop_refresh_group IS 'ends what create_refresh_group() began';

CREATE FUNCTION pgtrickle.refresh_groups()
    RETURNS TABLE (group_name text, member_schema text, member_name text, epoch bigint) LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT r.group_name, n.nspname::text, c.relname::text, g.epoch
    FROM pgtrickle.pgt_refresh_groups r
    JOIN pgtrickle.pgt_stream_tables st USING (pgt_id)
    JOIN pg_class c ON c.oid = st.pgt_relid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pgtrickle.pgt_group_members m USING (pgt_id)
    LEFT JOIN pgtrickle.pgt_consistency_groups g USING (group_id)
    ORDER BY 1, 2, 3;
END;
COMMENT ON FUNCTION pgtrickle.refresh_groups IS 'the refresh groups and their members';

---------------------------------------------------------------------------------------------------- gates

CREATE FUNCTION pgtrickle.gate_source(source text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'gate_source_wrapper';
COMMENT ON FUNCTION pgtrickle.gate_source IS 'holds back every refresh that reads the table, until ungate_source()';

CREATE FUNCTION pgtrickle.ungate_source(source text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'ungate_source_wrapper';
COMMENT ON FUNCTION pgtrickle.ungate_source IS 'lets refreshes read the table again';

CREATE FUNCTION pgtrickle.source_gates()
    RETURNS TABLE (source text, gated_at timestamptz, gated_by text, holds bigint) LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT pgtrickle.pgt_name(g.source), g.gated_at, g.gated_by,
        (SELECT count(DISTINCT u.pgt_id) FROM pgtrickle.pgt_dependencies d
         JOIN pgtrickle.pgt_units u ON u.unit = d.pgt_id WHERE d.source = g.source
             OR d.source IN (SELECT a.relid FROM pg_partition_ancestors(g.source) a)
             OR g.source IN (SELECT a.relid FROM pg_partition_ancestors(d.source) a))
    FROM pgtrickle.pgt_source_gates g WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = g.source) ORDER BY 1;
END;
COMMENT ON FUNCTION pgtrickle.source_gates IS 'the gated tables, and how many stream tables wait for each';

---------------------------------------------------------------------------------------------------- watermarks

CREATE FUNCTION pgtrickle.advance_watermark(source text, watermark timestamptz)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'advance_watermark_wrapper';
COMMENT ON FUNCTION pgtrickle.advance_watermark IS 'says that the table is complete up to this time';

CREATE FUNCTION pgtrickle.create_watermark_group(group_name text, sources text[], tolerance_secs double precision DEFAULT 0)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'create_watermark_group_wrapper';
COMMENT ON FUNCTION pgtrickle.create_watermark_group IS 'holds back what reads several of these tables while their watermarks differ by more than the tolerance';

CREATE FUNCTION pgtrickle.drop_watermark_group(group_name text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'drop_watermark_group_wrapper';
COMMENT ON FUNCTION pgtrickle.drop_watermark_group IS 'ends what create_watermark_group() began';

CREATE FUNCTION pgtrickle.watermarks()
    RETURNS TABLE (source text, watermark timestamptz, advanced_at timestamptz, advanced_by text) LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT pgtrickle.pgt_name(w.source), w.watermark, w.advanced_at, w.advanced_by
    FROM pgtrickle.pgt_watermarks w WHERE EXISTS (SELECT FROM pg_class c WHERE c.oid = w.source) ORDER BY 1;
END;
COMMENT ON FUNCTION pgtrickle.watermarks IS 'up to when each table is complete';

-- A table without a watermark may be complete up to any time: nothing is aligned with it.
CREATE VIEW pgtrickle.pgt_watermark_states AS
    SELECT g.group_name, g.tolerance_secs, cardinality(g.sources) AS sources, count(w.source) AS known,
        min(w.watermark) AS earliest, max(w.watermark) AS latest,
        count(w.source) = cardinality(g.sources)
            AND CASE WHEN min(w.watermark) = max(w.watermark) THEN true
                WHEN isfinite(min(w.watermark)) AND isfinite(max(w.watermark))
                THEN extract(epoch FROM max(w.watermark) - min(w.watermark)) <= g.tolerance_secs
                ELSE false END AS aligned
    FROM pgtrickle.pgt_watermark_groups g LEFT JOIN pgtrickle.pgt_watermarks w ON w.source = ANY (g.sources)
    GROUP BY g.group_name, g.tolerance_secs, g.sources;

CREATE FUNCTION pgtrickle.watermark_status()
    RETURNS TABLE (group_name text, aligned boolean, lag_secs double precision, tolerance_secs double precision,
        earliest timestamptz, latest timestamptz, without_watermark bigint)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT s.group_name, s.aligned, CASE WHEN s.latest = s.earliest THEN 0
            WHEN isfinite(s.latest) AND isfinite(s.earliest)
            THEN extract(epoch FROM s.latest - s.earliest)::double precision
            WHEN s.latest > s.earliest THEN 'Infinity'::double precision END, s.tolerance_secs,
        s.earliest, s.latest, s.sources - s.known
    FROM pgtrickle.pgt_watermark_states s ORDER BY 1;
END;
COMMENT ON FUNCTION pgtrickle.watermark_status IS 'the watermark groups, and whether their tables are equally complete';

-- Why stream tables must not be refreshed now.
CREATE VIEW pgtrickle.pgt_holds AS
    WITH RECURSIVE unaligned AS (
        SELECT s.group_name, source FROM pgtrickle.pgt_watermark_states s
        JOIN pgtrickle.pgt_watermark_groups g USING (group_name), unnest(g.sources) AS source WHERE NOT s.aligned
    ), below (group_name, source, relation) AS (
        SELECT group_name, source, source FROM unaligned
        UNION
        SELECT b.group_name, b.source, reader.pgt_relid::oid
        FROM below b JOIN pgtrickle.pgt_dependencies d ON d.source = b.relation
        JOIN pgtrickle.pgt_units u ON u.unit = d.pgt_id
        JOIN pgtrickle.pgt_stream_tables reader ON reader.pgt_id = u.pgt_id
    )
    SELECT DISTINCT u.pgt_id, format('%s is gated', pgtrickle.pgt_name(g.source)) AS reason
    -- Whoever reads a partitioned table reads its partitions, and the other way round.
    FROM pgtrickle.pgt_source_gates g JOIN pgtrickle.pgt_dependencies d ON d.source = g.source
        OR d.source IN (SELECT a.relid FROM pg_partition_ancestors(g.source) a)
        OR g.source IN (SELECT a.relid FROM pg_partition_ancestors(d.source) a)
    JOIN pgtrickle.pgt_units u ON u.unit = d.pgt_id
    UNION ALL
    SELECT st.pgt_id, format('the watermarks of group "%s" are not aligned', b.group_name)
    FROM below b JOIN pgtrickle.pgt_stream_tables st ON st.pgt_relid = b.relation AND st.stage_query IS NULL
    GROUP BY st.pgt_id, b.group_name HAVING count(DISTINCT b.source) > 1;

---------------------------------------------------------------------------------------------------- fuse

CREATE FUNCTION pgtrickle.fuse_status()
    RETURNS TABLE (name text, fuse text, fuse_ceiling bigint, state text, blown_at timestamptz, reason text)
    LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT pgtrickle.pgt_name(st.pgt_relid), st.fuse, st.fuse_ceiling,
        CASE WHEN st.fuse_blown_at IS NOT NULL THEN 'blown' WHEN st.fuse = 'on' THEN 'armed' ELSE 'off' END,
        st.fuse_blown_at, st.fuse_reason
    FROM pgtrickle.pgt_stream_tables st
    WHERE st.stage_query IS NULL AND (st.fuse = 'on' OR st.fuse_blown_at IS NOT NULL) ORDER BY 1;
END;
COMMENT ON FUNCTION pgtrickle.fuse_status IS 'the stream tables that stop when too much has changed';

CREATE FUNCTION pgtrickle.reset_fuse(name text, action text)
    RETURNS void LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'reset_fuse_wrapper';
COMMENT ON FUNCTION pgtrickle.reset_fuse IS 'goes on after a fuse has blown: ''apply'' takes the changes, ''reinitialize'' evaluates the query';

---------------------------------------------------------------------------------------------------- drain

CREATE FUNCTION pgtrickle.drain(timeout_s integer DEFAULT 60)
    RETURNS boolean LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'drain_wrapper';
COMMENT ON FUNCTION pgtrickle.drain IS 'starts no more refreshes in this database and waits for those at work; true if none is left';

CREATE FUNCTION pgtrickle.is_drained() RETURNS boolean LANGUAGE c AS 'MODULE_PATHNAME', 'is_drained_wrapper';
COMMENT ON FUNCTION pgtrickle.is_drained IS 'whether no refresh is at work and none will be started';

CREATE FUNCTION pgtrickle.resume_after_drain() RETURNS void LANGUAGE c AS 'MODULE_PATHNAME', 'resume_after_drain_wrapper';
COMMENT ON FUNCTION pgtrickle.resume_after_drain IS 'ends what drain() began';

---------------------------------------------------------------------------------------------------- workers

CREATE FUNCTION pgtrickle.pgt_allocations(
    OUT database oid, OUT used bigint, OUT active bigint, OUT queued bigint, OUT quota bigint
) RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgt_allocations_wrapper';
COMMENT ON FUNCTION pgtrickle.pgt_allocations IS 'what cluster_worker_summary() is made of';

CREATE FUNCTION pgtrickle.worker_allocation_status()
    RETURNS TABLE (db_name text, workers_used bigint, workers_quota bigint, workers_queued bigint) LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT d.datname::text, a.used, a.quota, a.queued FROM pgtrickle.pgt_allocations() a
    JOIN pg_database d ON d.oid = a.database ORDER BY 1;
END;
COMMENT ON FUNCTION pgtrickle.worker_allocation_status IS 'refresh workers of every database of the cluster, its share of them, and what waits for one';

CREATE FUNCTION pgtrickle.cluster_worker_summary()
    RETURNS TABLE (db_oid oid, db_name text, workers_active bigint, workers_queued bigint, quota bigint,
        quota_utilization_pct numeric)
    LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT a.database, d.datname::text, a.active, a.queued, a.quota, round(100.0 * a.active / NULLIF(a.quota, 0), 1)
    FROM pgtrickle.pgt_allocations() a JOIN pg_database d ON d.oid = a.database ORDER BY 2;
END;
COMMENT ON FUNCTION pgtrickle.cluster_worker_summary IS 'how busy the refresh workers of every database of the cluster are';

CREATE FUNCTION pgtrickle.cache_stats(
    OUT l0_hits bigint, OUT l0_misses bigint, OUT l1_hits bigint, OUT l1_misses bigint, OUT l2_hits bigint,
    OUT compilations bigint, OUT evictions bigint, OUT l0_entries bigint, OUT l0_bytes bigint, OUT l1_entries bigint
) RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'cache_stats_wrapper';
COMMENT ON FUNCTION pgtrickle.cache_stats IS 'the caches of compiled stream tables: shared (l0) and of this session (l1); counts of the whole cluster';

CREATE FUNCTION pgtrickle.clear_caches() RETURNS bigint LANGUAGE c AS 'MODULE_PATHNAME', 'clear_caches_wrapper';
COMMENT ON FUNCTION pgtrickle.clear_caches IS 'forgets the compiled stream tables of this database everywhere; how many there were';

CREATE FUNCTION pgtrickle.scheduler_statistics(
    OUT wakeups bigint, OUT busy_us bigint, OUT last_us bigint, OUT max_us bigint, OUT stream_tables bigint,
    OUT definitions_read bigint, OUT reading_us bigint
) RETURNS SETOF record LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'scheduler_statistics_wrapper';
COMMENT ON FUNCTION pgtrickle.scheduler_statistics IS 'what this database''s scheduler has done since the server was started; times in microseconds';

GRANT SELECT ON pgtrickle.pgt_watermark_states, pgtrickle.pgt_holds TO PUBLIC;
