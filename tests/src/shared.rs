//! The server that the tests of one run share, although each test may be a process of its own.

use crate::builder::ServerBuilder;
use crate::install::Install;
use crate::server::Server;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The server named by `PGT_TEST_SERVER` (its directory), else the one of this run of the test runner, started by the first test that asks.
/// It ends with the test runner.
pub(crate) fn server() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| {
        let install = Install::locate();
        match env::var_os("PGT_TEST_SERVER") {
            Some(dir) => Server::attach(install, PathBuf::from(dir)),
            None => of_this_run(install),
        }
    })
}

fn of_this_run(install: Install) -> Server {
    let runner = runner();
    let root = PathBuf::from(format!("/tmp/pgt-shared-{runner}-{}", install.build_id()));
    let lock = lock(&root.with_extension("lock"));
    let server = if root.join("ready").exists() {
        Server::attach(install, root)
    } else {
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).expect("directory of the shared server");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))
            .expect("mode of the shared server's directory");
        let server = Server::create(
            install,
            ServerBuilder::default().kept_by(root.clone(), runner),
        );
        File::create(root.join("ready")).expect("mark of the shared server");
        server
    };
    drop(lock);
    server
}

/// The process whose end is the end of the run: the test runner where there is one, else this process.
fn runner() -> u32 {
    let under_runner = env::var_os("NEXTEST").is_some() || env::var_os("CARGO").is_some();
    let parent = std::os::unix::process::parent_id();
    if under_runner {
        parent
    } else {
        std::process::id()
    }
}

fn lock(path: &Path) -> File {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .expect("lock file");
    file.lock().expect("lock of the shared server");
    file
}
