#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Gifts per second of settlement from a filled topic, beside two floors of the same server in the same run:
#   one transaction per gift (conditional UPDATE, INSERT, COMMIT; prepared; 16 connections), and the fastest bulk insert of the same trade
#   rows alone. The rate is taken from the batch table, first to last commit, the rows of each lane's first batch not counted.
# Rounds of both, one after the other: the median of their ratios counts.
# --processes N,N,..: the same topic settled by so many processes instead, one measurement each, no floors. With --null-store the SQL is left
# out (a build of its own, which settles nothing): what our part alone can do.
# The wallets are written by SQL: benchmarks only.
set -euo pipefail
export LC_ALL=C.UTF-8
BENCH=settle
# shellcheck source=bench/lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

usage() {
    echo "usage: ./dev bench settle [--gifts N] [--rounds N] [--warm N] [--users N] [--combo] [--hot] [--lanes N] [--seconds N] [--set SECTION.KEY=VALUE] [--json]
       ./dev bench settle --processes 1,2,4 [--null-store] [--gifts N] [...]
  --gifts N    commands in the topic, each round (3000000)  --users N  distinct senders (100000)
  --rounds N   floors, then settlement (3)
  --warm N     commands settled before, not measured (5000000)
  --combo      2,000 senders: combos                --seconds  of the floor with one transaction per gift (5)
  --lanes N    settle.lanes (2)                     --set      any setting of giftflow.conf
  --hot        three of ten gifts are one sender's: its partition beside the others"
}

gifts=3000000 rounds=3 warm=5000000 users=100000 seconds=5 hot=0 lanes=2 json='' settings=() processes='' null_store=''
while [ $# -gt 0 ]; do
    case $1 in
        --gifts) gifts=$2 && shift ;;
        --rounds) rounds=$2 && shift ;;
        --users) users=$2 && shift ;;
        --warm) warm=$2 && shift ;;
        --seconds) seconds=$2 && shift ;;
        --set) settings+=(--set "$2") && shift ;;
        --combo) users=2000 ;;
        --hot) hot=30 ;;
        --lanes) lanes=$2 settings+=(--set "settle.lanes=$2") && shift ;;
        --processes) processes=${2//,/ } && shift ;;
        --null-store) null_store=yes ;;
        --json) json=yes ;;
        *) usage && exit 2 ;;
    esac
    shift
done

stack_up ingest=0 settle=0 router=0 gateway=0 sweep=0 "${settings[@]}"
wait_settled() { # OFFSETS: the sum of all logs
    local now last=-1 idle=0
    while :; do
        now=$(sql 'SELECT COALESCE(SUM(next_offset), 0) FROM progress')
        if [ "$now" -ge "$1" ]; then return; fi
        if [ "$now" = "$last" ]; then idle=$((idle + 1)); else idle=0; fi
        if [ $idle -ge 120 ]; then die "settlement stands still at $now of $1; see $STACK/log/settle-1.log"; fi
        last=$now
        sleep 0.5
    done
}

if [ -n "$null_store" ] && [ -z "$processes" ]; then processes=1; fi

ops() { # NAME: its metrics
    curl -fsS -m 5 "http://127.0.0.1:$(awk -v n="$1.ops" '$1 == n { print $2; exit }' "$STACK/ports")/metrics"
}

# What the processes have settled so far, by their own count: the null store leaves nothing in the tables. And how many have begun.
settled_by() { # COUNT
    local i sum=0 begun=0 one
    for ((i = 1; i <= $1; i++)); do
        one=$(ops "settle-$i" | sed -n 's/^giftflow_commands_total{outcome="settled"} //p')
        sum=$((sum + one)) begun=$((begun + (one > 0)))
    done
    echo "$sum $begun"
}

processor_of() { # COUNT
    local i sum=0
    for ((i = 1; i <= $1; i++)); do sum=$((sum + $(cpu_ms "settle-$i"))); done
    echo $sum
}

now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

# From the first look at which every process has begun to the one at which all is settled.
measure_processes() { # COUNT GIFTS
    local names=() i done_before done_now begun from_ms=0 cpu_before=0
    for ((i = 1; i <= $1; i++)); do names+=("settle-$i"); done
    for i in "${names[@]}"; do "$DEV" start "$i" --dir "$STACK" >&2; done
    for ((i = 0; i < 6000; i++)); do
        read -r done_now begun < <(settled_by "$1")
        if [ "$from_ms" = 0 ] && [ "$begun" = "$1" ]; then
            from_ms=$(now_ms) done_before=$done_now cpu_before=$(processor_of "$1")
        fi
        if [ "$done_now" -ge "$2" ]; then break; fi
        sleep 0.05
    done
    [ "$done_now" -ge "$2" ] || die "settlement stands still at $done_now of $2"
    [ "$from_ms" != 0 ] || die "all was settled before each of $1 processes had begun: --gifts must be more"
    local took=$(($(now_ms) - from_ms)) gifts_done=$((done_now - done_before)) cpu=$(($(processor_of "$1") - cpu_before))
    for i in "${names[@]}"; do "$DEV" stop "$i" --dir "$STACK" >&2; done
    if [ -n "$json" ]; then
        echo "{\"processes\":$1,\"null_store\":${null_store:+true}${null_store:-false},\"gifts\":$gifts_done,\"settled_per_s\":$(calc "$gifts_done * 1000 / $took" 0),\"settle_us\":$(calc "$cpu * 1000 / $gifts_done" 1)}" | sed 's/trueyes/true/'
    else
        printf '%s processes%s  %8s gifts/s  %5s us of processor per gift in them\n' "$1" "${null_store:+ without SQL}" "$(calc "$gifts_done * 1000 / $took" 0)" "$(calc "$cpu * 1000 / $gifts_done" 1)"
    fi
}

