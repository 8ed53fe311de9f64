#!/usr/bin/env bash
# Maelstrom's workloads against duramen-maelstrom, each without faults and with partitions, and a line for each at the end.
#
#   scripts/maelstrom.sh [WORKLOAD…]        all of them, when none is named
#
# With $MAELSTROM (the path of upstream's program `maelstrom`, of its folder or its jar; 0.2.3 or later) upstream's tool judges.
# It is at https://github.com/jepsen-io/maelstrom/releases and needs Java 11 or later; gnuplot and graphviz draw its plots.
# Without it the workbench (tests/src/workbench) does, which has kills besides.
#
#   NODES=5 SECONDS_EACH=60 RATE=100 LATENCY_MS=10 SEED=1   are what they are when they are not set; SEED is the workbench's.
set -euo pipefail
cd "$(dirname "$0")/.."

nodes=${NODES:-5} seconds_each=${SECONDS_EACH:-60} rate=${RATE:-100} latency_ms=${LATENCY_MS:-10} seed=${SEED:-1}
workloads=("$@")
if [[ $# -eq 0 ]]; then
    workloads=(lin-kv txn-list-append txn-rw-register kafka echo unique-ids broadcast g-set g-counter pn-counter)
fi

cargo build --release -p duramen-maelstrom
binary=$PWD/target/release/duramen-maelstrom
results=$(mktemp -d)
# Nodes that are killed leave their temporary folders.
export TMPDIR=$results/tmp
mkdir "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT

# Runs one workload under upstream's tool; its store/ stays in the folder of the results.
upstream() {
    local workload=$1 nemesis=$2 options=()
    case $workload in
    lin-kv | kafka) options+=(--concurrency 2n) ;;
    txn-*) options+=(--consistency-models strict-serializable) ;;
    unique-ids | echo) options+=(--availability total) ;;
    esac
    [[ $nemesis == none ]] || options+=(--nemesis "$nemesis" --nemesis-interval 5)
    (cd "$results" && "${maelstrom[@]}" test -w "$workload" --bin "$binary" --node-count "$nodes" --rate "$rate" \
        --time-limit "$seconds_each" --latency "$latency_ms" "${options[@]}")
}

workbench() {
    target/release/duramen-workbench "$1" --bin "$binary" --nodes "$nodes" --rate "$rate" --concurrency $((2 * nodes)) \
        --time-limit "$seconds_each" --latency-ms "$latency_ms" --nemesis "$2" --nemesis-interval 5 --seed "$seed"
}

if [[ -n ${MAELSTROM:-} ]]; then
    path=$(realpath -- "$MAELSTROM")
    if [[ -d $path ]]; then
        if [[ -x $path/maelstrom ]]; then path=$path/maelstrom; else path=$path/lib/maelstrom.jar; fi
    fi
    if [[ ! -f $path ]]; then
        echo "MAELSTROM=$MAELSTROM names no maelstrom, no folder with one, and no jar" >&2
        exit 2
    fi
    maelstrom=("$path")
    if [[ $path == *.jar ]]; then maelstrom=(java -jar "$path"); fi
    judge=upstream faults=(none partition)
else
    echo "MAELSTROM is not set: get upstream's tool at https://github.com/jepsen-io/maelstrom/releases; the workbench runs."
    cargo build --release -p duramen-tests --bin duramen-workbench
    judge=workbench faults=(none partition partition,kill)
fi

table=() failed=0
for workload in "${workloads[@]}"; do
    for nemesis in "${faults[@]}"; do
        log=$results/$workload-$nemesis.log verdict=well
        "$judge" "$workload" "$nemesis" >"$log" 2>&1 || { verdict="WRONG, see $log"; failed=1; }
        [[ $judge == upstream ]] || cat "$log"
        table+=("$(printf '%-18s %-16s %s' "$workload" "$nemesis" "$verdict")")
    done
done
printf '%s\n' "-- $judge, $nodes nodes, $seconds_each s each" "${table[@]}"
exit "$failed"
