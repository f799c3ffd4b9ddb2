#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# HTTP to WebSocket: every role and the load harness on this machine, each gift watched to its one outcome on the screens, then
# `giftflow verify`. After a warm-up that is not counted (the broker's compiler, caches, connections; Redis makes its tables longer for the
# last time): as fast as it may or at --rate; at half of what was reached; with --burst a number of gifts accepted as fast as possible and then
# drained. Processor time per gift of each process comes from /proc. Wallets are funded the ordinary way. Redis has room for all markers, unless
# GIFTFLOW_REDIS_OPTS says otherwise.
set -euo pipefail
export LC_ALL=C.UTF-8
BENCH=e2e
# shellcheck source=bench/lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

usage() {
    echo "usage: ./dev bench e2e [--rate N] [--half N] [--burst N] [--seconds N] [--warm N] [--senders N] [--viewers N] [--rooms N] [--partitions N]
                       [--lanes N] [--set SECTION.KEY=VALUE] [--json]
  --rate N        gifts a second at planned times in the first phase (0: closed loop, as fast as it may)
  --half N        gifts a second in the second phase (half of what the first one reached; 0: leave it out)
  --burst N       a third phase: N gifts accepted as fast as possible, then drained (0)
  --warm N        gifts before, not counted (1300000: past 2^20 markers, where Redis begins to move them to a longer table)
  --lanes N       of settle (1: on two cores with everything on them a second one only makes the transactions smaller)
  --partitions N  of commands and notices (1, as settle has one lane: a transaction and a produce request are of one partition, and what a few
                  gifts share costs as much as what many do)"
}

rate=0 half='' burst=0 seconds=15 warm=1300000 senders=500 viewers=500 rooms=100 partitions=1 lanes=1 json='' settings=()
while [ $# -gt 0 ]; do
    case $1 in
        --rate) rate=$2 && shift ;;
        --half) half=$2 && shift ;;
        --burst) burst=$2 && shift ;;
        --seconds) seconds=$2 && shift ;;
        --warm) warm=$2 && shift ;;
        --senders) senders=$2 && shift ;;
        --viewers) viewers=$2 && shift ;;
        --rooms) rooms=$2 && shift ;;
        --partitions) partitions=$2 && shift ;;
        --lanes) lanes=$2 && shift ;;
        --set) settings+=(--set "$2") && shift ;;
        --json) json=yes ;;
        *) usage && exit 2 ;;
    esac
    shift
done

export GIFTFLOW_REDIS_OPTS=${GIFTFLOW_REDIS_OPTS:---maxmemory 1gb}
stack_up --partitions "$partitions" --set ingest.rate_per_second=1000000 --set "settle.lanes=$lanes" "${settings[@]}"
curl -fsS -m 10 -o /dev/null -H "Authorization: Bearer $GIFTFLOW_ADMIN_KEY" -H 'Content-Type: application/json' \
    -d '{"gift_id":22,"name":"Heart","price":90,"share_bp":5000}' "$GIFTFLOW_ADMIN_URL/admin/v1/gifts"
"$DEV" fund "1-$((senders + viewers))" 1000000000 --dir "$STACK" >&2
sleep 6 # a new price is valid a few seconds later

rc=0
load() {
    "$GIFTFLOW_BIN" load --ingest "$GIFTFLOW_INGEST_URL" --gateway "$GIFTFLOW_GATEWAY_URL" --users "1-$((senders + viewers))" \
        --senders "$senders" --viewers "$viewers" --rooms "$rooms" --gift 22 --drain 60 --json "$@"
}
field() { printf '%s' "$1" | sed -n "s/.*\"$2\":\([0-9.]*\).*/\1/p"; }

names=(kafka mysql redis ingest-1 settle-1 router-1 gateway-1 sweep-1)
phases=()
phase() { # NAME [arguments of load]: one counted run; its report, with the processor time of each process, goes to `phases`
    local name=$1 report accepted process cpu='' batches
    local -A before
    shift
    note "$name"
    for process in "${names[@]}"; do before[$process]=$(cpu_ms "$process"); done
    batches=$(sql 'SELECT COUNT(*) FROM batch')
    report=$(load "$@") || rc=$?
    [ -n "$report" ] || die "the load harness failed"
    accepted=$(field "$report" accepted)
    [ "$accepted" -gt 0 ] || die "nothing was accepted: $report"
    for process in "${names[@]}"; do
        cpu+="\"${process%-1}\":$(calc "($(cpu_ms "$process") - ${before[$process]}) * 1000 / $accepted" 1),"
    done
    cpu+="\"load\":$(calc "$(field "$report" cpu_us) / $accepted" 1)"
    batches=$(($(sql 'SELECT COUNT(*) FROM batch') - batches))
    phases+=("{\"phase\":\"$name\",\"cpu_us_per_gift\":{$cpu},\"batches\":$batches,\"load\":$report}")
    reached=$(calc "$(field "$report" accepted_per_s)" 0)
}

if [ "$warm" -gt 0 ]; then
    note "warming up with $warm gifts"
    load --rate 0 --count "$warm" --seconds 600 >/dev/null || rc=$?
fi
phase sustained --rate "$rate" --seconds "$seconds"
half=${half:-$((reached / 2))}
if [ "$half" -gt 0 ]; then phase half --rate "$half" --seconds "$seconds"; fi
if [ "$burst" -gt 0 ]; then phase burst --rate 0 --count "$burst" --seconds 600; fi
"$GIFTFLOW_BIN" verify >&2 || rc=1

all=$(
    IFS=,
    echo "${phases[*]}"
)
python3 - "[$all]" "$json" "$rc" <<'P'
import json, sys

phases, as_json, rc = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if as_json:
    print(json.dumps({"phases": phases, "verified": rc == 0}))
    sys.exit()
ms = lambda us: "%.1f" % (us / 1000)
for phase in phases:
    load, cpu = phase["load"], phase["cpu_us_per_gift"]
    planned = "%d/s planned" % load["rate"] if load["rate"] else "as fast as it may"
    print("%-10s %.0f gifts/s accepted, %s (%d in %.1f s, the last outcome %.1f s later); %d settled, %d of %d frames on screens, %.0f gifts a transaction"
          % (phase["phase"], load["accepted_per_s"], planned, load["accepted"], load["send_seconds"], load["drain_seconds"], load["settled"],
             load["frames"]["on_screens"], load["frames"]["on_screens_expected"], load["accepted"] / max(phase["batches"], 1)))
    for key, name in (("answer", "to the answer"), ("gift_to_sender", "to own screen"), ("gift_to_screen", "to all screens")):
        h = load["latency_us"][key]
        print("  %-16s p50 %s  p90 %s  p99 %s  p99.9 %s  max %s ms" % (name, *(ms(h[q]) for q in ("p50", "p90", "p99", "p999", "max"))))
    print("  processor us a gift: %.0f = %s" % (sum(cpu.values()), ", ".join("%s %.1f" % item for item in sorted(cpu.items(), key=lambda i: -i[1]))))
    for example in load["examples"]:
        print("  VIOLATED: " + example)
print("verdict    " + ("ok" if rc == 0 else "VIOLATED"))
P
exit $rc