if [ -n "$processes" ]; then
    "$BIN/giftflow-bench-fill" --gifts "$gifts" --users "$users" || die "filling the topic failed"
    if [ -n "$null_store" ]; then
        "$DEV" build nullstore >&2 || die "the build without a store failed"
        printf '%s\n' "$ROOT/build/nullstore/giftflow" >"$STACK/bin"
        export GIFTFLOW_ROLE_ARGS=--null-store
    fi
    for count in $processes; do
        measure_processes "$count" "$gifts"
        if [ -z "$null_store" ]; then "$BIN/giftflow-bench-fill" --gifts "$gifts" --users "$users" || die "filling the topic failed"; fi
    done
    exit 0
fi

# The broker compiles itself while it runs: its first million records cost several times what the rest do, and only settlement would
# pay for it.
note "warming up"
"$BIN/giftflow-bench-fill" --gifts "$warm" --users "$users" || die "filling the topic failed"
"$DEV" start settle-1 --dir "$STACK" >&2
wait_settled "$warm"
"$DEV" stop settle-1 --dir "$STACK" >&2

floor_kinds='text_1 text_2 prepared_1 prepared_2 array_1 array_2 load_1 load_2'
stages='poll decode fence credits wallets plan trades update chain close commit publish notices acks'
declare -A rounds_of sum # what each round measured, in a line per figure; what all rounds together cost
keep() { rounds_of[$1]+="$2"$'\n'; }
add() { sum[$1]=$(calc "${sum[$1]:-0} + $2" 3); }
median() { printf '%s' "${rounds_of[$1]}" | sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
list() { printf '%s' "${rounds_of[$1]}" | paste -sd ' '; }

# Floors and settlement one after the other on the same server: on a machine whose speed changes, only what was measured side by side compares.
measure_round() { # ROUND
    local done_before=$((warm + ($1 - 1) * gifts)) before_ms mysql kafka redis metrics batches settled other first_ms last_ms first_rows floors name value one bulk rate
    before_ms=$(sql 'SELECT MAX(committed_ms) FROM batch')
    "$BIN/giftflow-bench-fill" --gifts "$gifts" --users "$users" --hot "$hot" || die "filling the topic failed"
    note "round $1: floors"
    settle_dirty_pages
    floors=$("$BIN/giftflow-bench-floors" --users "$users" --seconds "$seconds" --mysql-pid "$(<"$GIFTFLOW_PID_DIR/mysql.pid")") || die "the floors failed"
    while IFS='=' read -r name value; do keep "$name" "$value"; done <<<"$floors"

    note "round $1: settlement"
    settle_dirty_pages
    mysql=$(cpu_ms mysql) kafka=$(cpu_ms kafka) redis=$(cpu_ms redis)
    "$DEV" start settle-1 --dir "$STACK" >&2
    wait_settled $((done_before + gifts))
    add settle_ms "$(cpu_ms settle-1)" && metrics=$(ops settle-1)
    add mysql_ms $(($(cpu_ms mysql) - mysql)) && add kafka_ms $(($(cpu_ms kafka) - kafka)) && add redis_ms $(($(cpu_ms redis) - redis))
    "$DEV" stop settle-1 --dir "$STACK" >&2
    # Each stage of the lanes: the time that passed and its processor time. What a statement takes in the server is time that passed.
    for name in $stages; do
        add "wall_$name" "$(printf '%s\n' "$metrics" | sed -n "s/^giftflow_settle_stage_microseconds_total{stage=\"$name\"} //p")"
        add "cpu_$name" "$(printf '%s\n' "$metrics" | sed -n "s/^giftflow_settle_stage_cpu_microseconds_total{stage=\"$name\"} //p")"
    done

    read -r batches settled other first_ms last_ms < <(sql "SELECT COUNT(*), SUM(settled), SUM(rejected + duplicate + dead), MIN(committed_ms), MAX(committed_ms) FROM batch WHERE committed_ms > $before_ms")
    first_rows=$(sql "SELECT SUM(n) FROM (SELECT next_offset - first_offset n FROM batch WHERE committed_ms > $before_ms ORDER BY committed_ms, log LIMIT $lanes) b")
    [ "$settled/$other" = "$gifts/0" ] || die "$settled of $gifts settled, $other not"
    value=$(sql 'SELECT COUNT(*) FROM trade WHERE outcome = 0')
    [ "$value" = $((done_before + gifts)) ] || die "$value trade rows for $((done_before + gifts)) gifts"
    rate=$(calc "($gifts - $first_rows) * 1000 / ($last_ms - $first_ms)" 0)
    one=$(sed -n 's/^one_txn_per_s=//p' <<<"$floors") bulk=$(sed -n 's/^bulk_insert_per_s=//p' <<<"$floors")
    keep settled_per_s "$rate" && keep ratio_one_txn "$(calc "$rate / $one")" && keep ratio_bulk_insert "$(calc "$rate / $bulk")" && add batches "$batches"
    # The share of others in the hot partition waits for the hot sender's gifts before it: both are told.
    value=$(sql 'SELECT last_log FROM wallet WHERE user_id = 1')
    log_rate() { sql "SELECT COALESCE(ROUND(SUM(settled) * 1000 / NULLIF(MAX(committed_ms) - MIN(committed_ms), 0)), 0) FROM batch WHERE committed_ms > $before_ms AND log $1"; }
    keep hot_partition_per_s "$(log_rate "= $value")" && keep other_partitions_per_s "$(log_rate "<> $value")"
}
for ((round = 1; round <= rounds; round++)); do measure_round "$round"; done

per_gift() { calc "${sum[$1]} * ${2:-1} / ($gifts * $rounds)" "${3:-1}"; }
if [ -n "$json" ]; then
    echo "{\"rounds\":$rounds,\"gifts\":$gifts,\"users\":$users,\"batches\":$(calc "${sum[batches]}" 0),"
    if [ "$hot" != 0 ]; then echo "\"hot_partition_per_s\":$(median hot_partition_per_s),\"other_partitions_per_s\":$(median other_partitions_per_s),"; fi
    for name in settled_per_s one_txn_per_s bulk_insert_per_s ratio_one_txn ratio_bulk_insert; do echo "\"$name\":$(median $name),\"${name}_of_rounds\":[$(list $name | tr ' ' ,)],"; done
    for kind in $floor_kinds; do echo "\"bulk_${kind}_per_s\":$(median "bulk_${kind}_per_s"),\"bulk_${kind}_mysql_us\":$(median "bulk_${kind}_mysql_us"),"; done
    echo "\"stages_us_per_gift\":{$(for stage in $stages; do printf '%s"%s":{"wall":%s,"cpu":%s}' "${comma:-}" "$stage" "$(per_gift "wall_$stage" 1 2)" "$(per_gift "cpu_$stage" 1 2)" && comma=,; done)},"
    echo "\"one_txn_mysql_us\":$(median one_txn_mysql_us),\"cpu_us_per_gift\":{\"settle\":$(per_gift settle_ms 1000),\"mysql\":$(per_gift mysql_ms 1000),\"kafka\":$(per_gift kafka_ms 1000),\"redis\":$(per_gift redis_ms 1000)}}"
else
    echo "$rounds rounds of $gifts gifts of $users users, $(calc "${sum[batches]}" 0) batches; the median, then each round"
    printf '%-23s %8s gifts/s (%s)\n' settlement "$(median settled_per_s)" "$(list settled_per_s)"
    if [ "$hot" != 0 ]; then echo "  its partition         $(median hot_partition_per_s) gifts/s, the others together $(median other_partitions_per_s) gifts/s"; fi
    printf '%-23s %8s/s       (%s)\n' "one transaction a gift" "$(median one_txn_per_s)" "$(list one_txn_per_s)" "bulk insert alone" "$(median bulk_insert_per_s)" "$(list bulk_insert_per_s)"
    printf '%-23s %8s x       (%s)\n' "settlement is" "$(median ratio_one_txn)" "$(list ratio_one_txn)" "  of bulk insert" "$(median ratio_bulk_insert)" "$(list ratio_bulk_insert)"
    for kind in $floor_kinds; do
        printf '  %-10s connections=%s  %8s/s  %5s us of the server per row\n' "${kind%_*}" "${kind#*_}" "$(median "bulk_${kind}_per_s")" "$(median "bulk_${kind}_mysql_us")"
    done
    echo "processor us per gift   settle $(per_gift settle_ms 1000), mysql $(per_gift mysql_ms 1000) (one transaction a gift: $(median one_txn_mysql_us)), kafka $(per_gift kafka_ms 1000), redis $(per_gift redis_ms 1000)"
    echo "stages of the lanes     us per gift: time that passed (a statement's is the server's), processor of the lane"
    for stage in $stages; do printf '  %-10s %6s %6s\n' "$stage" "$(per_gift "wall_$stage" 1 2)" "$(per_gift "cpu_$stage" 1 2)"; done
fi
