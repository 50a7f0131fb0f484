#!/usr/bin/env bash
# Real input, real failure, with nothing but the `ticketrail` command.
#
# Every stanza of `apt-cache dumpavail` becomes one message, published with an idempotent producer,
# while three consumers work on them: each hashes what it gets, fails 1 in 50 at the first try and
# rejects 1 in 500. Meanwhile the leader is killed with -9 and started again, then a follower, then
# all three at once. In the end: acknowledged + dead-lettered = published, as sets of bytes.
#
#     tests/real-input.sh            3,000 stanzas
#     tests/real-input.sh all        all of them, about 60,000
#     tests/real-input.sh 500 DIR    500, and the folder DIR is kept
#
# TICKETRAIL names the program; otherwise it is built (cargo build --release).
set -euo pipefail

stanzas=${1:-3000}
keep=${2:-}
here=$(cd "$(dirname "$0")/.." && pwd)
program=${TICKETRAIL:-}
if [ -z "$program" ]; then
    (cd "$here" && cargo build --release --package ticketrail-cli)
    program=$here/target/release/ticketrail
fi
work=${keep:-$(mktemp -d)}
mkdir -p "$work"
port=${TICKETRAIL_PORT:-17400}
export TICKETRAIL_ENDPOINTS=http://127.0.0.1:$port,$((port + 1)),$((port + 2))

say() { echo "$(date +%H:%M:%S) $*"; }
json() { python3 -c 'import json, sys; value = json.loads(sys.stdin.readline()); print(eval(sys.argv[1], {"v": value}))' "$1"; }

