#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What one gift costs Redis, in processor time of the server: load, reserve, accept and publish, each by its own, with so many requests per
# turn of ingest's loop, and with 50 gifts of each sender. Arguments: [--json yes] [--gifts N] [--rounds N]
set -euo pipefail
program=$(dirname "$0")/../build/release/giftflow-bench-redis
case " $* " in
    *' --json '*) ;;
    *) echo "window  senders     load  reserve   accept  publish     gift   (us; gift without load)" ;;
esac
for window in 1 8 32 128; do
    "$program" --window "$window" "$@" 2>/dev/null
done
"$program" --window 32 --senders 2000 "$@" 2>/dev/null
