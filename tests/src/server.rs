//! A private PostgreSQL cluster in a temporary directory, reached through a unix socket only.

use crate::builder::ServerBuilder;
use crate::database::Database;
use crate::install::Install;
use crate::session::Session;
use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A running cluster. One that was started by [`Server::start`] or a builder is stopped and removed when dropped.
pub struct Server {
    install: Install,
    root: PathBuf,
    owned: bool,
}

impl Server {
    /// A server of the caller's own, with the settings the tests use.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// For a server with other settings.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The server that all tests of one run share.
    pub fn shared() -> &'static Self {
        crate::shared::server()
    }

    pub(crate) fn attach(install: Install, root: PathBuf) -> Self {
        Self {
            install,
            root,
            owned: false,
        }
    }

    pub(crate) fn create(install: Install, builder: ServerBuilder) -> Self {
        let owned = builder.directory.is_none();
        let root = builder
            .directory
            .clone()
            .unwrap_or_else(temporary_directory);
        let server = Self {
            install,
            root,
            owned,
        };
        server.lay_out();
        server.initdb();
        server.configure(&builder);
        server.up();
        server.watch(builder.guardian);
        server
    }

    /// A fresh database with the extension, dropped with the value.
    pub fn database(&self) -> Database<'_> {
        Database::create(self, true)
    }

    /// A fresh database without the extension.
    pub fn empty_database(&self) -> Database<'_> {
        Database::create(self, false)
    }

    /// A superuser's session in the database of that name.
    pub fn connect(&self, database: &str) -> Session {
        Session::open(&self.socket_directory(), database, "postgres")
    }

    /// The value for libpq's `host`.
    pub fn socket_directory(&self) -> PathBuf {
        self.root.join("sock")
    }

    pub fn install(&self) -> &Install {
        &self.install
    }

    /// Everything the server has logged so far.
    pub fn log(&self) -> String {
        fs::read(self.root.join("log"))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// Runs one of PostgreSQL's client programs against this server as superuser; panics unless it succeeds.
    pub fn client_program(&self, name: &str, args: &[&str]) -> Output {
        let mut command = Command::new(self.install.program(name));
        command
            .env("PGHOST", self.socket_directory())
            .env("PGUSER", "postgres")
            .env("PGPORT", "5432");
        succeed(command.args(args).stdin(Stdio::null()))
    }

    /// Changes settings in `postgresql.conf`; they take effect at the next [`Server::reload`] or restart.
    pub fn configure_guc(&self, name: &str, value: &str) {
        let path = self.root.join("data/postgresql.conf");
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(path)
            .expect("postgresql.conf");
        writeln!(file, "{name} = '{}'", value.replace('\'', "''")).expect("postgresql.conf");
    }

    pub fn reload(&self) {
        self.pg_ctl(&["reload"]);
    }

    /// Starts a stopped or crashed server.
    pub fn up(&self) {
        let log = self.root.join("log");
        self.pg_ctl(&["start", "-w", "-t", "120", "-l", &log.to_string_lossy()]);
    }

    /// Stops with `mode` smart, fast or immediate.
    pub fn stop(&self, mode: &str) {
        self.pg_ctl(&["stop", "-w", "-t", "120", "-m", mode]);
    }

    pub fn restart(&self) {
        self.stop("fast");
        self.up();
    }

    /// SIGKILL to the postmaster and everything it started: what a power cut looks like to the data directory.
    pub fn kill_postmaster(&self) {
        let postmaster = self.postmaster();
        let children = children_of(postmaster);
        kill(postmaster, Signal::KILL);
        for child in &children {
            kill(*child, Signal::KILL);
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while alive(postmaster) || children.iter().any(|c| alive(*c)) {
            assert!(
                Instant::now() < deadline,
                "killed processes are still there"
            );
            sleep(Duration::from_millis(5));
        }
        // Until somebody has waited for the dead postmaster, its lock files would look as if it were running.
        for lock_file in ["data/postmaster.pid", "sock/.s.PGSQL.5432.lock"] {
            let _ = fs::remove_file(self.root.join(lock_file));
        }
    }

    /// SIGKILL to one backend or worker, upon which PostgreSQL restarts all of them.
    pub fn kill_worker(&self, pid: i32) {
        kill(pid, Signal::KILL);
    }

    /// Waits until the server takes connections, as it does again some time after a crash of one of its processes.
    pub fn wait_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while let Err(e) = Session::try_open(&self.socket_directory(), "postgres", "postgres") {
            assert!(
                Instant::now() < deadline,
                "server does not take connections: {e}"
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// The postmaster's process id.
    pub fn postmaster(&self) -> i32 {
        let text =
            fs::read_to_string(self.root.join("data/postmaster.pid")).expect("postmaster.pid");
        text.lines()
            .next()
            .and_then(|l| l.trim().parse().ok())
            .expect("pid in postmaster.pid")
    }

    fn lay_out(&self) {
        for dir in ["sock", "lib", "share/extension", "data"] {
            fs::create_dir_all(self.root.join(dir)).expect("cluster directory");
        }
        let library = self.install.library();
        if library.exists() {
            fs::copy(library, self.root.join("lib/pg_trickle.so")).expect("copy of pg_trickle.so");
            for entry in fs::read_dir(self.install.extension_files())
                .expect("staged extension files")
                .flatten()
            {
                let to = self.root.join("share/extension").join(entry.file_name());
                fs::copy(entry.path(), to).expect("copy of an extension file");
            }
        }
        fs::set_permissions(self.root.join("data"), fs::Permissions::from_mode(0o700))
            .expect("mode of data");
        if let Some((uid, gid)) = unprivileged().map(ids) {
            for path in [
                self.root.clone(),
                self.root.join("sock"),
                self.root.join("data"),
            ] {
                chown(path, Some(uid), Some(gid)).expect("owner of the cluster directory");
            }
        }
    }

    fn initdb(&self) {
        let data = self.root.join("data");
        let args = [
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "-D",
        ];
        succeed(self.program("initdb").args(args).arg(data));
    }

    fn configure(&self, builder: &ServerBuilder) {
        assert!(
            !builder.preload || self.root.join("lib/pg_trickle.so").exists(),
            "the extension is not built: {} does not exist",
            self.install.library().display()
        );
        self.configure_guc(
            "unix_socket_directories",
            &self.root.join("sock").to_string_lossy(),
        );
        self.configure_guc(
            "extension_control_path",
            &format!("{}:$system", self.root.join("share").display()),
        );
        self.configure_guc(
            "dynamic_library_path",
            &format!("{}:$libdir", self.root.join("lib").display()),
        );
        if builder.preload {
            self.configure_guc("shared_preload_libraries", "pg_trickle");
        }
        for (name, value) in &builder.gucs {
            self.configure_guc(name, value);
        }
    }

    fn pg_ctl(&self, args: &[&str]) {
        let mut command = self.program("pg_ctl");
        command
            .arg("-D")
            .arg(self.root.join("data"))
            .arg("-s")
            .args(args);
        command
            .env_remove("PGPORT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command.status().expect("pg_ctl runs");
        assert!(
            status.success(),
            "pg_ctl {args:?} failed; end of the log:\n{}",
            tail(&self.log(), 40)
        );
    }

    /// A server program, run as an ordinary user since PostgreSQL refuses root.
    fn program(&self, name: &str) -> Command {
        let path = self.install.program(name);
        let mut command = match unprivileged() {
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(path);
                command
            }
            None => Command::new(path),
        };
        command.current_dir("/");
        command
    }

    /// Leaves a process behind that removes the cluster once process `guardian` is gone, however it went.
    fn watch(&self, guardian: u32) {
        let script = "while kill -0 $1 2>/dev/null && [ -d $2 ]; do sleep 1; done
            [ -d $2 ] || exit 0
            pid=$(head -n 1 $2/data/postmaster.pid 2>/dev/null) && kill -QUIT $pid 2>/dev/null; sleep 1; rm -rf $2 $2.lock";
        let mut command = Command::new("setsid");
        command
            .args(["--fork", "sh", "-c", script, "sh", &guardian.to_string()])
            .arg(&self.root);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = command.status().expect("setsid runs");
        assert!(status.success(), "could not start the watchdog");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if std::thread::panicking() {
            eprintln!("end of the server's log:\n{}", tail(&self.log(), 60));
        }
        if self.root.join("data/postmaster.pid").exists() && alive(self.postmaster()) {
            self.stop("immediate");
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// The last `lines` lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn temporary_directory() -> PathBuf {
    let dir = tempfile::Builder::new()
        .prefix("pgt-")
        .tempdir_in("/tmp")
        .expect("directory under /tmp");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
        .expect("mode of the cluster directory");
    dir.keep()
}

/// The user that servers run as when the caller is root.
pub(crate) fn unprivileged() -> Option<&'static str> {
    if !geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    Some(if passwd.lines().any(|l| l.starts_with("postgres:")) {
        "postgres"
    } else {
        "nobody"
    })
}

pub(crate) fn ids(user: &str) -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = passwd
        .lines()
        .find(|l| l.split(':').next() == Some(user))
        .expect("user in /etc/passwd");
    let fields: Vec<&str> = line.split(':').collect();
    (
        fields[2].parse().expect("uid"),
        fields[3].parse().expect("gid"),
    )
}

fn succeed(command: &mut Command) -> Output {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("could not run {command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "{command:?} failed:\n{}{stderr}",
        String::from_utf8_lossy(&out.stdout)
    );
    out
}

fn children_of(parent: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<i32>().ok()));
    pids.filter(|pid| stat_fields(Path::new("/proc"), *pid).is_some_and(|(_, ppid)| ppid == parent))
        .collect()
}

/// State and parent of a process.
fn stat_fields(proc: &Path, pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    let after_name = &text[text.rfind(')')? + 2..];
    let mut fields = after_name.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn alive(pid: i32) -> bool {
    let exists = Pid::from_raw(pid)
        .is_some_and(|p| !matches!(test_kill_process(p), Err(rustix::io::Errno::SRCH)));
    exists && stat_fields(Path::new("/proc"), pid).is_none_or(|(state, _)| state != 'Z')
}

fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
