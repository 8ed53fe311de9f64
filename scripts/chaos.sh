#!/usr/bin/env bash
# Real processes on hosts of their own (network namespaces), one fault after the other, five workloads at once; ends with a
# table of operations, outcomes and violations: scripts/chaos.sh [--minutes N | --rounds N] [--seed N] [--faults a,b]
# [--workloads a,b] [--loopback] [--evidence FOLDER]. Code 1 on a violation. As an ordinary user, what needs root is skipped
# by name.
set -euo pipefail
cd "$(dirname "$0")/.."
# With debug assertions, as the tests have it.
cargo build --quiet -p duramen-tests --bins
exec "${CARGO_TARGET_DIR:-target}/debug/duramen-chaos" "$@"
