//! See `tests/src/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| duramen_fuzz::attack("segment_recovery", data));
