//! Runs the simulator: one seed with its trace, or many with a summary.

fn main() {
    std::process::exit(duramen_tests::sim::command::main(std::env::args().skip(1)));
}
