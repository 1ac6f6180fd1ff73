//! Gives the library an identity: a digest of what it is built from. What one build has compiled is worth nothing to another.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

/// Everything that the compiled form of a stream table can depend on.
const INPUTS: [&str; 3] = ["src", "Cargo.toml", "Cargo.lock"];

fn main() {
    let mut files = Vec::new();
    for input in INPUTS {
        println!("cargo:rerun-if-changed={input}");
        collect(Path::new(input), &mut files);
    }
    files.sort();
    let mut digest = DefaultHasher::new();
    for file in files {
        digest.write(file.to_string_lossy().as_bytes());
        digest.write(&fs::read(&file).expect("source file"));
    }
    println!("cargo:rustc-env=PGT_BUILD={:016x}", digest.finish());
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("source directory") {
            collect(&entry.expect("source file").path(), files);
        }
    } else {
        files.push(path.to_path_buf());
    }
}
