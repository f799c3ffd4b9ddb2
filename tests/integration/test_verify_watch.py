# SPDX-License-Identifier: Apache-2.0
"""giftflow verify --watch: beside a live system it is silent, mends Redis, raises the alarm for MySQL, and ends when told to."""

import contextlib
import itertools
import re
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cache
import pytest
from conftest import finish
from stack import BAD_LOG, PATIENT_ENV, Stack, wait_until


@pytest.fixture(scope="module")
def live():
    stack = Stack(
        roles={"router": 0, "gateway": 0, "settle": 2}, partitions=4,
        settings={"kafka.session_timeout": "12s", "settle.lanes": 1, "settle.batch": 200, "sweep.dlq": "50ms", "sweep.rollup": "50ms"},
    )  # fmt: skip
    try:
        stack.up()
        now = int(time.time() * 1000)
        for gift_id, price, share in ((1, 1, 3333), (22, 90, 5000)):
            stack.sql("INSERT INTO gift VALUES (%s, 'gift', '', '', 9999, 1, 1, %s)", gift_id, now)
            stack.sql("INSERT INTO gift_price VALUES (%s, %s, %s, %s, %s)", gift_id, now - 3600_000, 2**63 - 1, price, share)
        yield stack
        stack.drain()
        stack.verify()
    finally:
        finish(stack)


@contextlib.contextmanager
def fed(feed):
    """Calls feed() again and again in a thread. Gives what stops it; that raises what the thread has raised, if nothing else has failed the test before."""
    ends = threading.Event()

    def run():
        while not ends.is_set():
            feed()

    def stop():
        ends.set()
        feeder.result()

    with ThreadPoolExecutor(1) as pool:
        feeder = pool.submit(run)
        try:
            yield stop
            stop()
        finally:
            ends.set()


class Watch:
    """A running `verify --watch`."""

    def __init__(self, stack, *args):
        self.stack, self.out = stack, tempfile.NamedTemporaryFile(mode="w+", suffix=".log")
        self.process = subprocess.Popen(
            [stack.env["GIFTFLOW_BIN"], "verify", "--watch", "--interval", "1", *map(str, args), "--config", stack.env["GIFTFLOW_CONFIG"]],
            stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out, env={**stack.environ, **PATIENT_ENV, "GIFTFLOW_OPS_PORT": "0"},
        )  # fmt: skip
        port = wait_until(lambda: re.search(r"event=ops_started .*address=\S+:(\d+)", self.log()) or self.process.poll(), 60, "the operations port")
        assert not isinstance(port, int), self.log()
        self.base = f"http://127.0.0.1:{port.group(1)}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.out.close()

    def log(self):
        return Path(self.out.name).read_text(errors="replace")

    def metrics(self):
        assert self.process.poll() is None, self.log()[-4000:]
        status, _, text = self.stack.http("GET", "/metrics", base=self.base)
        assert status == 200
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("giftflow_verify"))
        return {series.removeprefix("giftflow_verify_"): float(value) for series, value in lines}

    def is_ready(self):
        return self.stack.http("GET", "/readyz", base=self.base)[0] == 200

    def full_passes(self, more=1):
        """Waits until the round at hand and as many more have ended."""
        want = self.metrics()["full_passes_total"] + more + 1
        wait_until(lambda: self.metrics()["full_passes_total"] >= want, 240, "full passes")

    def alarms(self):
        return re.findall(r"event=books_broken .*?check=(\w+)", self.log())

    def stop(self):
        """SIGTERM; -> exit status, and what its log says of alarms."""
        self.process.terminate()
        status = self.process.wait(timeout=60)
        assert not BAD_LOG.search(self.log()), self.log()
        return status


