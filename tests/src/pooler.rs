//! PgBouncer in front of a server, handing out connections by transaction.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::install::Install;
use crate::server::{Server, ids, unprivileged};
use crate::session::Session;

/// A running PgBouncer, ended when dropped.
pub struct Pooler {
    child: Child,
    directory: tempfile::TempDir,
}

impl Pooler {
    /// Starts one with `size` connections to each database of the server.
    pub fn start(server: &Server, size: usize) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("pgt-pooler-")
            .tempdir_in("/tmp")
            .expect("directory");
        let dir = directory.path();
        let config = format!(
            "[databases]\n* = host={} port=5432 user=postgres\n\
             [pgbouncer]\nlisten_addr =\nlisten_port = 5432\nunix_socket_dir = {dir}\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {size}\nserver_round_robin = 1\n\
             ignore_startup_parameters = extra_float_digits,options\nlogfile = {dir}/log\npidfile = {dir}/pid\n",
            server.socket_directory().display(),
            dir = dir.display(),
        );
        let file = dir.join("pgbouncer.ini");
        fs::write(&file, config).expect("pgbouncer.ini");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("permissions");
        let mut command = match unprivileged() {
            Some(user) => {
                let (uid, gid) = ids(user);
                for path in [dir, file.as_path()] {
                    chown(path, Some(uid), Some(gid)).expect("chown");
                }
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(Install::pgbouncer());
                command
            }
            None => Command::new(Install::pgbouncer()),
        };
        command.current_dir("/");
        let child = command
            .arg("-q")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer");
        let pooler = Self { child, directory };
        let started = Instant::now();
        while !dir_has_socket(pooler.directory.path()) {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "pgbouncer did not start:\n{}",
                fs::read_to_string(pooler.directory.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        pooler
    }

    /// A client of the pooler.
    pub fn connect(&self, database: &str) -> Session {
        Session::open(self.directory.path(), database, "postgres")
    }
}

fn dir_has_socket(dir: &Path) -> bool {
    dir.join(".s.PGSQL.5432").exists()
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let written = fs::read_to_string(self.directory.path().join("pid"));
        if let Some(pid) = written
            .ok()
            .and_then(|text| Pid::from_raw(text.trim().parse().ok()?))
        {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.child.wait();
    }
}
