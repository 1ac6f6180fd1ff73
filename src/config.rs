//! The settings: one table, from which they are registered and docs/CONFIGURATION.md is made.

use std::ffi::{CStr, CString};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgt_ivm::schedule::{Prediction, Rules};

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static SCHEDULER_INTERVAL_MS: GucSetting<i32> = GucSetting::<i32>::new(1000);
static MIN_SCHEDULE_MS: GucSetting<i32> = GucSetting::<i32>::new(100);
static DEFAULT_SCHEDULE_SECONDS: GucSetting<i32> = GucSetting::<i32>::new(1);
static MAX_CONSECUTIVE_ERRORS: GucSetting<i32> = GucSetting::<i32>::new(3);
static MAX_CONCURRENT_REFRESHES: GucSetting<i32> = GucSetting::<i32>::new(4);
static MAX_DYNAMIC_REFRESH_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(4);
static PER_DATABASE_WORKER_QUOTA: GucSetting<i32> = GucSetting::<i32>::new(0);
static WORKER_POOL_SIZE: GucSetting<i32> = GucSetting::<i32>::new(0);
static AUTO_BACKOFF: GucSetting<bool> = GucSetting::<bool>::new(true);
static TIERED_SCHEDULING: GucSetting<bool> = GucSetting::<bool>::new(true);
static SHARED_MEMORY_MB: GucSetting<i32> = GucSetting::<i32>::new(16);
static PREDICTION_WINDOW: GucSetting<i32> = GucSetting::<i32>::new(60);
static PREDICTION_RATIO: GucSetting<f64> = GucSetting::<f64>::new(1.2);
static PREDICTION_MIN_SAMPLES: GucSetting<i32> = GucSetting::<i32>::new(5);
static TEMPLATE_CACHE: GucSetting<bool> = GucSetting::<bool>::new(true);
static TEMPLATE_CACHE_MAX_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(256);
static REFRESH_STRATEGY: GucSetting<Strategy> = GucSetting::<Strategy>::new(Strategy::Auto);
static DIAMOND_CONSISTENCY: GucSetting<Consistency> =
    GucSetting::<Consistency>::new(Consistency::None);
static DIAMOND_SCHEDULE_POLICY: GucSetting<SchedulePolicy> =
    GucSetting::<SchedulePolicy>::new(SchedulePolicy::Fastest);
