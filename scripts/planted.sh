#!/usr/bin/env bash
# Plants every known bug, one after the other, and shows which suite catches it, after how many seeds, and what it says:
# scripts/planted.sh [--list] [--control-seeds N] [BUG…]. Ends with 1 when one is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
# With the binary that the operator suite runs.
cargo build --quiet -p duramen-tests --bins
exec "${CARGO_TARGET_DIR:-target}/debug/duramen-planted" "$@"
