//! Background workers: registering and starting them, their signals, their transactions.

use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use pgrx::pg_guard;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

use crate::error::Kind;

unsafe extern "C-unwind" {
    // Signal handlers, needed as plain C function pointers.
    fn die(signal: c_int);
    fn SignalHandlerForConfigReload(signal: c_int);
}

/// The library is being loaded by shared_preload_libraries.
pub fn preloading() -> bool {
    // SAFETY: a process global.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Keeps stack traces out of error details, whatever environment the server was started in.
pub fn no_backtraces() {
    // SAFETY: called while the library is loaded, when the process has one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") }
}

fn copy_into(target: &mut [c_char], text: &str) {
    for (slot, byte) in target.iter_mut().zip(text.bytes().chain([0])) {
        *slot = byte as c_char;
    }
    if let Some(last) = target.last_mut() {
        *last = 0;
    }
}

fn describe(name: &str, kind: &str, function: &str, argument: u64) -> pg_sys::BackgroundWorker {
    // SAFETY: all fields are plain data; zero is valid for each.
    let mut worker: pg_sys::BackgroundWorker = unsafe { std::mem::zeroed() };
    copy_into(&mut worker.bgw_name, name);
    copy_into(&mut worker.bgw_type, kind);
    copy_into(&mut worker.bgw_library_name, "pg_trickle");
    copy_into(&mut worker.bgw_function_name, function);
    worker.bgw_flags =
        (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int;
    worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    worker.bgw_main_arg = pg_sys::Datum::from(argument);
    worker
}

/// Registers the launcher. Only while libraries are preloaded.
pub fn register_launcher() {
    let mut worker = describe(
        "pg_trickle launcher",
        "pg_trickle launcher",
        "pgt_launcher_main",
        0,
    );
    worker.bgw_restart_time = 5;
    // SAFETY: the struct is complete and copied by the callee.
    unsafe { pg_sys::RegisterBackgroundWorker(&raw mut worker) }
}

/// Starts a worker that is not restarted by the postmaster; false if there is no free slot.
pub fn start(name: &str, kind: &str, function: &str, argument: u64) -> bool {
    let mut worker = describe(name, kind, function, argument);
    worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
    // SAFETY: a process constant.
    worker.bgw_notify_pid = unsafe { pg_sys::MyProcPid };
    let mut handle = std::ptr::null_mut();
    // SAFETY: the struct is complete and copied by the callee.
    unsafe { pg_sys::RegisterDynamicBackgroundWorker(&raw mut worker, &raw mut handle) }
}

/// Signal handlers and database connection of a worker. Without `database` only shared catalogs can be read.
pub fn connect(database: Option<pg_sys::Oid>) {
    // SAFETY: called once, first thing in a worker's main function.
    unsafe {
        pg_sys::pqsignal_be(pg_sys::SIGTERM as c_int, Some(die));
        pg_sys::pqsignal_be(pg_sys::SIGHUP as c_int, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
        match database {
            Some(oid) => {
                pg_sys::BackgroundWorkerInitializeConnectionByOid(oid, pg_sys::InvalidOid, 0)
            }
            None => {
                pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0)
            }
        }
        // Whatever the database's or role's defaults are.
        for (name, value) in [
            ("application_name", "pg_trickle"),
            ("default_transaction_isolation", "read committed"),
            ("default_transaction_read_only", "off"),
            ("default_transaction_deferrable", "off"),
            ("statement_timeout", "0"),
            ("transaction_timeout", "0"),
            ("lock_timeout", "0"),
            // In a deadlock with a user's session it is the worker that gives up.
            ("deadlock_timeout", "100ms"),
            ("idle_in_transaction_session_timeout", "0"),
            ("session_replication_role", "origin"),
        ] {
            super::session::set_for_session(name, value);
        }
    }
}

/// Waits for the latch or the time to pass. Handles a reload of the configuration and termination.
pub fn wait(timeout: Duration) {
    // SAFETY: waits on this process's own latch; termination raises FATAL here.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as c_int,
            timeout.as_millis().min(3_600_000) as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        pgrx::check_for_interrupts!();
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// What a failed transaction raised.
#[derive(Clone, Debug)]
pub struct Failure {
    pub sqlstate: String,
    pub message: String,
    /// What kind of error of our own it was, if it was one.
    pub kind: Option<Kind>,
    caught: Option<Rc<CaughtError>>,
}

impl Failure {
    /// The error comes from what was asked for: not cancellation, locks or resources.
    pub fn may_be_the_query(&self) -> bool {
        !["40", "53", "55", "57", "58"]
            .iter()
            .any(|class| self.sqlstate.starts_with(class))
    }

    /// An expression may have failed on a value that is in no state of the sources, or on a combination of values that
    /// never stood together; evaluating the query itself may succeed. Not so for cancellation, locks and resources.
    pub fn may_be_the_delta(&self) -> bool {
        !["40", "53", "55", "57", "58", "XX"]
            .iter()
            .any(|class| self.sqlstate.starts_with(class))
    }

    /// Raises the error again, as it was.
    pub fn raise(self) -> ! {
        match self.caught.and_then(Rc::into_inner) {
            Some(caught) => caught.rethrow(),
            None => pgrx::error!("{}", self.message),
        }
    }
}

/// Runs `work` in a transaction of its own with an active snapshot. An error aborts the transaction and is returned.
pub fn transaction<R>(work: impl FnOnce() -> Result<R, crate::error::Error>) -> Result<R, Failure> {
    // SAFETY: transaction commands in pairs; after an error the transaction is aborted before anything else happens.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let outcome = pgrx::PgTryBuilder::new(AssertUnwindSafe(|| match work() {
            Ok(value) => Ok(value),
            Err(error) => Err(Failure {
                sqlstate: sqlstate(error.code() as i32),
                kind: Some(error.kind),
                message: error.message,
                caught: None,
            }),
        }))
        .catch_others(|caught| Err(failure(caught)))
        .execute();
        match outcome {
            Ok(value) => {
                if pg_sys::ActiveSnapshotSet() {
                    pg_sys::PopActiveSnapshot();
                }
                // Commit can fail too (deferred triggers, a full disk); that error ends the process.
                pg_sys::CommitTransactionCommand();
                Ok(value)
            }
            Err(failure) => {
                pg_sys::AbortCurrentTransaction();
                pg_sys::FlushErrorState();
                Err(failure)
            }
        }
    }
}

