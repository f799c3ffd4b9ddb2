#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The settlement transaction alone: the real store on a real MariaDB, windows made in memory. No Kafka record, no Redis, no notices.
# Processor time per gift of server and client is what to compare; rates are noise on a busy machine.
set -euo pipefail
export LC_ALL=C.UTF-8
BENCH=store
# shellcheck source=bench/lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

usage() {
    echo "usage: ./dev bench store [--gifts N] [--users N] [--combo] [--batch N] [--lanes N] [--repeat N]
  --gifts N  per run (1000000)      --users N  distinct senders (100000); --combo: 2,000
  --batch N  gifts in one transaction (settle.batch)      --lanes N (2)      --repeat N (3)"
}

gifts=1000000 users=100000 repeat=3 more=()
while [ $# -gt 0 ]; do
    case $1 in
        --gifts) gifts=$2 && shift ;;
        --users) users=$2 && shift ;;
        --combo) users=2000 ;;
        --batch | --lanes) more+=("$1" "$2") && shift ;;
        --repeat) repeat=$2 && shift ;;
        *) usage && exit 2 ;;
    esac
    shift
done

stack_up ingest=0 settle=0 router=0 gateway=0 sweep=0
"$BIN/giftflow-bench-fill" --wallets-only 1 --users "$users" || die "filling the tables failed"
for ((i = 0; i < repeat; i++)); do
    settle_dirty_pages
    "$BIN/giftflow-bench-store" --gifts "$gifts" --users "$users" --mysql-pid "$(<"$GIFTFLOW_PID_DIR/mysql.pid")" "${more[@]}" | grep -v "#" | tr '\n' ' '
    echo
done
