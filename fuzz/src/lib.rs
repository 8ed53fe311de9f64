//! The fuzz targets of `tests/src/fuzz` under libFuzzer: an input that panics, or takes more heap than it may, is kept.

use duramen_tests::fuzz::Target;

/// Runs an input of the target of that name.
pub fn attack(name: &str, input: &[u8]) {
    let target = Target::named(name).expect("each binary is named after its target");
    let heap = allocation_counter::measure(|| (target.run)(input));
    let limit = target.heap_limit_bytes(input.len());
    assert!(heap.bytes_max <= limit, "{} bytes of heap, {limit} are the limit", heap.bytes_max);
}
