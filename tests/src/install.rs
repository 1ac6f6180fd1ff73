//! Where the PostgreSQL installation and the built extension are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A PostgreSQL installation and the staged files of the extension.
#[derive(Clone, Debug)]
pub struct Install {
    bindir: PathBuf,
    stage: PathBuf,
}

impl Install {
    /// Takes `PG_CONFIG` from the environment, else from `target/pgt/env`, which the set-up script writes; the extension
    /// is what the build script staged for `PGT_PROFILE` (default `release`).
    pub fn locate() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("tests/ has a parent");
        let pgt = root.join("target/pgt");
        let pg_config = env::var("PG_CONFIG")
            .ok()
            .or_else(|| pg_config_of(&pgt.join("env")));
        let pg_config = pg_config.unwrap_or_else(|| {
            panic!(
                "no PostgreSQL 18: set PG_CONFIG, or run scripts/setup, which writes {}",
                pgt.join("env").display()
            )
        });
        let profile = env::var("PGT_PROFILE").unwrap_or_else(|_| "release".into());
        Self {
            bindir: bindir(&pg_config),
            stage: pgt.join("stage").join(profile),
        }
    }

    /// The path of one of the installation's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// PgBouncer, as the set-up script found it.
    pub fn pgbouncer() -> PathBuf {
        let link = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pgt/pgbouncer");
        fs::canonicalize(link)
            .expect("no PgBouncer: install it, then run scripts/setup, which looks for it")
    }

    pub(crate) fn library(&self) -> PathBuf {
        self.stage.join("lib/pg_trickle.so")
    }

    pub(crate) fn extension_files(&self) -> PathBuf {
        self.stage.join("share/extension")
    }

    /// Changes whenever the extension was built anew.
    pub(crate) fn build_id(&self) -> String {
        let modified = fs::metadata(self.library()).and_then(|m| m.modified()).ok();
        let since = modified.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        since.map_or_else(|| "none".into(), |d| format!("{:x}", d.as_micros()))
    }
}

fn pg_config_of(env_file: &Path) -> Option<String> {
    let text = fs::read_to_string(env_file).ok()?;
    let value = text.lines().find_map(|l| {
        l.trim()
            .trim_start_matches("export ")
            .strip_prefix("PG_CONFIG=")
    })?;
    Some(value.trim().trim_matches(['"', '\'']).to_string())
}

fn bindir(pg_config: &str) -> PathBuf {
    let out = Command::new(pg_config).arg("--bindir").output();
    let out = out.unwrap_or_else(|e| panic!("could not run {pg_config}: {e}"));
    PathBuf::from(String::from_utf8_lossy(&out.stdout).trim())
}
