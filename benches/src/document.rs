//! The file docs/BENCHMARKS.md.

use std::fs;
use std::path::PathBuf;

use crate::report::Section;

/// Replaces the whole of it.
pub fn write(report: &str) {
    fs::write(path(), report).expect("docs/BENCHMARKS.md");
}

/// Replaces the section of the same title, or adds it at the end.
pub fn put(section: &Section) {
    let text = fs::read_to_string(path()).expect("docs/BENCHMARKS.md");
    write(&with_section(&text, section.title(), &section.to_string()));
}

fn with_section(text: &str, title: &str, section: &str) -> String {
    let Some(start) = text.find(&format!("\n## {title}\n")) else {
        return format!("{}\n\n{section}", text.trim_end());
    };
    let rest = &text[start + 1..];
    let after = rest.find("\n## ").map_or("", |end| &rest[end..]);
    format!("{}\n{section}{after}", &text[..start])
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/BENCHMARKS.md")
}

#[cfg(test)]
mod tests {
    use super::with_section;

    const TEXT: &str = "# Title\n\n## A\n\nold a\n\n## B\n\nold b\n";

    #[test]
    fn a_section_is_replaced_in_its_place() {
        let first = with_section(TEXT, "A", "## A\n\nnew\n");
        assert_eq!(first, "# Title\n\n## A\n\nnew\n\n## B\n\nold b\n");
        let last = with_section(TEXT, "B", "## B\n\nnew\n");
        assert_eq!(last, "# Title\n\n## A\n\nold a\n\n## B\n\nnew\n");
    }

    #[test]
    fn a_new_section_comes_last() {
        let added = with_section(TEXT, "C", "## C\n\nnew\n");
        assert_eq!(added, format!("{TEXT}\n## C\n\nnew\n"));
    }
}
