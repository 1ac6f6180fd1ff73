//! What the numbers were measured on.

use std::fmt;
use std::fs;
use std::thread::available_parallelism;

use crate::server::{self, SETTINGS};

/// The machine, its load and the server's settings.
pub struct Machine {
    lines: Vec<String>,
}

impl Machine {
    /// The machine and the settings of a server started for the purpose.
    pub fn look() -> Self {
        let server = server::start();
        let mut session = server.connect("postgres");
        let cores = available_parallelism().map_or(0, usize::from);
        let mut lines = vec![
            format!("{cores} cores, {}", processor()),
            format!("memory {}", first_value("/proc/meminfo", "MemTotal")),
            format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            format!(
                "load average when the run began: {}; priority of the run (nice): {}",
                load(),
                nice()
            ),
            session.value("select split_part(version(), ' on ', 1)"),
        ];
        let settings: Vec<String> = SETTINGS
            .iter()
            .map(|(name, _)| *name)
            .chain(["work_mem", "random_page_cost", "full_page_writes"])
            .map(|name| format!("`{name}` {}", session.value(&format!("show {name}"))))
            .collect();
        lines.push(settings.join(", "));
        if first_value("/proc/cpuinfo", "flags").contains("hypervisor") {
            lines.push(
                "a virtual machine; its cores are shared with whatever else runs there".into(),
            );
        }
        Self { lines }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "- {line}")?;
        }
        Ok(())
    }
}

pub fn processor() -> String {
    first_value("/proc/cpuinfo", "model name")
}

/// The load averages of 1, 5 and 15 minutes.
pub fn load() -> String {
    let text = read("/proc/loadavg");
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The niceness of this process, which its servers inherit.
fn nice() -> String {
    let stat = read("/proc/self/stat");
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    after_name
        .split(' ')
        .nth(16)
        .unwrap_or("unknown")
        .to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name : value`.
fn first_value(path: &str, name: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(|| "unknown".into(), |(_, value)| value.trim().to_owned())
}
