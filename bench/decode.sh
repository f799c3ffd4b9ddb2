#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Records per second of the command decoder, beside jansson on the same records. Arguments: [--json] [SECONDS]
set -euo pipefail
exec "$(dirname "$0")/../build/release/giftflow-bench-decode" "$@"
