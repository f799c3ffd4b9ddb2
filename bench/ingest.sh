#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Requests per second and latency of POST /v1/gifts: one ingest process, real Kafka (acks=all) and Redis, beside the same process's
# /healthz. Nothing settles meanwhile, so holds pile up as in a burst; the per-user rate limit and the lag check are off.
set -euo pipefail
export LC_ALL=C.UTF-8
BENCH=ingest
# shellcheck source=bench/lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

usage() {
    echo "usage: ./dev bench ingest [--seconds N] [--connections N] [--users N] [--json]"
}

seconds=10 connections=128 users=50000 json=''
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=$2 && shift ;;
        --connections) connections=$2 && shift ;;
        --users) users=$2 && shift ;;
        --json) json=yes ;;
        *) usage && exit 2 ;;
    esac
    shift
done

stack_up settle=0 router=0 gateway=0 sweep=0 --set ingest.rate_per_second=1000000 --set ingest.lag_max=0s
"$BIN/giftflow-bench-fill" --wallets-only 1 --users "$users" || die "writing the wallets failed"
sleep 1 # the gift becomes known
ops=$(printf '%s\n' "$GIFTFLOW_OPS_URLS" | tr ',' '\n' | sed -n 's/^ingest-1=//p')
http() { "$BIN/giftflow-bench-http" --connections "$connections" --seconds "$seconds" "$@" || die "unexpected answers"; }
field() { printf '%s' "$1" | sed -n "s/.*\"$2\":\([0-9.]*\).*/\1/p"; }

note "healthz"
# The operations port takes few connections; a closed loop needs no more to keep one process busy.
health=$("$BIN/giftflow-bench-http" --connections 32 --seconds "$seconds" --url "$ops" --path /healthz) || die "unexpected answers"
note "gifts, every wallet for the first time"
cold=$(http --url "$GIFTFLOW_INGEST_URL" --gifts 1 --users "$users" --warmup-ms 0)
note "gifts"
ingest_before=$(cpu_ms ingest-1) redis_before=$(cpu_ms redis) kafka_before=$(cpu_ms kafka)
warm=$(http --url "$GIFTFLOW_INGEST_URL" --gifts 1 --users "$users" --warmup-ms 0)
requests=$(calc "$(field "$warm" requests_per_s) * $seconds" 0)
per_request() { calc "$1 * 1000 / $requests" 1; }
ingest=$(per_request $(($(cpu_ms ingest-1) - ingest_before)))
redis=$(per_request $(($(cpu_ms redis) - redis_before)))
kafka=$(per_request $(($(cpu_ms kafka) - kafka_before)))
if [ -n "$json" ]; then
    echo "{\"gifts\":$warm,\"gifts_cold\":$cold,\"healthz\":$health,\"cpu_us_per_gift\":{\"ingest\":$ingest,\"redis\":$redis,\"kafka\":$kafka}}"
else
    line() { echo "$1 $(field "$2" requests_per_s)/s  p50 $(calc "$(field "$2" p50_us) / 1000") ms  p99 $(calc "$(field "$2" p99_us) / 1000") ms  p99.9 $(calc "$(field "$2" p999_us) / 1000") ms"; }
    line "POST /v1/gifts           " "$warm"
    line "  wallets not yet cached " "$cold"
    line "GET /healthz             " "$health"
    echo "processor us per gift     ingest $ingest, redis $redis, kafka $kafka"
fi