def test_it_is_silent_beside_traffic_kills_and_a_flushed_redis(live):
    users = live.new_users(60, 1_000_000)
    turns = itertools.count(1)

    def feed():
        pairs = []
        for i, user in enumerate(users):
            command = live.gift_command(user, gift_id=(1, 22)[i % 2], price=(1, 90)[i % 2], receiver_id=20001 + i % 5)
            if i % 10 == 3:
                command["price"] = 91
            pairs.append((user, command))
            if i % 10 == 5:
                pairs.append((user, command))
        live.produce_many(pairs * 3)  # repeats, too
        live.produce(str(users[next(turns) % 60]), "no json")

    with Watch(live, "--rate", 1_000_000) as watch, fed(feed) as stop_feeding:
        until = time.monotonic() + 10
        turn = 0
        while time.monotonic() < until or turn < 4:
            name = ("settle-1", "settle-2", "sweep-1", "settle-1")[turn % 4]
            live.kill(name)
            live.admin("POST", f"/admin/v1/wallets/{users[turn]}/freeze")
            if turn % 2:
                live.redis("FLUSHALL")
            live.start(name)
            live.admin("POST", f"/admin/v1/wallets/{users[turn]}/unfreeze")
            turn += 1
        stop_feeding()
        live.drain()
        watch.full_passes()
        seen = watch.metrics()
        assert watch.alarms() == [] and seen['drift_total{where="mysql"}'] == 0, watch.log()
        assert not re.search(r"redis_drift_found (?!.*behind MySQL)", watch.log()), watch.log()  # a killed publisher may leave some behind
        rows = live.sql("SELECT COUNT(*) AS n FROM trade")[0]["n"]
        assert seen['checked_total{what="trades"}'] >= 2 * rows
        assert seen['checked_total{what="wallets"}'] >= 2 * len(users) and seen['checked_total{what="cached"}'] > 0
        assert seen["last_full_pass_timestamp_seconds"] > time.time() - 600 and seen["errors_total"] == 0
        wait_until(lambda: watch.metrics()["unfollowed_records"] == 0, 60, "nothing is left to follow")
        assert watch.stop() == 0, watch.log()
    live.verify()


def test_drift_in_redis_is_mended_under_traffic(live):
    shares = lambda: [live.metrics(name)["giftflow_settle_partitions"] for name in ("settle-1", "settle-2")]  # noqa: E731
    wait_until(lambda: shares() == [2, 2], 60, "the last assignment, after which nothing is published again")
    ahead, other, frozen, behind, odd, junk = users = live.new_users(6, 1000)
    nobody, busy = live.new_id(), live.new_users(5, 1_000_000)
    live.produce_many([(user, live.gift_command(user)) for user in users])
    live.drain()
    wallets = {row["user_id"]: row for row in live.sql("SELECT user_id, ver, balance FROM wallet WHERE user_id IN %s", users)}

    def is_right(user):
        cached = cache.read(live, user)
        return cached and (cached["v"], cached["b"], cached["s"], cached["n"]) == (wallets[user]["ver"], wallets[user]["balance"], 1, 0)

    for user in users:
        wait_until(lambda: is_right(user), 60, "published")

    def feed():
        live.produce_many([(user, live.gift_command(user, gift_id=1, price=1)) for user in busy for _ in range(20)])

    with Watch(live) as watch, fed(feed) as stop_feeding:
        watch.full_passes(0)
        before = watch.metrics()["repaired_total"]
        ver = wallets[ahead]["ver"]
        cache.write(live, ahead, v=ver + 3, b=1_000_000)
        cache.write(live, other, b=1_000_000)
        cache.write(live, frozen, s=2)
        cache.write(live, behind, v=ver - 1, b=1_000_000)
        cache.write(live, odd, h=77)
        cache.write(live, nobody, v=7, b=1_000_000)
        cache.of_user(live, junk, "SET", cache.wallet_key(junk), "junk")
        for user in (other, frozen, behind):  # published again
            wait_until(lambda: is_right(user), 120, "mended")
        for user in (ahead, odd, nobody, junk):  # gone: the next request loads it
            wait_until(lambda: cache.read(live, user) is None, 120, "forgotten")
        wait_until(lambda: watch.metrics()["repaired_total"] >= before + 7, 60, "all are counted")
        seen = watch.metrics()
        assert seen['drift_total{where="redis"}'] >= before + 7 and seen['drift_total{where="mysql"}'] == 0
        stop_feeding()
        assert watch.alarms() == [] and watch.stop() == 0, watch.log()
    live.drain()
    done = subprocess.run([live.env["GIFTFLOW_BIN"], "verify", "--redis=yes", "--config", live.env["GIFTFLOW_CONFIG"]], capture_output=True, text=True, timeout=180, env={**live.environ, **PATIENT_ENV})
    assert done.returncode == 0, done.stdout
    assert live.gift(ahead)[0] == 202 and live.gift(frozen)[0] == 202


