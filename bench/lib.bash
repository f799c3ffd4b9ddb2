# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the benchmarks share: a stack of their own under build/bench/NAME, which is gone at the end (KEEP=yes keeps it), processor time
# from /proc, and a wait until the database has written what the phase before left dirty, so that no phase pays for another.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
DEV=$ROOT/dev
# shellcheck disable=SC2034
BIN=$ROOT/build/release
STACK=$ROOT/build/bench/$BENCH
export GIFTFLOW_BUILD=release GIFTFLOW_MYSQL_POOL=${GIFTFLOW_MYSQL_POOL:-1G}
# All members of a group are assigned at once, as with the broker's default of 3 s. Without it the first one is alone for two.
export GIFTFLOW_KAFKA_ARGS=${GIFTFLOW_KAFKA_ARGS:---override group.initial.rebalance.delay.ms=1000}

note() { printf 'bench %s: %s\n' "$BENCH" "$*" >&2; }
die() {
    note "$*"
    exit 1
}

stack_up() { # arguments of ./dev up
    "$DEV" down --dir "$STACK" --purge >&2 || true
    trap stack_down EXIT
    "$DEV" up --dir "$STACK" --no-build "$@" >&2 || die "the stack did not start"
    # shellcheck disable=SC1091
    source "$STACK/env"
    export GIFTFLOW_CONFIG
}
stack_down() {
    local rc=$?
    trap - EXIT
    if [ -z "${KEEP:-}" ]; then "$DEV" down --dir "$STACK" --purge >&2 || true; fi
    exit $rc
}

sql() { mariadb --no-defaults --batch --skip-column-names -u root -S "$GIFTFLOW_MYSQL_SOCKET" "$GIFTFLOW_MYSQL_DB" -e "$1"; }

settle_dirty_pages() {
    local i dirty
    sql 'SET GLOBAL innodb_max_dirty_pages_pct=0'
    for ((i = 0; i < 600; i++)); do
        dirty=$(sql "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'" | cut -f2)
        if [ "$dirty" -lt 200 ]; then break; fi
        sleep 0.1
    done
    sql 'SET GLOBAL innodb_max_dirty_pages_pct=90'
}

cpu_ms() { # NAME of a pid file: user + system time so far
    local pid hz stat
    read -r pid <"$GIFTFLOW_PID_DIR/$1.pid" || return 1
    hz=$(getconf CLK_TCK)
    read -r stat <"/proc/$pid/stat" || return 1
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    echo $(((${12} + ${13}) * 1000 / hz))
}

calc() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }
