# SPDX-License-Identifier: Apache-2.0
"""giftflow verify: right beside a live system, and for each of its checks a value that is wrong, found by that check and no other."""

import json
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import cache
from conftest import finish
from stack import ENGINE, PATIENT_ENV, Stack, uuid7, wait_until

RECEIVERS = (20001, 20002, 20003)


def verify(stack, *args):
    """-> (exit status, {check: violations}) of `verify --json`."""
    done = subprocess.run(
        [stack.env["GIFTFLOW_BIN"], "verify", "--json", *args, "--config", stack.env["GIFTFLOW_CONFIG"]],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, env={**stack.environ, **PATIENT_ENV},
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    answer = json.loads(done.stdout)
    assert answer["verdict"] == ("ok" if done.returncode == 0 else "broken")
    for check in answer["checks"]:
        assert len(check["examples"]) == min(check["violations"], 10), check
    return done.returncode, answer


def broken(stack, *args):
    """The names of the checks that found something."""
    status, answer = verify(stack, *args)
    names = {check["name"] for check in answer["checks"] if check["violations"]}
    assert (status == 3) == bool(names)
    return names


def open_gifts(stack):
    now = int(time.time() * 1000)
    for gift_id, price, share in ((1, 1, 3333), (22, 90, 5000)):
        stack.sql("INSERT INTO gift VALUES (%s, 'gift', '', '', 9999, 1, 1, %s)", gift_id, now)
        stack.sql("INSERT INTO gift_price VALUES (%s, %s, %s, %s, %s)", gift_id, now - 3600_000, 2**63 - 1, price, share)


def gifts(stack, users, count):
    """Well-formed commands of all kinds of ends: settled, rejected, duplicate."""
    out = []
    for i in range(count):
        user = users[i % len(users)]
        command = stack.gift_command(user, receiver_id=RECEIVERS[i % 3], gift_id=(1, 22)[i % 2], price=(1, 90)[i % 2], quantity=1 + i % 3)
        if i % 10 == 3:
            command["price"] = 91  # price_mismatch
        if i % 10 == 7:
            command["receiver_id"] = user  # self_gift
        out.append((user, command))
        if i % 10 == 5:
            out.append((user, command))  # duplicate
    return out


def credit(stack, user, kind, coins):
    """Its row, and the command that names it."""
    credit_id = uuid.UUID(uuid7()[:14] + "8" + uuid7()[15:])
    number = {"recharge": 2, "adjust": 3, "gift_refund": 4, "chargeback": 5}[kind]
    stack.sql("INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms) VALUES (%s, %s, %s, %s, 'test', 'test', 1, 1)", credit_id.bytes, number, user, coins)
    return {"v": 1, "type": "credit", "request_id": str(credit_id), "user_id": user, "kind": kind, "ts": 1}


def rolled_up(stack):
    rows = stack.sql("SELECT COUNT(*) AS n FROM progress p JOIN rollup r ON r.log = p.log WHERE r.rolled_offset <> p.next_offset")
    return rows[0]["n"] == 0


@pytest.fixture(scope="module")
def books():
    """A stack whose books balance and on which nothing runs any more: tests may break the tables and mend them."""
    stack = Stack(roles={"ingest": 0, "router": 0, "gateway": 0}, partitions=3)
    try:
        stack.up()
        open_gifts(stack)
        users = stack.new_users(12, 10_000)
        stack.produce_many(gifts(stack, users, 300))
        stack.sql("INSERT INTO credit VALUES (REPEAT('o', 16), 3, 1, 5, NULL, NULL, NULL, 0, 'test', 'open', 1, 0, NULL)")  # a credit whose command is still to come
        for kind, coins in (("adjust", -10_000_000), ("chargeback", 10_000), ("recharge", 300), ("gift_refund", 20_000)):  # refused; into debt; of which a part is paid; all of it
            stack.produce(users[1], credit(stack, users[1], kind, coins))
        stack.produce(users[0], "no json")
        stack.produce(users[0], {**stack.gift_command(users[1])})  # a foreign key: dead, and it still has a trade row
        stack.drain()
        wait_until(lambda: rolled_up(stack), 60, "roll-up")
        wait_until(lambda: not stack.sql("SELECT 1 FROM dead_letter WHERE state = 0"), 60, "dead letters fed")
        stack.stop("sweep-1")
        stack.stop("settle-1")
        stack.close_db()
        yield stack
    finally:
        finish(stack)


def test_a_live_system_can_be_verified_at_any_moment(books):
    books.start("settle-1")
    books.start("sweep-1")
    users = books.new_users(8, 100_000)
    batches = [gifts(books, users, 400) for _ in range(8)]
    with ThreadPoolExecutor(1) as pool:
        feeder = pool.submit(lambda: [books.produce_many(batch) for batch in batches])
        checked = 0
        while not feeder.done() or checked < 5:
            status, answer = verify(books, "--redis=yes")
            assert status == 0, answer
            checked += 1
        feeder.result()
    books.drain()
    wait_until(lambda: rolled_up(books), 60, "roll-up")
    books.stop("sweep-1")
    books.stop("settle-1")
    status, answer = verify(books, "--redis=yes")
    assert status == 0, answer
    totals = answer["totals"]
    assert totals["debit"] == totals["host"] + totals["platform"] > 0
    assert totals["coins"] == totals["credit"] - totals["debit"]
    assert min(totals["settled"], totals["rejected"], totals["duplicates"], totals["dead"]) > 0
    assert all(check["checked"] > 0 for check in answer["checks"] if check["name"] != "redis_holds"), answer


GIFT = "kind = 1 AND outcome = 0"
ONE_GIFT = f"(log, off) = (SELECT log, off FROM (SELECT log, off FROM trade WHERE {GIFT} ORDER BY log, off LIMIT 5, 1) x)"
ONE_REJECTED = "(log, off) = (SELECT log, off FROM (SELECT log, off FROM trade WHERE outcome > 1 ORDER BY log, off LIMIT 1) x)"
LAST_BATCH = "(log, next_offset) = (SELECT log, next_offset FROM (SELECT log, next_offset FROM batch ORDER BY log, next_offset LIMIT 1) x)"
ONE_WALLET = "user_id = (SELECT user_id FROM (SELECT MIN(user_id) AS user_id FROM wallet) x)"

CORRUPTIONS = {
    "a balance": ("UPDATE wallet SET balance = balance + 1 WHERE " + ONE_WALLET, {"wallet_balance"}),
    "a debt": ("UPDATE wallet SET debt = 1 WHERE " + ONE_WALLET, {"wallet_debt"}),
    "a negative balance": ("UPDATE wallet SET balance = -1 WHERE " + ONE_WALLET, {"wallet_balance", "wallet_not_negative"}),
    "what was spent": ("UPDATE wallet SET total_spent = total_spent - 1 WHERE " + ONE_WALLET, {"wallet_totals"}),
    "what was recharged": ("UPDATE wallet SET total_recharged = 1 WHERE " + ONE_WALLET, {"wallet_totals"}),
    "the head of a statement": ("UPDATE wallet SET last_off = last_off - 1 WHERE " + ONE_WALLET, {"statement_chain"}),
    "a version behind its trades": ("UPDATE wallet SET ver = 1 WHERE " + ONE_WALLET, {"statement_chain"}),
    "a wallet that is gone": ("DELETE FROM wallet WHERE " + ONE_WALLET, {"wallet_balance"}),
    "coins from nowhere": ("INSERT INTO wallet (user_id, balance, created_ms, updated_ms) VALUES (77, 5, 0, 0)", {"wallet_balance"}),
    "a balance after": (f"UPDATE trade SET balance_after = balance_after + 1 WHERE {ONE_GIFT}", {"statement_chain", "hash_chain"}),
    "a pointer to the row before": (f"UPDATE trade SET prev_off = prev_off - 1 WHERE {ONE_GIFT}", {"statement_chain", "hash_chain"}),
    "a seq": (f"UPDATE trade SET seq = 1 WHERE {ONE_GIFT}", {"statement_chain", "hash_chain"}),
    "an amount": (
        f"UPDATE trade SET amount = amount - 1 WHERE {ONE_GIFT}",
        {"wallet_balance", "wallet_totals", "statement_chain", "batch_sums", "hash_chain", "gift_price", "income"},
    ),
    "a host's share": (f"UPDATE trade SET host_coins = host_coins - 1 WHERE {ONE_GIFT}", {"batch_sums", "hash_chain", "gift_price", "income"}),
    "a receiver": (f"UPDATE trade SET receiver_id = 20009 WHERE {ONE_GIFT}", {"hash_chain", "income"}),
    "a time": (f"UPDATE trade SET ts_ms = ts_ms + 1 WHERE {ONE_REJECTED}", {"hash_chain"}),
    "a rejected row that moves coins": (f"UPDATE trade SET debt_delta = 1 WHERE {ONE_REJECTED}", {"outcome_rows", "hash_chain"}),
    "a trade that is gone": (
        f"DELETE FROM trade WHERE {ONE_GIFT}",
        {"wallet_balance", "wallet_totals", "statement_chain", "offsets", "batch_sums", "hash_chain", "income"},
    ),
    "a rejected row that is gone": (f"DELETE FROM trade WHERE {ONE_REJECTED}", {"offsets", "hash_chain"}),
    "a batch's hash": (f"UPDATE batch SET hash = REPEAT('x', 32) WHERE {LAST_BATCH}", {"hash_chain"}),
    "a batch's debit": ("UPDATE batch SET debit = debit + 1, platform = platform + 1 ORDER BY log LIMIT 1", {"batch_sums"}),
    "a batch's platform share": ("UPDATE batch SET platform = platform + 1 ORDER BY log LIMIT 1", {"batch_sums"}),
    "a batch's duplicates": ("UPDATE batch SET duplicate = duplicate + 1 ORDER BY log LIMIT 1", {"offsets"}),
    "settled called rejected": ("UPDATE batch SET settled = settled - 1, rejected = rejected + 1 WHERE settled > 0 LIMIT 1", {"offsets"}),
    "an offset skipped": ("UPDATE progress SET next_offset = next_offset + 1 ORDER BY log LIMIT 1", {"offsets"}),
    "the head of the hash chain": ("UPDATE progress SET last_hash = REPEAT('x', 32) ORDER BY log LIMIT 1", {"hash_chain"}),
    "a dead letter that is gone": ("DELETE FROM dead_letter LIMIT 1", {"offsets"}),
    "a dead letter from nowhere": ("INSERT INTO dead_letter SELECT log, off, 1, '', NULL, NULL, 1, 0 FROM trade WHERE outcome = 0 LIMIT 1", {"offsets", "outcome_rows"}),
    "a price's share": ("UPDATE gift_price SET share_bp = share_bp - 100 WHERE gift_id = 22", {"gift_price"}),
    "a balance that was below nothing": (
        f"UPDATE trade SET amount = amount - 100000 WHERE {ONE_GIFT}",
        {"wallet_balance", "wallet_not_negative", "wallet_totals", "statement_chain", "batch_sums", "hash_chain", "gift_price", "income"},
    ),
    "an outcome in a log that does not exist": (f"UPDATE trade SET log = 99 WHERE {ONE_REJECTED}", {"offsets", "hash_chain"}),
    "one more outcome in a log that does not exist": (
        "INSERT INTO trade SELECT 99, off, user_id, REPEAT('t', 16), kind, outcome, amount, debt_delta, seq, balance_after, prev_log, prev_off, gift_id, gift_type, quantity, price, "
        f"receiver_id, room_id, host_coins, ref, fp, ts_ms FROM trade WHERE {ONE_GIFT}",
        {"offsets"},
    ),
    "a batch of a log that does not exist": ("INSERT INTO batch SELECT 99, 1, 0, 1, 1, 0, 0, 0, 5, 0, 5, 0, 0, hash FROM batch LIMIT 1", {"offsets"}),
    "a dead letter of a log that does not exist": ("INSERT INTO dead_letter SELECT 99, 0, reason, detail, rec_key, payload, 1, 0 FROM dead_letter LIMIT 1", {"offsets"}),
    "income of a log that does not exist": ("INSERT INTO income SELECT 99, 0, receiver_id, 1, 0, 0, 0 FROM income LIMIT 1", {"income"}),
    "a recharge that names nothing": (
        f"UPDATE trade SET kind = 2, amount = 1, host_coins = 0 WHERE {ONE_GIFT}",
        {"wallet_balance", "wallet_totals", "statement_chain", "batch_sums", "hash_chain", "income", "credits"},
    ),
    "a credit that was closed without an outcome": ("UPDATE credit SET status = 3 WHERE status = 1 LIMIT 1", {"credits"}),
    "a credit that was refused, and is open": ("UPDATE credit SET status = 1 WHERE status = 3 LIMIT 1", {"credits"}),
    "a credit that was refused, and is credited": ("UPDATE credit SET status = 2 WHERE status = 3 LIMIT 1", {"credits"}),
    "a credit that was credited, and is refused": ("UPDATE credit SET status = 3 WHERE status = 2 LIMIT 1", {"credits"}),
    "a credit that is open again": ("UPDATE credit SET status = 1 WHERE status = 2 LIMIT 1", {"credits"}),
    "a credit's coins": ("UPDATE credit SET coins = coins + 1 WHERE status = 2 LIMIT 1", {"credits"}),
    "a credit that is gone": ("DELETE FROM credit WHERE status = 2 LIMIT 1", {"credits"}),
    "a credit nobody settled": ("INSERT INTO credit SELECT REPEAT('c', 16), kind, user_id, coins, NULL, NULL, NULL, 0, actor, reason, 2, 0, NULL FROM credit LIMIT 1", {"credits"}),
    "an income row": ("UPDATE income SET host = host + 1 LIMIT 1", {"income", "income_account"}),
    "an income row past the roll-up": ("UPDATE income SET to_offset = to_offset + 1000000 LIMIT 1", {"income"}),
    "an account's balance": ("UPDATE income_account SET balance = balance + 1 LIMIT 1", {"income_account"}),
    "an account that is gone": ("DELETE FROM income_account LIMIT 1", {"income_account"}),
    "a roll-up past its log": ("UPDATE rollup SET rolled_offset = rolled_offset + 1 LIMIT 1", {"income"}),
}  # fmt: skip


def table_of(statement):
    words = statement.split()
    return words[1] if words[0] == "UPDATE" else words[2]


def forget_checks(cursor):
    """What the tables themselves would refuse: MariaDB lets a session do it, MySQL needs other tables."""
    if ENGINE != "mysql":
        cursor.execute("SET check_constraint_checks = 0")
        return
    cursor.execute("SELECT table_name AS t, constraint_name AS c FROM information_schema.table_constraints WHERE constraint_schema = DATABASE() AND constraint_type = 'CHECK' AND enforced = 'YES'")
    for row in cursor.fetchall():
        cursor.execute(f"ALTER TABLE {row['t']} ALTER CHECK {row['c']} NOT ENFORCED")


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_verify_finds(books, what):
    statement, expected = CORRUPTIONS[what]
    table = table_of(statement)
    db = books.connect_db(user="root")  # the role's own user may not change trades
    try:
        with db.cursor() as cursor:
            forget_checks(cursor)
            cursor.execute(f"CREATE TABLE saved LIKE {table}")
            cursor.execute(f"INSERT INTO saved SELECT * FROM {table}")
            try:
                assert cursor.execute(statement) >= 1
                assert broken(books, "--redis=no") == expected
            finally:
                cursor.execute(f"DELETE FROM {table}")
                cursor.execute(f"INSERT INTO {table} SELECT * FROM saved")
                cursor.execute("DROP TABLE saved")
    finally:
        db.close()
    assert broken(books, "--redis=no") == set()



def test_offsets_without_a_command_are_told_with_both_causes(books):
    """What is lost, and the control records of a transactional producer, are the same to who sees the tables only."""
    books.sql("UPDATE batch SET rejected = rejected - 1 WHERE rejected > 0 ORDER BY log, next_offset LIMIT 1")
    try:
        status, answer = verify(books, "--redis=no")
    finally:
        books.sql("UPDATE batch SET rejected = rejected + 1 WHERE settled + rejected + duplicate + dead < next_offset - first_offset")
        books.close_db()
    found = [text for check in answer["checks"] if check["name"] == "offsets" for text in check["examples"]]
    assert status == 3 and any("commands are lost, or a producer was transactional" in text for text in found), answer
    assert broken(books, "--redis=no") == set()


def test_verify_finds_a_debt_that_is_not_paid_first(books):
    """Nothing is wrong with the sums when a later credit has made good for it."""
    move = "UPDATE trade SET amount = amount + IF(kind = 2, 300, -300) * %s, debt_delta = debt_delta + IF(kind = 2, 300, -300) * %s, balance_after = balance_after + IF(kind = 2, 300, 0) * %s WHERE kind IN (2, 4)"
    assert [row["debt_delta"] < 0 for row in books.sql("SELECT debt_delta FROM trade WHERE kind IN (2, 4)")] == [True, True]
    db = books.connect_db(user="root")
    try:
        with db.cursor() as cursor:
            cursor.execute(move, (1, 1, 1))
            try:
                assert broken(books, "--redis=no") - {"batch_sums"} == {"wallet_debt", "hash_chain"}  # batch_sums: where the two were no batch
            finally:
                cursor.execute(move, (-1, -1, -1))
    finally:
        db.close()
    assert broken(books, "--redis=no") == set()


def test_a_setting_that_was_changed_since_breaks_no_books(books):
    """A gift was bought in its price's grace time; the configuration gives none any more."""
    user, price = books.new_id(), 17
    books.start("settle-1")
    books.start("sweep-1")
    books.produce(str(user), credit(books, user, "adjust", 100))
    books.drain()
    books.sql("INSERT INTO gift VALUES (17, 'gift', '', '', 9999, 1, 1, 0)")
    books.sql("INSERT INTO gift_price VALUES (17, 0, %s, %s, 5000)", now_ms() + 1, price)
    books.produce(str(user), books.gift_command(user, gift_id=17, price=price))
    books.drain()
    wait_until(lambda: rolled_up(books), 60, "roll-up")
    books.stop("sweep-1")
    books.stop("settle-1")
    books.close_db()
    row = books.sql("SELECT outcome, ts_ms FROM trade WHERE gift_id = 17")[0]
    assert row["outcome"] == 0 and row["ts_ms"] > books.sql("SELECT valid_to_ms FROM gift_price WHERE gift_id = 17")[0]["valid_to_ms"]
    books.environ["GIFTFLOW_CATALOGUE_PRICE_GRACE"] = "0ms"
    try:
        assert broken(books, "--redis=no") == set()
    finally:
        del books.environ["GIFTFLOW_CATALOGUE_PRICE_GRACE"]


def now_ms():
    return int(time.time() * 1000)


def hold(amount, ms):
    return {uuid7(): (amount, now_ms() + ms)}


REDIS = {
    "a version ahead of MySQL": (lambda w: {"v": w["ver"] + 1}, {"redis_balance"}),
    "another balance at the same version": (lambda w: {"b": w["balance"] + 1}, {"redis_balance"}),
    "another status at the same version": (lambda w: {"s": 2}, {"redis_balance"}),
    "an older version, whatever it holds": (lambda w: {"v": w["ver"] - 1, "b": w["balance"] + 50}, set()),
    "holds that add up": (lambda w: {"holds": {**hold(5, 600000), **hold(6, 600000)}}, set()),
    "more held than the holds": (lambda w: {"h": 6, "holds": hold(5, 600000)}, {"redis_holds"}),
    "less held than the holds": (lambda w: {"h": 0, "holds": hold(5, 600000)}, {"redis_holds"}),
    "a negative sum of holds": (lambda w: {"h": -5}, {"redis_holds"}),
    "a hold that is due, until its room is needed": (lambda w: {"holds": {**hold(5, -600000), **hold(5, 600000)}}, set()),
}  # fmt: skip


@pytest.mark.parametrize("what", REDIS)
def test_verify_finds_in_redis(books, what):
    fields, expected = REDIS[what]
    wallet = books.sql("SELECT user_id, ver, balance FROM wallet ORDER BY user_id LIMIT 1")[0]
    user = wallet["user_id"]
    cache.forget(books, user)
    try:
        cache.write(books, user, **{"v": wallet["ver"], "b": wallet["balance"], "s": 1, **fields(wallet)})
        assert broken(books, "--redis=yes") == expected
    finally:
        cache.forget(books, user)


def test_what_is_no_wallet_is_found_in_redis(books):
    user = books.sql("SELECT user_id FROM wallet ORDER BY user_id LIMIT 1")[0]["user_id"]
    for command in (("SET", cache.wallet_key(user), "w, but too short"), ("HSET", cache.wallet_key(user), "b", "1")):
        cache.forget(books, user)
        try:
            cache.of_user(books, user, *command)
            assert broken(books, "--redis=yes") == {"redis_holds"}
        finally:
            cache.forget(books, user)


def test_a_cached_wallet_that_does_not_exist(books):
    user = 987654321
    try:
        cache.write(books, user, v=3, b=100)
        assert broken(books, "--redis=yes") == {"redis_balance"}
        cache.write(books, user, v=0, b=0)  # known not to exist: that is right
        assert broken(books, "--redis=yes") == set()
    finally:
        cache.forget(books, user)


def test_without_redis_the_rest_is_checked_and_without_mysql_nothing(books):
    program = [books.env["GIFTFLOW_BIN"], "verify", "--config", books.env["GIFTFLOW_CONFIG"]]
    lonely = {**books.environ, **PATIENT_ENV, "GIFTFLOW_REDIS_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, env=lonely)
    assert done.returncode == 0 and "not checked" in done.stdout, done.stdout
    done = subprocess.run([*program, "--redis=yes"], capture_output=True, text=True, timeout=300, env=lonely)
    assert done.returncode == 1 and "redis" in done.stderr, done.stderr
    lonely = {**books.environ, "GIFTFLOW_MYSQL_SOCKET": "/nonexistent/mysql.sock"}
    done = subprocess.run([*program, "--wait", "0"], capture_output=True, text=True, timeout=300, env=lonely)
    assert done.returncode == 1 and "could not check" in done.stderr, done.stderr
