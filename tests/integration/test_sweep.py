# SPDX-License-Identifier: Apache-2.0
"""sweep: host income by any number of copies and through kill -9 (F13), dead letters at least once (F12), credits that are due again."""

import json
import threading
import time
import uuid

import jsonschema
import pytest
from conftest import finish
from stack import ROOT, Stack, uuid7, wait_until

RECEIVERS = range(20001, 20041)


@pytest.fixture(scope="module")
def swept():
    stack = Stack(
        roles={"ingest": 0, "router": 0, "gateway": 0, "sweep": 2}, partitions=4,
        settings={"sweep.rollup": "50ms", "sweep.rollup_rows": 100, "sweep.dlq": "50ms", "settle.batch": 50},
    )  # fmt: skip
    try:
        stack.up()
        now = int(time.time() * 1000)
        stack.sql("INSERT INTO gift VALUES (22, 'Heart', '', '', 9999, 1, 1, %s)", now)
        stack.sql("INSERT INTO gift_price VALUES (22, %s, %s, 90, 3333)", now - 3600_000, 2**63 - 1)
        yield stack
    finally:
        finish(stack)


def rolled_up(stack):
    rows = stack.sql("SELECT COUNT(*) AS n FROM progress p JOIN rollup r ON r.log = p.log WHERE r.rolled_offset <> p.next_offset")
    return rows[0]["n"] == 0


