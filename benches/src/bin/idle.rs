//! Prints the section of benchmark `idle`.

fn main() {
    pgt_benches::main(pgt_benches::idle::run);
}