static DIFFERENTIAL_MAX_CHANGE_RATIO: GucSetting<f64> = GucSetting::<f64>::new(0.15);
static HISTORY_RETENTION_DAYS: GucSetting<i32> = GucSetting::<i32>::new(90);
static MAX_CHANGES_PER_TX: GucSetting<i32> = GucSetting::<i32>::new(-1);
static VERIFY_REFRESH: GucSetting<bool> = GucSetting::<bool>::new(false);
static LOG_DELTA_SQL: GucSetting<bool> = GucSetting::<bool>::new(false);
static TEST_BREAK: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// The type, default and range of a setting, with the variable behind it.
pub enum Kind {
    Bool(&'static GucSetting<bool>),
    Int {
        variable: &'static GucSetting<i32>,
        min: i32,
        max: i32,
        flags: GucFlags,
    },
    Real {
        variable: &'static GucSetting<f64>,
        min: f64,
        max: f64,
    },
    Text(&'static GucSetting<Option<CString>>),
    Choice(Choice),
}

/// A setting that takes one of a few words.
pub enum Choice {
    Strategy(&'static GucSetting<Strategy>),
    Consistency(&'static GucSetting<Consistency>),
    SchedulePolicy(&'static GucSetting<SchedulePolicy>),
}

/// One setting.
pub struct Setting {
    pub name: &'static CStr,
    pub short: &'static CStr,
    pub long: &'static CStr,
    pub kind: Kind,
    pub context: GucContext,
    /// Listed in the documentation.
    pub public: bool,
}

/// Every setting, in the order of the documentation.
pub fn settings() -> Vec<Setting> {
    let int = |variable, min, max, flags| Kind::Int {
        variable,
        min,
        max,
        flags,
    };
    vec![
        Setting {
            name: c"pg_trickle.enabled",
            short: c"Refreshes stream tables in the background.",
            long: c"When off, no refresh is scheduled; manual refreshes still work and changes are still captured.",
            kind: Kind::Bool(&ENABLED),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.scheduler_interval_ms",
            short: c"Time between two wake-ups of an idle scheduler.",
            long: c"Commits that touch a source wake the scheduler at once; this clock is for what commits cannot announce.",
            kind: int(&SCHEDULER_INTERVAL_MS, 10, 60_000, GucFlags::UNIT_MS),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.min_schedule_ms",
            short: c"Shortest schedule a stream table may have.",
            long: c"Applies to durations; continuous schedules are not limited by it.",
            kind: int(&MIN_SCHEDULE_MS, 10, 86_400_000, GucFlags::UNIT_MS),
            context: GucContext::Suset,
            public: true,
        },
        Setting {
            name: c"pg_trickle.default_schedule_seconds",
            short: c"Interval of a stream table scheduled as 'calculated' that no other stream table reads.",
            long: c"",
            kind: int(&DEFAULT_SCHEDULE_SECONDS, 1, 86_400, GucFlags::UNIT_S),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.max_consecutive_errors",
            short: c"Failed refreshes in a row after which a stream table is suspended.",
            long: c"Only failures worth a retry are counted; a permanent one puts the stream table into ERROR at once.",
            kind: int(&MAX_CONSECUTIVE_ERRORS, 1, 100, GucFlags::default()),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.max_concurrent_refreshes",
            short: c"Refresh workers of one database that may run at the same time.",
            long: c"Each needs a slot of max_worker_processes.",
            kind: int(&MAX_CONCURRENT_REFRESHES, 1, 64, GucFlags::default()),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.max_dynamic_refresh_workers",
            short: c"Refresh workers of the whole cluster that may run at the same time.",
            long: c"Databases share them, see pg_trickle.per_database_worker_quota.",
            kind: int(&MAX_DYNAMIC_REFRESH_WORKERS, 1, 128, GucFlags::default()),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.per_database_worker_quota",
            short: c"Refresh workers a database may keep while other databases wait for one.",
            long: c"A database may use more while nobody waits. 0 gives every database an equal share.",
            kind: int(&PER_DATABASE_WORKER_QUOTA, 0, 128, GucFlags::default()),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.worker_pool_size",
            short: c"Refresh workers each database keeps connected, whether there is work or not.",
            long: c"With 0 workers are started when something is due, and leave after a minute without work.",
            kind: int(&WORKER_POOL_SIZE, 0, 64, GucFlags::default()),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.auto_backoff",
            short: c"Stretches the interval of stream tables whose refresh takes as long as the interval.",
            long: c"Doubled, up to eight times, while a refresh takes 95 % of it; shortened again when half of it would do.",
            kind: Kind::Bool(&AUTO_BACKOFF),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.tiered_scheduling",
            short: c"Refreshes warm and cold stream tables less often than scheduled.",
            long: c"hot: as scheduled, warm: half as often, cold: a tenth as often, frozen: never. When off every tier is hot.",
            kind: Kind::Bool(&TIERED_SCHEDULING),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.diamond_consistency",
            short: c"Whether diamonds of stream tables are refreshed together: none or atomic.",
            long: c"For stream tables that do not say it themselves. atomic: all members at one snapshot, or none of them.",
            kind: Kind::Choice(Choice::Consistency(&DIAMOND_CONSISTENCY)),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.diamond_schedule_policy",
            short: c"When an atomic diamond is due: fastest or slowest.",
            long: c"For stream tables that do not say it themselves. fastest: when one member is; slowest: when all are.",
            kind: Kind::Choice(Choice::SchedulePolicy(&DIAMOND_SCHEDULE_POLICY)),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.template_cache",
            short: c"Shares compiled stream tables between sessions.",
            long: c"When off every session compiles the stream tables it refreshes itself.",
            kind: Kind::Bool(&TEMPLATE_CACHE),
            context: GucContext::Suset,
            public: true,
        },
        Setting {
            name: c"pg_trickle.template_cache_max_entries",
            short: c"Compiled stream tables a session keeps, with their prepared statements.",
            long: c"The least recently used ones go first.",
            kind: int(&TEMPLATE_CACHE_MAX_ENTRIES, 1, 100_000, GucFlags::default()),
            context: GucContext::Suset,
            public: true,
        },
        Setting {
            name: c"pg_trickle.shared_memory_mb",
            short: c"Shared memory for sources to watch and compiled stream tables.",
            long: c"Where it is not enough stream tables are refreshed and compiled more often than needed; nothing fails.",
            kind: int(&SHARED_MEMORY_MB, 1, 4096, GucFlags::UNIT_MB),
            context: GucContext::Postmaster,
            public: true,
        },
        Setting {
            name: c"pg_trickle.refresh_strategy",
            short: c"How stream tables are refreshed: auto, differential or full.",
            long: c"auto lets each stream table's mode and the cost decide; the others override both for the whole server.",
            kind: Kind::Choice(Choice::Strategy(&REFRESH_STRATEGY)),
            context: GucContext::Suset,
            public: true,
        },
        Setting {
            name: c"pg_trickle.differential_max_change_ratio",
            short: c"Share of changed rows above which an AUTO stream table is refreshed fully.",
            long: c"Logged changes divided by the estimated rows of the largest source. It decides for as long as too little has been measured to predict the times. 0 never prefers a full refresh for it.",
            kind: Kind::Real { variable: &DIFFERENTIAL_MAX_CHANGE_RATIO, min: 0.0, max: 1000.0 },
            context: GucContext::Suset,
            public: true,
        },
        Setting {
            name: c"pg_trickle.prediction_window",
            short: c"Age up to which measured refreshes are used to predict the time of the next one.",
            long: c"Where a differential refresh is predicted to be slower an AUTO stream table is refreshed fully.",
            kind: int(&PREDICTION_WINDOW, 1, 10_080, GucFlags::UNIT_MIN),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.prediction_ratio",
            short: c"How many times slower than a full refresh a differential one has to be predicted for a full one to be preferred.",
            long: c"",
            kind: Kind::Real { variable: &PREDICTION_RATIO, min: 1.0, max: 1000.0 },
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.prediction_min_samples",
            short: c"Measured refreshes without which nothing is predicted.",
            long: c"Those of the first minute do not count; those of fewer than 1000 changes are counted apart.",
            kind: int(&PREDICTION_MIN_SAMPLES, 1, 16, GucFlags::default()),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.history_retention_days",
            short: c"Days the refresh history is kept.",
            long: c"",
            kind: int(&HISTORY_RETENTION_DAYS, 1, 3650, GucFlags::default()),
            context: GucContext::Sighup,
            public: true,
        },
        Setting {
            name: c"pg_trickle.max_changes_per_tx",
            short: c"Most changes one transaction may make to one source of stream tables.",
            long: c"A transaction that would make more fails with SQLSTATE 54000. -1 sets no limit.",
            kind: int(&MAX_CHANGES_PER_TX, -1, i32::MAX, GucFlags::default()),
            context: GucContext::Suset,
            public: true,
        },
        Setting {
            name: c"pg_trickle.verify_refresh",
            short: c"Compares a stream table with its query after every refresh.",
            long: c"A refresh that finds a difference fails. Costs an evaluation of the query each time; meant for tests.",
            kind: Kind::Bool(&VERIFY_REFRESH),
            context: GucContext::Suset,
            public: true,
        },
        Setting {
            name: c"pg_trickle.log_delta_sql",
            short: c"Logs every delta statement when it is prepared.",
            long: c"At level LOG.",
            kind: Kind::Bool(&LOG_DELTA_SQL),
            context: GucContext::Suset,
            public: true,
        },
        Setting {
            name: c"pg_trickle.test_break",
            short: c"Breaks one rule on purpose, to show that tests notice.",
            long: c"Never set this outside the test suite: stream tables will be wrong.",
            kind: Kind::Text(&TEST_BREAK),
            context: GucContext::Suset,
            public: false,
        },
    ]
}

/// Registers every setting that can be.
pub fn register(preloading: bool) {
    for setting in settings() {
        // Such a setting can only come from the configuration the server was started with.
        if matches!(setting.context, GucContext::Postmaster) && !preloading {
            continue;
        }
        let Setting {
            name,
            short,
            long,
            kind,
            context,
            public,
        } = setting;
        let flags = if public {
            GucFlags::default()
        } else {
            GucFlags::NO_SHOW_ALL
        };
        match kind {
            Kind::Bool(variable) => {
                GucRegistry::define_bool_guc(name, short, long, variable, context, flags);
            }
            Kind::Int {
                variable,
                min,
                max,
                flags: unit,
            } => {
                GucRegistry::define_int_guc(
                    name,
                    short,
                    long,
                    variable,
                    min,
                    max,
                    context,
                    flags | unit,
                );
            }
            Kind::Real { variable, min, max } => {
                GucRegistry::define_float_guc(
                    name, short, long, variable, min, max, context, flags,
                );
            }
            Kind::Text(variable) => {
                GucRegistry::define_string_guc(name, short, long, variable, context, flags);
            }
            Kind::Choice(Choice::Strategy(variable)) => {
                GucRegistry::define_enum_guc(name, short, long, variable, context, flags);
            }
            Kind::Choice(Choice::Consistency(variable)) => {
                GucRegistry::define_enum_guc(name, short, long, variable, context, flags);
            }
            Kind::Choice(Choice::SchedulePolicy(variable)) => {
                GucRegistry::define_enum_guc(name, short, long, variable, context, flags);
            }
        }
    }
}

/// How stream tables are refreshed on this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Strategy {
    #[name = c"auto"]
    Auto,
    #[name = c"differential"]
    Differential,
    #[name = c"full"]
    Full,
}

/// Whether the members of a diamond are refreshed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Consistency {
    #[name = c"none"]
    None,
    #[name = c"atomic"]
    Atomic,
}

impl Consistency {
    pub fn parse(text: &str) -> Option<Consistency> {
        match text {
            "none" => Some(Consistency::None),
            "atomic" => Some(Consistency::Atomic),
            _ => None,
        }
    }
}

/// Whose schedule a diamond follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum SchedulePolicy {
    #[name = c"fastest"]
    Fastest,
    #[name = c"slowest"]
    Slowest,
}

impl SchedulePolicy {
    pub fn parse(text: &str) -> Option<SchedulePolicy> {
        match text {
            "fastest" => Some(SchedulePolicy::Fastest),
            "slowest" => Some(SchedulePolicy::Slowest),
            _ => None,
        }
    }
}

/// What holds for diamonds that do not say it themselves.
pub fn diamond_defaults() -> (Consistency, SchedulePolicy) {
    (DIAMOND_CONSISTENCY.get(), DIAMOND_SCHEDULE_POLICY.get())
}

/// Compiled stream tables are shared between sessions.
pub fn template_cache() -> bool {
    TEMPLATE_CACHE.get()
}

/// Compiled stream tables a session keeps at most.
pub fn template_cache_max_entries() -> usize {
    TEMPLATE_CACHE_MAX_ENTRIES.get() as usize
}

pub fn shared_memory_mb() -> usize {
    SHARED_MEMORY_MB.get() as usize
}

/// A rule broken on purpose by the test suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// Each statement of a refresh sees its own snapshot.
    ReadCommitted,
    /// The frontier forgets which transactions were in progress.
    FrontierXmax,
    /// Measurements count from the first minute on.
    WarmUp,
    /// Readers of shared memory may be slow.
    SlowReaders,
    /// A change of one row is applied as one of a thousand.
    LargeChanges,
}

/// What a refresh needs of the settings, read once at the door.
#[derive(Clone, Copy, Debug)]
pub struct RefreshSettings {
    pub strategy: Strategy,
    pub max_change_ratio: f64,
    pub verify: bool,
    pub log_delta_sql: bool,
    pub broken: Broken,
    pub prediction: Prediction,
}

fn text(variable: &'static GucSetting<Option<CString>>) -> String {
    variable
        .get()
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default()
}

impl RefreshSettings {
    pub fn read() -> RefreshSettings {
        let broken = match text(&TEST_BREAK).as_str() {
            "read_committed" => Broken::ReadCommitted,
            "frontier_xmax" => Broken::FrontierXmax,
            "warm_up" => Broken::WarmUp,
            "slow_readers" => Broken::SlowReaders,
            "large_changes" => Broken::LargeChanges,
            _ => Broken::Nothing,
        };
        RefreshSettings {
            strategy: REFRESH_STRATEGY.get(),
            max_change_ratio: DIFFERENTIAL_MAX_CHANGE_RATIO.get(),
            verify: VERIFY_REFRESH.get(),
            log_delta_sql: LOG_DELTA_SQL.get(),
            broken,
            prediction: Prediction {
                min_samples: PREDICTION_MIN_SAMPLES.get() as usize,
                window: i64::from(PREDICTION_WINDOW.get()) * 60_000,
                ratio: PREDICTION_RATIO.get(),
                warm_up: broken != Broken::WarmUp,
            },
        }
    }
}

/// What the scheduler needs of the settings, read once per wake-up.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerSettings {
    pub enabled: bool,
    pub interval_ms: u64,
    pub rules: Rules,
    pub tiers: bool,
    pub max_consecutive_errors: u32,
    pub max_concurrent_refreshes: usize,
    /// Workers of the cluster.
    pub max_workers: u32,
    pub quota: u32,
    /// Workers that stay.
    pub pool: usize,
    pub history_retention_days: u32,
}