def test_a_wallet_that_cannot_be_mended_holds_nobody_up(live):
    """Redis does not let anybody write that key, for want of memory, say."""
    (user,), stubborn = live.new_users(1, 1000), 987654321
    wait_until(lambda: (cache.read(live, user) or {}).get("b") == 1000, 60, "published")
    cache.write(live, stubborn, v=7, b=1_000_000)
    live.redis("ACL", "SETUSER", "default", "resetkeys", "%R~*", "~gf1:{u:1*")
    try:
        with Watch(live, "--rate", 1_000_000) as watch:
            wait_until(lambda: f"redis_drift_left user_id={stubborn}" in watch.log() or watch.metrics()['drift_total{where="redis"}'] >= 2, 120, "it was tried")
            cache.write(live, user, b=1_000_000)
            wait_until(lambda: cache.read(live, user)["b"] == 1000, 120, "the other one is mended")
            assert cache.read(live, stubborn)["v"] == 7
            assert watch.alarms() == [] and watch.stop() == 0, watch.log()
    finally:
        live.redis("ACL", "SETUSER", "default", "resetkeys", "~*")
        cache.forget(live, stubborn)


SETTLED = "(log, off) = (SELECT log, off FROM (SELECT log, off FROM trade WHERE kind = 1 AND outcome = 0 AND prev_off > 0 ORDER BY log, off LIMIT 3, 1) x)"
DRIFTS = {
    "a balance": ("wallet", "UPDATE wallet SET balance = balance + 1 ORDER BY user_id LIMIT 1", {"wallet_balance"}),
    "a wallet that names another row": ("wallet", "UPDATE wallet SET last_off = last_off + 1000000 ORDER BY user_id LIMIT 1", {"statement_chain"}),
    "a trade's amount": ("trade", f"UPDATE trade SET balance_after = balance_after - 1 WHERE {SETTLED}", {"statement_chain", "hash_chain"}),
    "a balance that was below nothing": ("trade", f"UPDATE trade SET balance_after = -1 WHERE {SETTLED}", {"wallet_not_negative", "statement_chain", "hash_chain"}),
    "two rows that follow the same one": ("trade", f"UPDATE trade SET prev_off = prev_off - 1 WHERE {SETTLED}", {"statement_chain", "hash_chain"}),
    "a dead letter that is gone": ("dead_letter", "DELETE FROM dead_letter ORDER BY log, off LIMIT 1", {"offsets"}),
    "the head of a chain": ("progress", "UPDATE progress SET last_hash = REPEAT('x', 32) WHERE last_hash IS NOT NULL ORDER BY log LIMIT 1", {"hash_chain"}),
}  # fmt: skip


def test_drift_in_mysql_raises_the_alarm_and_is_left_alone(live):
    """Nothing settles meanwhile, so that the tables can be put back."""
    user = live.new_user(1000)
    live.produce_many([(user, live.gift_command(user)), (user, live.gift_command(user, price=91))] * 5)
    live.produce(str(user), "no json")
    live.drain()
    wait_until(lambda: not live.sql("SELECT 1 FROM progress p JOIN rollup r ON r.log = p.log WHERE r.rolled_offset <> p.next_offset"), 60, "roll-up")
    wait_until(lambda: not live.sql("SELECT 1 FROM dead_letter WHERE state = 0"), 60, "dead letters fed")
    for name in ("settle-1", "settle-2", "sweep-1"):
        live.stop(name)
    db = live.connect_db(user="root")  # the role's own user may not change trades
    try:
        with Watch(live, "--rate", 1_000_000, "--redis=no") as watch, db.cursor() as cursor:
            cursor.execute("SET check_constraint_checks = 0")
            watch.full_passes()
            assert watch.alarms() == []
            for what, (table, statement, expected) in DRIFTS.items():
                cursor.execute(f"CREATE TABLE saved LIKE {table}")
                cursor.execute(f"INSERT INTO saved SELECT * FROM {table}")
                before = len(watch.alarms())
                assert cursor.execute(statement) == 1, what
                cursor.execute(f"CHECKSUM TABLE {table}")
                planted = cursor.fetchall()
                watch.full_passes()
                found = set(watch.alarms()[before:])
                cursor.execute(f"CHECKSUM TABLE {table}")
                assert cursor.fetchall() == planted, f"{what} was changed by the watch"
                cursor.execute(f"DELETE FROM {table}")
                cursor.execute(f"INSERT INTO {table} SELECT * FROM saved")
                cursor.execute("DROP TABLE saved")
                assert found == expected, (what, watch.log()[-3000:])
                watch.full_passes(0)  # the round that saw it both ways
            seen = watch.metrics()
            assert seen['drift_total{where="mysql"}'] >= len(DRIFTS) and seen["repaired_total"] == 0
            quiet = len(watch.alarms())
            watch.full_passes()
            assert len(watch.alarms()) == quiet  # all was put back
            assert watch.stop() == 3
    finally:
        db.close()
        for name in ("settle-1", "settle-2", "sweep-1"):
            live.start(name)