def test_two_sweeps_pay_each_gift_once_also_when_killed(swept):
    users = swept.new_users(40, 1_000_000)
    pairs = [(user, swept.gift_command(user, receiver_id=RECEIVERS[i % 40])) for i in range(200) for user in users]
    feeder = threading.Thread(target=lambda: [swept.produce_many(pairs[at : at + 500]) for at in range(0, len(pairs), 500)])
    feeder.start()
    for round_ in range(3):
        before = swept.sql("SELECT COUNT(*) AS n FROM income")[0]["n"]
        wait_until(lambda: swept.sql("SELECT COUNT(*) AS n FROM income")[0]["n"] > before or not feeder.is_alive(), 60, "income")
        name = f"sweep-{1 + round_ % 2}"
        swept.kill(name)
        swept.start(name)
    feeder.join()
    swept.drain()
    wait_until(lambda: rolled_up(swept), 60, "roll-up")
    paid = swept.sql("SELECT SUM(balance) AS host, SUM(total_gross) AS gross, COUNT(*) AS n FROM income_account")[0]
    due = swept.sql("SELECT SUM(host_coins) AS host, SUM(-amount) AS gross, COUNT(*) AS n FROM trade WHERE kind = 1 AND outcome = 0")[0]
    assert (paid["host"], paid["gross"]) == (due["host"], due["gross"])
    assert due["n"] == len(pairs) and paid["n"] == len(RECEIVERS)
    assert due["host"] == len(pairs) * (90 * 3333 // 10000)  # floored for each gift, not for the sum
    swept.verify()


def test_a_log_that_cannot_be_rolled_up_holds_no_other_up(swept):
    """Somebody's row stands where the first log's next income must go."""
    users = {}
    for user in swept.new_users(40, 1000):
        users.setdefault(swept.sql("SELECT log FROM trade WHERE user_id = %s", user)[0]["log"], user)
    first, *others = sorted(users)
    swept.drain()
    wait_until(lambda: rolled_up(swept), 60, "roll-up")
    at = swept.sql("SELECT rolled_offset AS off FROM rollup WHERE log = %s", first)[0]["off"]
    swept.sql("INSERT INTO income VALUES (%s, %s, 20001, %s, 0, 0, 0)", first, at, at + 1)
    try:
        swept.produce_many([(user, swept.gift_command(user, receiver_id=20001)) for user in users.values()])
        swept.drain()
        behind = lambda: {row["log"] for row in swept.sql("SELECT p.log FROM progress p JOIN rollup r ON r.log = p.log WHERE r.rolled_offset <> p.next_offset")}  # noqa: E731
        wait_until(lambda: behind() == {first}, 60, "roll-up of the others")
    finally:
        swept.sql("DELETE FROM income WHERE log = %s AND from_offset = %s AND gross = 0", first, at)
    wait_until(lambda: rolled_up(swept), 60, "roll-up of the first")
    swept.verify()


def test_income_that_no_table_can_hold_stops_its_log_and_nothing_else(swept):
    """The log is of another hand: so many coins would take settlement a thousand of the largest gifts there are."""
    swept.sql("INSERT INTO progress (log, topic, part, incarnation, partitions, next_offset, notified_offset) VALUES (900, 'odd', 0, 1, 1, 3, 3)")
    swept.sql("INSERT INTO rollup VALUES (900, 0)")
    for off in range(3):
        swept.sql("INSERT INTO trade VALUES (900, %s, 1, %s, 1, 0, %s, 0, 1, 0, 0, -1, 22, 0, 1, 1, 20001, 1, 0, NULL, '', 0)", off, uuid.UUID(uuid7()).bytes, -(2**62))
    try:
        wait_until(lambda: "log 900: receiver 20001 got 13835058055282163712 coins" in swept.log_text("sweep-1"), 60, "it is told")
        users = swept.new_users(4, 1000)
        swept.produce_many([(user, swept.gift_command(user, receiver_id=20001)) for user in users])
        swept.drain()
        wait_until(lambda: swept.sql("SELECT COUNT(*) AS n FROM progress p JOIN rollup r ON r.log = p.log WHERE r.rolled_offset <> p.next_offset")[0]["n"] == 1, 60, "roll-up of the others")
        assert swept.sql("SELECT rolled_offset FROM rollup WHERE log = 900")[0]["rolled_offset"] == 0
        assert not any(swept.has_ended(name) for name in ("sweep-1", "sweep-2"))
    finally:
        for table in ("trade", "rollup", "progress"):
            swept.sql(f"DELETE FROM {table} WHERE log = 900")
    swept.verify()


def test_dead_letters_reach_their_topic(swept):
    user = swept.new_user(100)
    reasons = {"not json": "not_json", '{"v":2,"type":"gift"}': "unknown_version", '{"v":1,"type":"tip"}': "unknown_type"}
    for body in reasons:
        swept.produce(user, body)
    swept.produce(user, None)
    swept.drain()
    wait_until(lambda: len(swept.sql("SELECT 1 FROM dead_letter WHERE state = 1")) == 4, 60, "dead letters fed")
    rows = swept.sql("SELECT d.log, d.off, p.part FROM dead_letter d JOIN progress p ON p.log = d.log")
    schema = json.loads((ROOT / "schemas/dead_letter.schema.json").read_text())
    fed = {}
    for record in swept.records("giftflow.dlq"):
        headers = dict(zip(record["headers"][::2], record["headers"][1::2]))
        jsonschema.Draft202012Validator(schema).validate(headers)
        fed[headers["ce_id"]] = (headers, record)
    assert set(fed) == {f"{row['log']}:{row['off']}" for row in rows}
    for row in rows:
        headers, record = fed[f"{row['log']}:{row['off']}"]
        assert (headers["topic"], headers["partition"], headers["offset"]) == ("giftflow.commands", str(row["part"]), str(row["off"]))
        assert headers["ce_type"] == "giftflow.dead_letter" and headers["reason"] == reasons.get(record["payload"], "empty_record")
        assert record["key"] == str(user)
    assert sorted(r["payload"] for _, r in fed.values() if r["payload"]) == sorted(reasons)
    swept.verify()


def credit_id():
    """Ids of credits are of version 8 (F2)."""
    raw = bytearray(uuid.UUID(uuid7()).bytes)
    raw[6] = 0x80 | raw[6] & 0x0F
    return bytes(raw)


def test_a_credit_whose_command_was_lost_is_delivered_once(swept):
    user = swept.new_user(100)
    credit = credit_id()
    now = int(time.time() * 1000)
    unusable = uuid.UUID(uuid7()).bytes  # no id of a credit: written by hand, and due first
    swept.sql("INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms, due_ms) VALUES (%s, 3, 1, 1, 't', 't', 1, %s, %s)", unusable, now, now - 1000)
    swept.sql(
        "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms, due_ms) VALUES (%s, 3, %s, 11, 'test', 'test', 1, %s, %s)",
        credit, user, now, now,
    )  # fmt: skip
    wait_until(lambda: swept.balance(user) == 111, 60, "credit")
    row = swept.sql("SELECT status, due_ms FROM credit WHERE credit_id = %s", credit)[0]
    assert row == {"status": 2, "due_ms": None}
    swept.drain()
    assert swept.balance(user) == 111
    swept.verify()


def test_a_credit_that_stays_open_is_repeated_ever_more_rarely(swept):
    """settle is away, so nothing closes the credits: what is looked at is when each is due next."""
    swept.stop("settle-1")
    minute, hour = 60_000, 3_600_000
    now = int(time.time() * 1000)
    user = swept.new_id()
    ages = {1: 0, 2: 10 * minute, 3: 48 * hour}
    for part, age in ages.items():
        swept.sql(
            "INSERT INTO credit (credit_id, kind, user_id, coins, part, actor, reason, status, created_ms, due_ms) VALUES (%s, 3, %s, 11, %s, 'test', 'rare', 1, %s, %s)",
            credit_id(), user, part, now - age, now,
        )  # fmt: skip
    wait_until(lambda: not swept.sql("SELECT 1 FROM credit WHERE reason = 'rare' AND due_ms = %s", now), 60, "claims")
    late = int(time.time() * 1000)
    due = {row["part"]: row["due_ms"] for row in swept.sql("SELECT part, due_ms FROM credit WHERE reason = 'rare'")}
    for part, pause in {1: minute, 2: 10 * minute, 3: hour}.items():
        assert now + pause <= due[part] <= late + pause + (late - now), part
    swept.sql("DELETE FROM credit WHERE reason = 'rare'")
    swept.start("settle-1")


def test_sweep_says_when_mysql_is_gone_and_comes_back(swept):
    wait_until(lambda: swept.is_ready("sweep-1"), 60, "ready")
    swept.kill("mysql")
    wait_until(lambda: not swept.is_ready("sweep-1"), 60, "not ready")
    swept.start("mysql")
    wait_until(lambda: swept.is_ready("sweep-1"), 60, "ready again")
    swept.stop("sweep-1")
