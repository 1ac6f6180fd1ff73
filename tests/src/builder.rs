//! What a private server is made with.

use crate::install::Install;
use crate::server::Server;
use std::path::PathBuf;

/// Settings of a server that is about to be made.
pub struct ServerBuilder {
    pub(crate) gucs: Vec<(String, String)>,
    pub(crate) preload: bool,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) guardian: u32,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        let defaults = [
            ("listen_addresses", ""),
            ("fsync", "off"),
            ("wal_level", "logical"),
            ("max_worker_processes", "64"),
            ("max_connections", "200"),
            ("max_prepared_transactions", "20"),
            ("max_wal_senders", "5"),
            ("max_logical_replication_workers", "4"),
            ("shared_buffers", "128MB"),
            ("log_line_prefix", "%m [%p] %d %b: "),
            ("log_autovacuum_min_duration", "-1"),
            ("timezone", "UTC"),
            ("pg_trickle.verify_refresh", "on"),
        ];
        Self {
            gucs: defaults
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            preload: true,
            directory: None,
            guardian: std::process::id(),
        }
    }
}

impl ServerBuilder {
    /// A setting of `postgresql.conf`; a later one of the same name wins.
    pub fn guc(mut self, name: &str, value: &str) -> Self {
        self.gucs.push((name.into(), value.into()));
        self
    }

    /// Leaves the extension out of `shared_preload_libraries`.
    pub fn without_preload(mut self) -> Self {
        self.preload = false;
        self
    }

    /// Makes the cluster and starts it.
    pub fn start(self) -> Server {
        Server::create(Install::locate(), self)
    }

    /// The cluster lives in `directory` and dies with process `guardian`, not with the value that describes it.
    pub(crate) fn kept_by(mut self, directory: PathBuf, guardian: u32) -> Self {
        self.directory = Some(directory);
        self.guardian = guardian;
        self
    }
}