cleanup() {
    status=$?
    exec 3>&- || true
    kill "${children[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    if [ $status -ne 0 ]; then
        echo "FAILED with $status; the end of each log:" >&2
        tail -n 5 "$work"/*.log >&2 || true
    elif [ -z "$keep" ]; then
        rm -rf "$work"
    fi
}
children=()
trap cleanup EXIT

# --- the input: stanzas in a file, and the hash of each ------------------------------------------
all() { apt-cache dumpavail 2>/dev/null; }
if [ -z "$(all | head -n 1 || true)" ]; then
    say "apt-cache dumpavail gives nothing (apt-get update?): stanzas are made up"
    all() { for n in $(seq 1 3000); do printf 'Package: package-%d\nVersion: 1.%d\n\n' "$n" "$n"; done; }
fi
# Two archives may offer the same stanza; each is taken once, so that bodies are unique.
all | awk -v max="$stanzas" 'BEGIN { RS = ""; ORS = "\n\n" }
    (max == "all" || n < max) && !seen[$0]++ { print; n++ }' >"$work/input"
perl -MDigest::SHA=sha256_hex -00 -ne 's/\n+\z//; print sha256_hex($_), "\n"' "$work/input" | sort >"$work/published"
count=$(wc -l <"$work/published")
say "$count stanzas, $(du -h "$work/input" | cut -f1)"

# --- three nodes, each a process of its own ------------------------------------------------------
mkfifo "$work/keys"
"$program" dev --base-port "$port" --data-dir "$work/nodes" <"$work/keys" >"$work/dev.log" 2>&1 &
children+=($!)
exec 3>"$work/keys" # what is typed into `ticketrail dev`
for _ in $(seq 100); do
    "$program" --timeout 2s queue create hopeless >/dev/null 2>&1 && break
done
"$program" queue create stanzas --dead-letter hopeless --max-deliveries 0
"$program" cluster status

# --- three consumers -----------------------------------------------------------------------------
cat >"$work/worker" <<'WORKER'
#!/bin/sh
hash=$(sha256sum | cut -d' ' -f1)
if [ $((TICKETRAIL_MESSAGE_ID % 500)) -eq 0 ]; then exit 65; fi # reject
if [ $((TICKETRAIL_MESSAGE_ID % 50)) -eq 1 ] && [ "$TICKETRAIL_DELIVERY_COUNT" -eq 1 ]; then exit 1; fi # nack
echo "$hash $TICKETRAIL_MESSAGE_ID $TICKETRAIL_DELIVERY_COUNT" >>"$1"
WORKER
chmod +x "$work/worker"
for n in 0 1 2; do
    TICKETRAIL_ENDPOINTS=http://127.0.0.1:$((port + n)) "$program" --timeout 60s consume stanzas \
        --jobs 4 --exec "$work/worker $work/acked.$n" >"$work/consumer.$n.log" 2>&1 &
    children+=($!)
done

# --- the producer, through node 1 ----------------------------------------------------------------
# The input comes slowly, in a hundred pieces, so that the kills hit a producer at work.
started=$(date +%s)
awk -v piece="$((count / 100 + 1))" 'BEGIN { RS = ""; ORS = "\n\n" }
    { print } NR % piece == 0 { fflush(); system("sleep 0.15") }' "$work/input" |
    TICKETRAIL_ENDPOINTS=http://127.0.0.1:$port "$program" --timeout 120s publish stanzas \
        --stanzas --file - --idempotent apt-stanzas >"$work/producer.log" 2>&1 &
producer=$!
children+=("$producer")

# --- kill -9 -------------------------------------------------------------------------------------
stat() { "$program" -o json queue show stanzas | json "$1"; }
published() { stat 'int(v["stats"]["published"])'; }
reach() { while [ "$(published)" -lt $((count * $1 / 5)) ]; do sleep 0.2; done; }
leader() { "$program" -o json cluster status | json 'v["leader_node_id"]'; }
deaths() { grep -c "node $1 was killed" "$work/dev.log" || true; }
die() { # kills the nodes at once, and waits until they are gone
    local node
    local -A before
    for node; do before[$node]=$(deaths "$node"); done
    for node; do echo "k $node" >&3; done
    for node; do while [ "$(deaths "$node")" = "${before[$node]}" ]; do sleep 0.05; done; done
}
serving() { until "$program" --timeout 5s queue show stanzas >/dev/null 2>&1; do :; done; }
reach 1
victim=$(leader)
say "kill -9 of the leader, node $victim, $(published) of $count published"
die "$victim"
serving
say "the others serve; node $victim starts again"
echo "r $victim" >&3
reach 2
victim=$(($(leader) % 3 + 1))
say "kill -9 of a follower, node $victim, $(published) of $count published"
die "$victim"
serving
echo "r $victim" >&3
reach 3
say "kill -9 of all three at once, $(published) of $count published"
die 1 2 3
printf 'r 1\nr 2\nr 3\n' >&3
serving
say "all three serve again, $(published) of $count published"

# --- the end: drained, and compared by bytes -----------------------------------------------------
wait "$producer"
cat "$work/producer.log"
until [ "$(stat 'sum(int(v["stats"][k]) for k in ("ready", "delayed", "in_flight", "parked"))')" = 0 ]; do sleep 0.5; done
say "drained after $(($(date +%s) - started)) s"
"$program" consume hopeless --raw --exec 'sha256sum | cut -d" " -f1 >>'"$work/dead" --idle 3s >"$work/dead.log" 2>&1 || true
touch "$work/dead"
sort -u "$work/dead" >"$work/dead-lettered"
cut -d' ' -f1 "$work"/acked.* | sort -u >"$work/acknowledged"
redelivered=$(cat "$work"/acked.* | awk '$3 > 1' | wc -l)
stored_twice=$(cat "$work"/acked.* | awk '!seen[$1 " " $2]++ { ids[$1]++ } END { for (h in ids) if (ids[h] > 1) n++; print n + 0 }')
both=$(comm -12 "$work/acknowledged" "$work/dead-lettered" | wc -l)
sort -u "$work/acknowledged" "$work/dead-lettered" >"$work/found"
echo
"$program" queue list
"$program" cluster status
echo
printf '%-34s %8d\n' "published" "$count" "acknowledged" "$(wc -l <"$work/acknowledged")" \
    "dead-lettered" "$(wc -l <"$work/dead-lettered")" "both acknowledged and dead-lettered" "$both" \
    "acknowledged after a redelivery" "$redelivered" "stored twice (two ids, one body)" "$stored_twice" \
    "lost" "$(comm -23 "$work/published" "$work/found" | wc -l)" "never published" "$(comm -13 "$work/published" "$work/found" | wc -l)"
cmp -s "$work/published" "$work/found" && [ "$both" = 0 ] && [ "$stored_twice" = 0 ] && [ "$redelivered" -gt 0 ] || {
    say "NOT as it should be"
    exit 1
}
say "acknowledged + dead-lettered = published, as sets of bytes"