def test_the_first_round_looks_at_the_first_log_too(live):
    users = live.new_users(40, 1000)
    live.produce_many([(user, live.gift_command(user, gift_id=1, price=1)) for user in users] * 5)
    live.drain()
    for name in ("settle-1", "settle-2", "sweep-1"):
        live.stop(name)
    db = live.connect_db(user="root")
    try:
        with db.cursor() as cursor:
            cursor.execute(f"SELECT log, off, balance_after, (SELECT MIN(log) FROM progress) AS first FROM trade WHERE {SETTLED}")
            row = cursor.fetchone()
            assert row["log"] == row["first"]
            cursor.execute("SET check_constraint_checks = 0")
            assert cursor.execute("UPDATE trade SET balance_after = balance_after + 1 WHERE log = %s AND off = %s", (row["log"], row["off"])) == 1
            try:
                with Watch(live, "--rate", 1_000_000, "--redis=no", "--interval", 3600) as watch:
                    wait_until(lambda: watch.metrics()["full_passes_total"] == 1, 240, "the first round")  # the second one is an hour away
                    assert set(watch.alarms()) == {"statement_chain", "hash_chain"}, watch.log()
                    assert watch.stop() == 3
            finally:
                cursor.execute("UPDATE trade SET balance_after = %s WHERE log = %s AND off = %s", (row["balance_after"], row["log"], row["off"]))
    finally:
        db.close()
        for name in ("settle-1", "settle-2", "sweep-1"):
            live.start(name)


def test_it_reads_no_faster_than_it_may(live):
    """A whole round over far more than one snapshot holds takes the time that it must; a slow machine makes it only longer."""
    users = live.new_users(100, 1000)
    live.produce_many([(user, live.gift_command(user, gift_id=1, price=1)) for _ in range(125) for user in users])
    live.drain()
    rows = live.sql("SELECT COUNT(*) AS n FROM trade")[0]["n"]
    assert rows > 12_500
    rate, ahead = rows // 6, 2000 + 400  # what is read before it is paid for: a snapshot, with the batch that fills it
    began = time.monotonic()
    with Watch(live, "--rate", rate) as watch:
        wait_until(lambda: watch.metrics()["full_passes_total"] > 0, 240, "a whole round")
        checked = sum(v for k, v in watch.metrics().items() if k.startswith("checked_total"))
        assert checked > 12_500
        assert checked <= ahead + rate * (time.monotonic() - began)
        assert watch.stop() == 0
    with Watch(live, "--rate", 1, "--redis=no") as watch:
        wait_until(lambda: watch.metrics()['checked_total{what="wallets"}'] >= len(users), 60, "a page of wallets")
        assert watch.stop() == 0  # in the middle of a pause that is longer than stop() waits


def test_mysql_away_is_waited_for(live):
    with Watch(live, "--rate", 1_000_000) as watch:
        wait_until(watch.is_ready, 60, "ready")
        live.close_db()
        live.kill("mysql")
        wait_until(lambda: not watch.is_ready(), 60, "not ready")
        live.start("mysql")
        wait_until(watch.is_ready, 60, "ready again")
        watch.full_passes()
        live.kill("mysql")
        wait_until(lambda: not watch.is_ready(), 60, "not ready again")
        assert watch.stop() == 0 and watch.alarms() == [], watch.log()
    live.start("mysql")
    for name in ("ingest-1", "settle-1", "settle-2", "sweep-1"):
        wait_until(lambda: live.is_ready(name), 60, f"{name} is ready")


@pytest.mark.parametrize("args", (["--interval", "1"], ["--rate", "5"], ["--watch", "--rate", "0"], ["--watch", "--interval"], ["--watch", "--json"], ["--watch", "--interval", "--redis=no"]))
def test_wrong_arguments(live, args):
    done = subprocess.run([live.env["GIFTFLOW_BIN"], "verify", *args], capture_output=True, text=True, timeout=60, env=live.environ)
    assert done.returncode == 2 and "usage:" in done.stderr, done
