#!/usr/bin/env bash
# Runs the simulator: scripts/sim.sh [--leaders] --seed N [--trace], or [--leaders] --seeds N [--from S] [--jobs J].
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo run --quiet --package duramen-tests --bin duramen-sim -- "$@"
