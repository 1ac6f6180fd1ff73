//! Prints the section of benchmark `choice`.

fn main() {
    pgt_benches::main(pgt_benches::choice::run);
}
