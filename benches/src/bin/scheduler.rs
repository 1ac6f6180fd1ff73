//! Prints the section of benchmark `scheduler`.

fn main() {
    pgt_benches::main(pgt_benches::scheduler::run);
}
