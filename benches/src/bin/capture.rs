//! Prints the section of benchmark `capture`.

fn main() {
    pgt_benches::main(pgt_benches::capture::run);
}