/// What was raised, as a value.
pub(super) fn failure(caught: CaughtError) -> Failure {
    let (sqlstate, message) = match &caught {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => (
            sqlstate(report.sql_error_code() as i32),
            report.message().to_owned(),
        ),
        CaughtError::RustPanic { ereport, .. } => {
            ("XX000".to_owned(), ereport.message().to_owned())
        }
    };
    Failure {
        sqlstate,
        message,
        kind: None,
        caught: Some(Rc::new(caught)),
    }
}

/// The five letters of an SQLSTATE.
fn sqlstate(code: i32) -> String {
    // SAFETY: returns a static string for any code.
    unsafe {
        CStr::from_ptr(pg_sys::unpack_sql_state(code))
            .to_string_lossy()
            .into_owned()
    }
}

/// A database of the cluster that can be connected to.
pub struct DatabaseEntry {
    pub oid: pg_sys::Oid,
    pub name: String,
}

/// The databases that allow connections. In a transaction.
pub fn databases() -> Vec<DatabaseEntry> {
    let mut found = Vec::new();
    // SAFETY: a sequential scan of a shared catalog, closed below.
    unsafe {
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as c_int);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let form = &*super::node::tuple_struct::<pg_sys::FormData_pg_database>(tuple);
            if form.datallowconn && form.datconnlimit != pg_sys::DATCONNLIMIT_INVALID_DB {
                found.push(DatabaseEntry {
                    oid: form.oid,
                    name: CStr::from_ptr(form.datname.data.as_ptr())
                        .to_string_lossy()
                        .into_owned(),
                });
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
    }
    found
}

/// Says in pg_stat_activity what the worker is doing.
pub fn report(activity: &str) {
    if let Ok(activity) = CString::new(activity) {
        // SAFETY: copies the text.
        unsafe {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity.as_ptr())
        }
    }
}

/// Says in pg_stat_activity that the worker waits.
pub fn report_idle() {
    // SAFETY: plain status report.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()) }
}

static LEAVE: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();

/// Calls `leave` when the process ends, however it ends (except by SIGKILL, which restarts the whole server).
pub fn at_exit(leave: fn()) {
    if LEAVE.set(leave).is_ok() {
        // SAFETY: registered once per process.
        unsafe { pg_sys::before_shmem_exit(Some(leaving), pg_sys::Datum::from(0usize)) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn leaving(_code: c_int, _argument: pg_sys::Datum) {
    if let Some(leave) = LEAVE.get() {
        leave();
    }
}

/// The process exists.
pub fn alive(pid: i32) -> bool {
    // SAFETY: signal 0 only asks.
    pid != 0 && unsafe { libc::kill(pid, 0) } == 0
}

/// Asks a process to end.
pub fn terminate(pid: i32) {
    if pid > 0 {
        // SAFETY: one of our own workers, by the pid it registered itself.
        unsafe {
            libc::kill(pid, libc::SIGTERM);
        }
    }
}

/// What each kind of worker does.
pub struct Mains {
    pub launcher: fn(),
    pub scheduler: fn(pg_sys::Oid),
    /// Database and slot number.
    pub worker: fn(pg_sys::Oid, usize),
}

static MAINS: std::sync::OnceLock<Mains> = std::sync::OnceLock::new();

pub fn install(mains: Mains) {
    // A second registration in the same process would be the same one.
    let _ = MAINS.set(mains);
}

/// Entry point of the launcher.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn pgt_launcher_main(_argument: pg_sys::Datum) {
    if let Some(mains) = MAINS.get() {
        (mains.launcher)();
    }
}

/// Entry point of a database's scheduler; the argument is the database's oid.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn pgt_scheduler_main(argument: pg_sys::Datum) {
    if let Some(mains) = MAINS.get() {
        (mains.scheduler)(pg_sys::Oid::from(argument.value() as u32));
    }
}

/// Entry point of a refresh worker; the argument is slot number and database oid.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn pgt_worker_main(argument: pg_sys::Datum) {
    if let Some(mains) = MAINS.get() {
        (mains.worker)(
            pg_sys::Oid::from(argument.value() as u32),
            argument.value() >> 32,
        );
    }
}
