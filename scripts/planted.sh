#!/usr/bin/env bash
# Plants every known bug, one after the other, and shows which suite catches it, after how many seeds, and what it says:
# scripts/planted.sh [--list] [--control-seeds N] [BUG…]. Ends with 1 when one is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --quiet -p duramen-tests --bin duramen-planted -- "$@"
