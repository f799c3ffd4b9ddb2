#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# HTTP to WebSocket: every role on this machine, gifts at planned times (latency counts from those), each watched to its one outcome on the
# screens, then `giftflow verify`. Processor time per gift of each process from /proc. Wallets are funded the ordinary way.
set -euo pipefail
export LC_ALL=C.UTF-8
BENCH=e2e
# shellcheck source=bench/lib.bash
source "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

usage() {
    echo "usage: ./dev bench e2e [--rate N] [--seconds N] [--senders N] [--viewers N] [--rooms N] [--json]
  --rate N   gifts a second at planned times (3000); 0: closed loop, as fast as it may"
}

rate=3000 seconds=15 senders=500 viewers=500 rooms=100 json=''
while [ $# -gt 0 ]; do
    case $1 in
        --rate) rate=$2 && shift ;;
        --seconds) seconds=$2 && shift ;;
        --senders) senders=$2 && shift ;;
        --viewers) viewers=$2 && shift ;;
        --rooms) rooms=$2 && shift ;;
        --json) json=yes ;;
        *) usage && exit 2 ;;
    esac
    shift
done

stack_up --set ingest.rate_per_second=1000000
curl -fsS -m 10 -o /dev/null -H "Authorization: Bearer $GIFTFLOW_ADMIN_KEY" -H 'Content-Type: application/json' \
    -d '{"gift_id":22,"name":"Heart","price":90,"share_bp":5000}' "$GIFTFLOW_ADMIN_URL/admin/v1/gifts"
"$DEV" fund "1-$((senders + viewers))" 1000000000 --dir "$STACK" >&2
sleep 6 # a new price is valid a few seconds later

names=(ingest-1 settle-1 router-1 gateway-1 sweep-1 kafka mysql redis)
declare -A before
for name in "${names[@]}"; do before[$name]=$(cpu_ms "$name"); done
rc=0
report=$("$GIFTFLOW_BIN" load --ingest "$GIFTFLOW_INGEST_URL" --gateway "$GIFTFLOW_GATEWAY_URL" --users "1-$((senders + viewers))" \
    --senders "$senders" --viewers "$viewers" --rooms "$rooms" --gift 22 --rate "$rate" --seconds "$seconds" --json) || rc=$?
[ -n "$report" ] || die "the load harness failed"
accepted=$(printf '%s' "$report" | sed -n 's/.*"accepted":\([0-9]*\).*/\1/p')
[ "$accepted" -gt 0 ] || die "nothing was accepted: $report"
cpu=''
for name in "${names[@]}"; do
    cpu+="${cpu:+,}\"${name%-1}\":$(calc "($(cpu_ms "$name") - ${before[$name]}) * 1000 / $accepted" 1)"
done
"$GIFTFLOW_BIN" verify >&2 || rc=1
python3 - "$report" "{$cpu}" "$json" "$rc" <<'P'
import json, sys
report, cpu, as_json, rc = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])
report["cpu_us_per_gift"] = cpu
report["verified"] = rc == 0
if as_json:
    print(json.dumps(report))
else:
    ms = lambda us: "%.1f ms" % (us / 1000)
    print("gifts           %.0f/s accepted (%d in %.1f s), %d settled, %d frames on screens"
          % (report["accepted_per_s"], report["accepted"], report["send_seconds"], report["settled"], report["frames"]["on_screens"]))
    for key, name in (("answer", "to the answer"), ("gift_to_sender", "to own screen"), ("gift_to_screen", "to all screens")):
        h = report["latency_us"][key]
        print("%-15s p50 %s  p90 %s  p99 %s  p99.9 %s  max %s" % (name, ms(h["p50"]), ms(h["p90"]), ms(h["p99"]), ms(h["p999"]), ms(h["max"])))
    print("processor us per gift: " + ", ".join("%s %.1f" % item for item in cpu.items()) + "; harness %.1f" % (report["cpu_us"] / max(report["sent"], 1)))
    print("verdict         " + ("ok" if rc == 0 else "VIOLATED: %s" % [e for e in report["examples"]]))
P
exit $rc