impl SchedulerSettings {
    pub fn read() -> SchedulerSettings {
        SchedulerSettings {
            enabled: ENABLED.get(),
            interval_ms: SCHEDULER_INTERVAL_MS.get() as u64,
            rules: Rules {
                default_interval: DEFAULT_SCHEDULE_SECONDS.get() as u64 * 1000,
                backoff: AUTO_BACKOFF.get(),
            },
            tiers: TIERED_SCHEDULING.get(),
            max_consecutive_errors: MAX_CONSECUTIVE_ERRORS.get() as u32,
            max_concurrent_refreshes: MAX_CONCURRENT_REFRESHES.get() as usize,
            max_workers: MAX_DYNAMIC_REFRESH_WORKERS.get() as u32,
            quota: PER_DATABASE_WORKER_QUOTA.get() as u32,
            pool: WORKER_POOL_SIZE.get() as usize,
            history_retention_days: HISTORY_RETENTION_DAYS.get() as u32,
        }
    }
}

/// The shortest duration a schedule may have, in milliseconds.
pub fn min_schedule_ms() -> u64 {
    MIN_SCHEDULE_MS.get() as u64
}

/// Most changes one transaction may make to a source; none if there is no limit.
pub fn max_changes_per_tx() -> Option<u64> {
    u64::try_from(MAX_CHANGES_PER_TX.get()).ok()
}
