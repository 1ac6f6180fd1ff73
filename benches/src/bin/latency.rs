//! Prints the section of benchmark `latency`.

fn main() {
    pgt_benches::main(pgt_benches::latency::run);
}
