#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# How settlement's transaction fares while `trade` outgrows the buffer pool: the rate of each step of rows, for the key layout that the
# schema has and for others, with ids of version 7 and of version 4. The real store, windows made in memory (see bench/store.sh).
set -euo pipefail
export LC_ALL=C.UTF-8
BENCH=table
# shellcheck source=bench/lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

usage() {
    echo "usage: ./dev bench table [--rows N] [--step N] [--pool SIZE] [--layout NAME] [--ids v7|v4] [--seconds N] [--users N] [--json]
  --rows N     trade rows at the end (20000000)       --step N     rows between two figures (1000000)
  --pool SIZE  InnoDB's buffer pool (256M)            --seconds N  a run ends after this time, if its rows are not reached (900)
  --layout     schema: PRIMARY KEY (log, off), UNIQUE (request_id, user_id)      user_first: UNIQUE (user_id, request_id)
               by_user: PRIMARY KEY (user_id, request_id), UNIQUE (log, off)"
}

rows=20000000 step=1000000 pool=256M layout=schema ids=v7 seconds=900 users=100000 json=''
while [ $# -gt 0 ]; do
    case $1 in
        --rows) rows=$2 && shift ;;
        --step) step=$2 && shift ;;
        --pool) pool=$2 && shift ;;
        --layout) layout=$2 && shift ;;
        --ids) ids=$2 && shift ;;
        --seconds) seconds=$2 && shift ;;
        --users) users=$2 && shift ;;
        --json) json=yes ;;
        *) usage && exit 2 ;;
    esac
    shift
done

case $layout in
    schema) change='' ;;
    user_first) change='DROP KEY request, ADD UNIQUE KEY request (user_id, request_id)' ;;
    by_user) change='DROP KEY request, DROP PRIMARY KEY, ADD PRIMARY KEY (user_id, request_id), ADD UNIQUE KEY off (log, off)' ;;
    *) usage && exit 2 ;;
esac
case $ids in v7 | v4) ;; *) usage && exit 2 ;; esac

GIFTFLOW_MYSQL_POOL=$pool stack_up ingest=0 settle=0 router=0 gateway=0 sweep=0
[ -z "$change" ] || sql "ALTER TABLE trade $change"
"$BIN/giftflow-bench-fill" --wallets-only 1 --users "$users" || die "filling the tables failed"
settle_dirty_pages

rates=() sofar=0 began=$(date +%s)
while [ "$sofar" -lt "$rows" ] && [ $(($(date +%s) - began)) -lt "$seconds" ]; do
    out=$("$BIN/giftflow-bench-store" --gifts "$step" --users "$users" --ids "$ids" --mysql-pid "$(<"$GIFTFLOW_PID_DIR/mysql.pid")") || die "the store failed"
    sofar=$((sofar + step))
    rates+=("$(printf '%s\n' "$out" | sed -n 's/^settled_per_s=//p')")
    note "$layout, $ids: $sofar rows, ${rates[-1]} gifts/s"
done
bytes=$(sql "SELECT data_length + index_length FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'trade'")
if [ -n "$json" ]; then
    echo "{\"layout\":\"$layout\",\"ids\":\"$ids\",\"pool\":\"$pool\",\"step\":$step,\"rows\":$sofar,\"trade_bytes\":$bytes,\"settled_per_s\":[$(IFS=, && echo "${rates[*]}")]}"
else
    echo "layout $layout, ids $ids, pool $pool: $sofar rows, $((bytes / 1048576)) MiB of trade"
    echo "gifts/s of the first step ${rates[0]}, of the last ${rates[-1]}: x $(calc "${rates[-1]} / ${rates[0]}")"
fi
