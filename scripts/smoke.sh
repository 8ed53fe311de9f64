#!/usr/bin/env bash
# Looks that the release binary has no planted bugs, starts a release `duramen dev` in a folder of its own, writes at one
# serving node, reads at the other with the write's timestamp, restarts, reads again, and stops. Ports begin at $1, or at
# a random place.
set -euo pipefail
cd "$(dirname "$0")/.."

duramen=${DURAMEN_BIN:-target/release/duramen}
# The program refuses variables that it does not know.
unset DURAMEN_BIN
first=${1:-$((20000 + RANDOM % 20000))}
one=http://127.0.0.1:$first
other=http://127.0.0.1:$((first + 1))
export DURAMEN_URL=$one,$other DURAMEN_LOG_URL=http://127.0.0.1:$((first + 10))
folder=$(mktemp -d)
pid=

finish() {
    if [[ -n $pid ]]; then kill -9 "$pid" 2>/dev/null || true; fi
    rm -rf "$folder"
}
trap finish EXIT

fail() {
    echo "smoke: $1" >&2
    cat "$folder/out" "$folder/err" >&2
    exit 1
}

start() {
    "$duramen" dev --data-dir "$folder/data" --http-port "$first" --log-http-port $((first + 10)) \
        --log-port $((first + 20)) --lag-ms 100 >"$folder/out" 2>"$folder/err" &
    pid=$!
    for _ in {1..300}; do
        if grep -q '^Ctrl-C ends it' "$folder/out"; then return; fi
        kill -0 "$pid" 2>/dev/null || fail "dev ended by itself"
        sleep 0.1
    done
    fail "dev was not ready within 30 s"
}

stop() {
    kill -TERM "$pid"
    wait "$pid" || fail "dev ended with code $?"
    pid=
}

expect() { # what, wanted, got
    if [[ $2 != "$3" ]]; then fail "$1: wanted '$2', got '$3'"; fi
}

# Bugs that tests plant on demand are compiled into test builds only (common/src/planted.rs).
if grep -qaE 'DURAMEN_PLANTED|no-sync-before-ack' "$duramen"; then fail "$duramen has planted bugs in it"; fi

start
timestamp=$(curl -sSf -o /dev/null -D - -X PUT --data-binary 'Satya Nadella' "$one/v1/kv/microsoft" |
    tr -d '\r' | sed -n 's/^[Ll]og-[Tt]imestamp: //p')
[[ $timestamp =~ ^[0-9a-f]{6}\.[0-9]+:[0-9]+$ ]] || fail "no Log-Timestamp came: '$timestamp'"
expect "read at the other node with the timestamp" 'Satya Nadella' \
    "$(curl -sSf -H "Read-After: $timestamp" "$other/v1/kv/microsoft")"
expect "a missing key's status" 404 "$(curl -sS -o /dev/null -w '%{http_code}' "$other/v1/kv/nobody")"
timestamp=$("$duramen" put apple 'Tim Cook')
expect "duramen get --after" 'Tim Cook' "$("$duramen" get apple --url "$other" --after "$timestamp")"
printf 'google,Sundar Pichai\nyahoo,Jim Lanzone\n' >"$folder/chiefs.csv"
"$duramen" load "$folder/chiefs.csv" --no-state --verify "$other" >/dev/null || fail "load"
"$duramen" status --digest >/dev/null || fail "the serving nodes' digests differ"
second_instance=0
"$duramen" dev --data-dir "$folder/data" 2>"$folder/second" || second_instance=$?
expect "a second instance's code and lines" "1 1" "$second_instance $(wc -l <"$folder/second")"
stop
start
expect "read after a restart" 'Sundar Pichai' "$("$duramen" get google)"
stop
echo "smoke: put, read at the other node, load, digests, restart: all well"
