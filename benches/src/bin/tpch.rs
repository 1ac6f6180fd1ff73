//! Prints the section of benchmark `tpch`; with `--slope`, how its times grow with the data.

use pgt_benches::tpch;

fn main() {
    pgt_benches::main(|options| {
        if options.slope {
            tpch::slope(options)
        } else {
            tpch::run(options)
        }
    });
}
