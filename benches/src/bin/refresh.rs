//! Prints the section of benchmark `refresh`.

fn main() {
    pgt_benches::main(pgt_benches::refresh::run);
}
