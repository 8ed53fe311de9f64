#!/usr/bin/env bash
# Runs fuzz targets under libFuzzer: scripts/fuzz.sh [SECONDS [TARGET…]]; without a target, each of them so long. Ends with a
# table, and with 1 where an input crashed: it is kept in fuzz/artifacts/TARGET, and
# `cargo run -p duramen-tests --bin duramen-fuzz -- TARGET FILE` runs it again. What is learnt stays in fuzz/corpus.
# Needs cargo-fuzz (`cargo install cargo-fuzz --locked`) and a C++ compiler. A stable toolchain will do: it takes the flags for
# coverage with RUSTC_BOOTSTRAP=1, which is set here for this command alone, and has no sanitizers, which safe code can do without.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "scripts/fuzz.sh [SECONDS [TARGET…]]: '$seconds' is no number of seconds" >&2; exit 2; }
shift || true
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked" >&2; exit 2; }
command -v c++ >/dev/null || { echo "a C++ compiler is missing: libFuzzer is built with it (apt-get install g++)" >&2; exit 2; }
mapfile -t known < <(cargo fuzz list)
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=("${known[@]}")
for target in "${targets[@]}"; do
    [[ " ${known[*]} " == *" $target "* ]] || { echo "there is no target $target: ${known[*]}" >&2; exit 2; }
done

cargo run --quiet --package duramen-tests --bin duramen-fuzz -- --seeds fuzz/corpus
# As .cargo/config.toml has it; cargo-fuzz sets its own flags over that.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg tokio_unstable"
for target in "${targets[@]}"; do
    cargo fuzz build --sanitizer none "$target"
done

log=$(mktemp)
trap 'rm -f "$log"' EXIT
rows=()
failed=0
for target in "${targets[@]}"; do
    echo "== $target, $seconds s"
    options=(-max_total_time="$seconds" -max_len=65536 -timeout=20 -print_final_stats=1)
    [[ -s fuzz/corpus/$target.dict ]] && options+=(-dict="fuzz/corpus/$target.dict")
    crashes=0
    cargo fuzz run --sanitizer none "$target" -- "${options[@]}" 2>&1 | tee "$log" || crashes=1
    failed=$((failed + crashes))
    stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
    runs=$(stat number_of_executed_units)
    speed=$(stat average_exec_per_sec)
    coverage=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
    rows+=("$(printf '| %-18s | %10s | %8s | %8s | %7s |' "$target" "${runs:-?}" "${speed:-?}" "${coverage:-?}" "$crashes")")
done
echo
printf '| %-18s | %10s | %8s | %8s | %7s |\n' target runs runs/s coverage crashes
echo "|--------------------|-----------:|---------:|---------:|--------:|"
printf '%s\n' "${rows[@]}"
if [[ $failed -gt 0 ]]; then
    echo "$failed of ${#targets[@]} targets crashed; the inputs are kept:"
    find fuzz/artifacts -type f
    exit 1
fi
