#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The most memory that one settle process has (VmHWM) while it works on a backlog in all partitions, which is when its prefetch, its
# batches, its notices and its publishes are all full. Wallets are written by SQL: benchmarks only.
set -euo pipefail
export LC_ALL=C.UTF-8
BENCH=memory
# shellcheck source=bench/lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

usage() {
    echo "usage: ./dev bench memory [--gifts N] [--users N] [--seconds N] [--set SECTION.KEY=VALUE] [--json]
  --gifts N    commands in the topic (10000000)     --users N  distinct senders (100000)
  --seconds N  how long settlement works (60)"
}

gifts=10000000 users=100000 seconds=60 json='' settings=()
while [ $# -gt 0 ]; do
    case $1 in
        --gifts) gifts=$2 && shift ;;
        --users) users=$2 && shift ;;
        --seconds) seconds=$2 && shift ;;
        --set) settings+=(--set "$2") && shift ;;
        --json) json=yes ;;
        *) usage && exit 2 ;;
    esac
    shift
done

stack_up ingest=0 settle=0 router=0 gateway=0 sweep=0 "${settings[@]}"
"$BIN/giftflow-bench-fill" --gifts "$gifts" --users "$users" || die "filling the topic failed"
"$DEV" start settle-1 --dir "$STACK" >&2
read -r pid <"$GIFTFLOW_PID_DIR/settle-1.pid"
sleep "$seconds"
hwm=$(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status")
rss=$(awk '/^VmRSS/ { print $2 }' "/proc/$pid/status")
cpu=$(cpu_ms settle-1)
read -r partitions settled < <(sql 'SELECT COUNT(*), SUM(next_offset) FROM progress')
[ "$settled" -gt 0 ] || die "nothing was settled; see $STACK/log/settle-1.log"
hwm_mb=$(calc "$hwm / 1024" 1) rss_mb=$(calc "$rss / 1024" 1) per_gift=$(calc "$cpu * 1000 / $settled" 1)
if [ -n "$json" ]; then
    echo "{\"gifts\":$gifts,\"partitions\":$partitions,\"seconds\":$seconds,\"settled\":$settled,\"left\":$((gifts - settled)),\"max_rss_mb\":$hwm_mb,\"rss_mb\":$rss_mb,\"cpu_us_per_gift\":$per_gift}"
else
    echo "settle at most $hwm_mb MB resident (now $rss_mb MB), $partitions partitions, $settled of $gifts gifts settled in $seconds s, $per_gift us of processor a gift"
fi
