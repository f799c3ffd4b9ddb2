# SPDX-License-Identifier: Apache-2.0
"""Settlement on real parts: what each kind of record becomes, and that nothing is lost or doubled whatever is killed."""

import json
import subprocess
import threading
import time
import uuid
from decimal import Decimal

import pytest

import cache
from stack import BROKERS, ROOT, Stack, uuid7, wait_until
from world import SANITIZERS

ONLY_SETTLE = {"ingest": 0, "router": 0, "gateway": 0, "sweep": 0}
FOREVER = 9223372036854775807
OUTCOMES = "settled internal_error gift_not_found price_mismatch quantity_out_of_range amount_out_of_range self_gift wallet_not_found wallet_frozen insufficient_balance credit_refused".split()
DEAD = [None] + "empty_record not_json unknown_version unknown_type bad_field foreign_key foreign_partition bad_request_id no_credit bad_credit id_reused sql_refused crash_loop too_large".split()


def now_ms():
    return int(time.time() * 1000)


def uuid8():
    raw = bytearray(uuid.UUID(uuid7()).bytes)
    raw[6] = 0x80 | raw[6] & 0x0F
    return str(uuid.UUID(bytes=bytes(raw)))


def add_gift(stack, gift_id, price, valid_from=0, valid_to=FOREVER, status=1, max_quantity=9999):
    stack.sql("INSERT INTO gift (gift_id, name, cover_url, effect_url, max_quantity, status, ver, updated_ms) VALUES (%s, %s, '', '', %s, %s, 1, 0)", gift_id, f"gift {gift_id}", max_quantity, status)
    stack.sql("INSERT INTO gift_price VALUES (%s, %s, %s, %s, 5000)", gift_id, valid_from, valid_to, price)


def add_credit(stack, user, coins, kind=3, credit_id=None):
    credit_id = credit_id or uuid8()
    stack.sql(
        "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms) VALUES (%s, %s, %s, %s, 'test', 'test', 1, %s)",
        uuid.UUID(credit_id).bytes, kind, user, coins, now_ms(),
    )  # fmt: skip
    return credit_id


def credit_command(user, credit_id, kind="adjust"):
    return {"v": 1, "type": "credit", "request_id": credit_id, "user_id": user, "kind": kind, "ts": now_ms()}


def fund(stack, users, coins):
    """Coins come from nowhere but credits: without them the books would not be balanced."""
    stack.produce_many([(str(user), credit_command(user, add_credit(stack, user, coins))) for user in users])
    stack.drain()


def trade(stack, request_id, user):
    rows = stack.sql("SELECT * FROM trade WHERE request_id = %s AND user_id = %s", uuid.UUID(request_id).bytes, user)
    assert len(rows) <= 1
    return rows[0] if rows else None


def outcome(stack, request_id, user):
    row = trade(stack, request_id, user)
    return row and OUTCOMES[row["outcome"]]


def dead_letters(stack):
    rows = stack.sql("SELECT p.part, d.* FROM dead_letter d JOIN progress p ON p.log = d.log")
    return {(row["part"], row["off"]): row for row in rows}


def notice_ids(stack):
    return {record["payload"].split('"')[3] for record in stack.records("giftflow.notices")}


def check_books(stack):
    """What must hold whenever nothing is on its way, seen from the tables alone; then the program's own proof."""
    bad = stack.sql("SELECT w.user_id FROM wallet w LEFT JOIN (SELECT user_id, SUM(amount) a, SUM(debt_delta) d FROM trade GROUP BY user_id) t ON t.user_id = w.user_id WHERE w.balance <> COALESCE(t.a, 0) OR w.debt <> COALESCE(t.d, 0)")
    assert not bad, "a balance is not the sum of its trades"
    batch = stack.sql("SELECT SUM(debit) debit, SUM(host) host, SUM(platform) platform, SUM(settled) settled, SUM(rejected + dead + duplicate + settled) records FROM batch")[0]
    assert batch["debit"] == batch["host"] + batch["platform"]
    assert batch["settled"] == stack.sql("SELECT COUNT(*) c FROM trade WHERE outcome = 0")[0]["c"]
    assert batch["records"] == stack.sql("SELECT SUM(next_offset) s FROM progress WHERE topic = 'giftflow.commands'")[0]["s"]
    stack.verify()


@pytest.fixture(scope="module")
def books():
    """One settle process over four partitions, with gifts that the tests of single records use."""
    stack = Stack(roles=ONLY_SETTLE)
    try:
        stack.up()
        add_gift(stack, 22, 90, max_quantity=100)
        add_gift(stack, 900, 1 << 52)
        add_gift(stack, 901, 5, valid_to=now_ms() - 600_000)
        add_gift(stack, 902, 5, status=2)
        yield stack
        stack.drain()
        check_books(stack)
    finally:
        stack.down(purge=False)
        found = stack.bad_log_lines()
        stack.dev("down", "--purge", check=False)
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def rough():
    """One settle process whose surroundings are killed, test after test; `sent` remembers every gift."""
    stack = Stack(roles=ONLY_SETTLE, settings={"settle.retry_max": "2s"})
    stack.sent = []
    try:
        stack.up()
        add_gift(stack, 22, 90)
        stack.users = [stack.new_id() for _ in range(40)]
        fund(stack, stack.users, 10_000_000)
        yield stack
    finally:
        stack.down(purge=False)
        found = stack.bad_log_lines()
        stack.dev("down", "--purge", check=False)
    assert not found, "\n".join(found)


# -- what a record becomes


def test_a_gift_moves_coins_and_leaves_its_trace(books):
    user, receiver = books.new_id(), books.new_id()
    fund(books, [user], 1000)
    command = books.gift_command(user, receiver_id=receiver, room_id=7, quantity=3)
    books.produce(str(user), command)
    books.drain()
    row = trade(books, command["request_id"], user)
    assert (row["outcome"], row["amount"], row["host_coins"], row["balance_after"], row["kind"]) == (0, -270, 135, 730, 1)
    wallet = books.sql("SELECT * FROM wallet WHERE user_id = %s", user)[0]
    assert (wallet["balance"], wallet["total_spent"], wallet["ver"], wallet["last_log"], wallet["last_off"]) == (730, 270, row["seq"], row["log"], row["off"])
    funded = books.sql("SELECT * FROM trade WHERE log = %s AND off = %s", row["prev_log"], row["prev_off"])[0]
    assert (funded["user_id"], funded["kind"], funded["amount"], funded["prev_off"]) == (user, 3, 1000, -1)
    wait_until(lambda: f"{row['log']}-{row['off']}:5556" in notice_ids(books), what="the notice")
    wait_until(lambda: cache.balances(books, [user]) == {user: 730}, what="the balance in Redis")
    log = books.sql("SELECT next_offset, notified_offset FROM progress WHERE log = %s", row["log"])
    wait_until(lambda: books.sql("SELECT notified_offset n FROM progress WHERE log = %s", row["log"])[0]["n"] >= log[0]["next_offset"], what="notified_offset")


@pytest.mark.parametrize(
    "expected, change",
    [
        ("gift_not_found", {"gift_id": 77}),
        ("gift_not_found", {"gift_id": 901, "price": 5}),  # its price has ended long ago
        ("gift_not_found", {"gift_id": 902, "price": 5}),  # not on sale
        ("price_mismatch", {"price": 91}),
        ("price_mismatch", {"price": -90}),
        ("price_mismatch", {"price": 9223372036854775807, "quantity": 9999}),
        ("quantity_out_of_range", {"quantity": 0}),
        ("quantity_out_of_range", {"quantity": -1}),
        ("quantity_out_of_range", {"quantity": 101}),
        ("amount_out_of_range", {"gift_id": 900, "price": 1 << 52, "quantity": 9999}),
        ("self_gift", {"receiver_id": "self"}),
        ("insufficient_balance", {"quantity": 12}),
    ],
)  # fmt: skip
def test_a_broken_rule_is_a_rejected_trade_with_a_notice(books, expected, change):
    user = books.new_id()
    fund(books, [user], 1000)
    command = {**books.gift_command(user), **change}
    if command["receiver_id"] == "self":
        command["receiver_id"] = user
    books.produce(str(user), command)
    books.drain()
    row = trade(books, command["request_id"], user)
    assert OUTCOMES[row["outcome"]] == expected
    assert (row["amount"], row["host_coins"], books.balance(user)) == (0, 0, 1000)
    wait_until(lambda: f"{row['log']}-{row['off']}:5557" in notice_ids(books), what="the notice of failure")


def test_without_a_wallet_or_with_a_frozen_one_nothing_is_paid(books):
    stranger, frozen = books.new_id(), books.new_id()
    fund(books, [frozen], 1000)
    books.sql("UPDATE wallet SET status = 2, ver = ver + 1 WHERE user_id = %s", frozen)
    commands = [books.gift_command(stranger), books.gift_command(frozen)]
    books.produce_many([(str(command["user_id"]), command) for command in commands])
    credit = add_credit(books, frozen, 50)  # freezing stops debits only
    books.produce(str(frozen), credit_command(frozen, credit))
    books.drain()
    assert outcome(books, commands[0]["request_id"], stranger) == "wallet_not_found"
    assert outcome(books, commands[1]["request_id"], frozen) == "wallet_frozen"
    assert outcome(books, credit, frozen) == "settled"
    wallet = books.sql("SELECT balance, status FROM wallet WHERE user_id = %s", frozen)[0]
    assert (wallet["balance"], wallet["status"]) == (1050, 2)
    assert books.balance(stranger) is None


def test_a_wallet_that_another_session_changes_is_waited_for(books):
    """F3: balance and status are read under a lock. What the other session commits counts, and is not overwritten."""
    user = books.new_id()
    fund(books, [user], 1000)
    command = books.gift_command(user)
    other, root = books.connect_db(), books.connect_db("root")

    def waited_for():
        with root.cursor() as look:
            look.execute("SELECT COUNT(*) n FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
            return look.fetchone()["n"]

    with root, other, other.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute("UPDATE wallet SET status = 2, ver = ver + 1 WHERE user_id = %s", (user,))
        books.produce(str(user), command)
        wait_until(waited_for, 60, "settlement waits", every=0.5)  # what is asked more often is answered from a cache
        cursor.execute("COMMIT")
    wait_until(lambda: outcome(books, command["request_id"], user) == "wallet_frozen", 60, "the gift's outcome")
    assert books.sql("SELECT balance, status FROM wallet WHERE user_id = %s", user) == [{"balance": 1000, "status": 2}]



def bad_records(stack, user):
    """name, key, value, partition, reason, does it leave a trade row"""
    home = murmur2_partition(str(user), 4)
    good = stack.gift_command
    return [
        ("empty", str(user), b"", None, "empty_record", None),
        ("null", str(user), None, None, "empty_record", None),
        ("not JSON", str(user), "gift!", None, "not_json", None),
        ("not UTF-8", str(user), b'{"v":1,"type":"\xff\xfe"}', None, "not_json", None),
        ("an array", str(user), "[1,2]", None, "not_json", None),
        ("NUL", str(user), b'{"v":1}\x00', None, "not_json", None),
        ("version", str(user), good(user, v=2), None, "unknown_version", True),
        ("type", str(user), good(user, type="refund"), None, "unknown_type", True),
        ("text for a number", str(user), good(user, room_id="7"), None, "bad_field", True),
        ("room 0", str(user), good(user, room_id=0), None, "bad_field", True),
        ("a real", str(user), good(user, quantity=1.5), None, "bad_field", True),
        ("a huge number", str(user), good(user, receiver_id=1 << 70), None, "bad_field", True),
        ("an unknown field", str(user), good(user, amount=5), None, "bad_field", True),
        ("nil UUID", str(user), good(user, request_id=str(uuid.UUID(int=0))), None, "bad_field", None),
        ("no UUID", str(user), good(user, request_id="x"), None, "bad_field", None),
        ("credit's id", str(user), good(user, request_id=uuid8()), None, "bad_request_id", None),
        ("foreign key", str(user + 1), good(user), None, "foreign_key", True),
        ("key with a zero", f"0{user}", good(user), None, "foreign_key", True),
        ("no key", None, good(user), home, "foreign_key", True),
        ("foreign partition", str(user), good(user), (home + 1) % 4, "foreign_partition", True),
        ("too large", str(user), good(user, more="x" * 5000), None, "too_large", None),
        ("credit without a row", str(user), credit_command(user, uuid8()), None, "no_credit", None),
        ("credit with a gift's id", str(user), credit_command(user, uuid7()), None, "bad_request_id", True),
        ("credit of another", str(user), credit_command(user, add_credit(stack, user + 1, 5)), None, "bad_credit", None),
        ("credit of another kind", str(user), credit_command(user, add_credit(stack, user, 5), "recharge"), None, "bad_credit", None),
    ]  # fmt: skip


def murmur2_partition(key, count):
    data, m, mask = key.encode(), 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    for i in range(len(data) // 4):
        k = int.from_bytes(data[i * 4 : i * 4 + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    rest = data[len(data) // 4 * 4 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % count


def test_a_record_that_cannot_be_trusted_is_a_dead_letter_and_stops_nobody(books):
    user = books.new_id()
    books.new_id()  # user + 1 is nobody else's
    fund(books, [user], 100_000)
    gifts = []
    for name, key, value, partition, reason, row in bad_records(books, user):
        before = set(dead_letters(books))
        books.produce(key, value, partition=partition)
        gifts.append(books.gift_command(user))
        books.produce(str(user), gifts[-1])
        books.drain()
        new = {at: letter for at, letter in dead_letters(books).items() if at not in before}
        assert [DEAD[letter["reason"]] for letter in new.values()] == [reason], name
        letter = list(new.values())[0]
        assert letter["rec_key"] == (key.encode() if key is not None else None), name
        left = books.sql("SELECT outcome, amount FROM trade WHERE log = %s AND off = %s", letter["log"], letter["off"])
        assert list(left) == ([{"outcome": 1, "amount": 0}] if row else []), name
        assert outcome(books, gifts[-1]["request_id"], user) == "settled", name
    assert books.balance(user) == 100_000 - 90 * len(gifts)
    assert books.balance(user + 1) is None


def test_repeats_have_no_effect_and_another_body_is_a_dead_letter(books):
    user = books.new_id()
    fund(books, [user], 1000)
    first = books.gift_command(user)
    other = {**first, "quantity": 2}
    letters = set(dead_letters(books))
    books.produce_many([(str(user), first)] * 3 + [(str(user), other)])  # most likely one batch
    books.drain()
    books.produce(str(user), {**first, "ts": 1})  # the time is not part of the content
    books.produce(str(user), other)
    books.drain()
    assert (outcome(books, first["request_id"], user), books.balance(user)) == ("settled", 910)
    new = [letter for at, letter in dead_letters(books).items() if at not in letters]
    assert [DEAD[letter["reason"]] for letter in sorted(new, key=lambda letter: letter["off"])] == ["id_reused"] * 2


def test_the_same_id_of_two_users_are_two_requests(books):
    users = [books.new_id(), books.new_id()]
    fund(books, users, 1000)
    shared = uuid7()
    books.produce_many([(str(user), books.gift_command(user, request_id=shared)) for user in users])
    books.drain()
    assert [outcome(books, shared, user) for user in users] == ["settled"] * 2


def test_a_storm_of_repeats_is_counted_and_changes_nothing(books):
    users = [books.new_id() for _ in range(50)]
    fund(books, users, 10_000)
    commands = [(str(user), books.gift_command(user)) for user in users for _ in range(10)]
    before = books.sql("SELECT COALESCE(SUM(duplicate), 0) d FROM batch")[0]["d"]
    books.produce_many(commands)
    books.drain()
    books.produce_many(commands + [(str(user), books.gift_command(user)) for user in users] + commands)
    books.drain()
    assert books.sql("SELECT SUM(duplicate) d FROM batch")[0]["d"] - before == 1000
    assert {books.balance(user) for user in users} == {10_000 - 11 * 90}


def test_a_credit_is_credited_once_however_often_it_is_delivered(books):
    user = books.new_id()
    credit = add_credit(books, user, 500)
    command = credit_command(user, credit)
    books.sql("UPDATE credit SET due_ms = 1 WHERE credit_id = %s", uuid.UUID(credit).bytes)
    books.produce_many([(str(user), command)] * 2)
    books.drain()
    books.produce(str(user), {**command, "ts": now_ms() + 5})
    books.drain()
    assert books.balance(user) == 500
    row = books.sql("SELECT status, due_ms FROM credit WHERE credit_id = %s", uuid.UUID(credit).bytes)[0]
    assert (row["status"], row["due_ms"]) == (2, None)
    assert len([1 for letter in dead_letters(books).values() if letter["rec_key"] == str(user).encode()]) == 0


def test_records_that_are_not_believed_do_not_hide_the_credit_behind_them(books):
    """F2: whoever knows its id; here most likely in one batch."""
    user = books.new_id()
    credit = add_credit(books, user, 500)
    home = murmur2_partition(str(user), 4)
    for key, command in [(None, credit_command(user, credit)), (str(user), credit_command(user, credit, "recharge")), (str(user), credit_command(user, credit))]:
        books.produce(key, command, partition=home)
    books.drain()
    assert (outcome(books, credit, user), books.balance(user)) == ("settled", 500)


def test_an_adjustment_that_takes_too_much_is_rejected_for_good(books):
    user = books.new_id()
    fund(books, [user], 100)
    credit = add_credit(books, user, -101)
    for _ in range(2):
        books.produce(str(user), credit_command(user, credit))
        books.drain()
    assert (outcome(books, credit, user), books.balance(user)) == ("insufficient_balance", 100)
    assert books.sql("SELECT status, due_ms FROM credit WHERE credit_id = %s", uuid.UUID(credit).bytes) == [{"status": 3, "due_ms": None}]
    row = trade(books, credit, user)
    wait_until(lambda: f"{row['log']}-{row['off']}:5559" in notice_ids(books), what="the notice of the refused credit")


def test_more_coins_than_the_sums_of_one_batch_hold_are_settled_in_several(books):
    """2^63 coins, in commands each of which is good: nothing is refused, and nobody's settlement ends."""
    most = (1 << 53) - 1
    users = [user for user in (books.new_id() for _ in range(6000)) if murmur2_partition(str(user), 4) == 0][:1200]
    credits = [uuid8() for _ in users]
    with books.connect_db() as db, db.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms) VALUES (%s, 3, %s, %s, 'test', 'test', 1, 1)",
            [(uuid.UUID(credit).bytes, user, most) for credit, user in zip(credits, users)],
        )
    before = books.pid("settle-1")
    with books.frozen("settle-1"):  # so that they are one batch
        books.produce_many([(str(user), credit_command(user, credit)) for user, credit in zip(users, credits)])
    books.drain()
    assert books.sql("SELECT COUNT(*) n FROM wallet WHERE balance = %s AND user_id >= %s AND user_id <= %s", most, users[0], users[-1])[0]["n"] == len(users) == 1200
    assert "do not fit the sums of one batch" in books.log_text("settle-1")
    assert books.pid("settle-1") == before and books.is_alive("settle-1")


def test_fund_tells_a_refusal_from_a_delay(books):
    user = books.new_user((1 << 53) - 2)
    done = subprocess.run(
        [books.env["GIFTFLOW_BIN"], "fund", f"{user}-{user}", "2", "--wait", "60", "--config", books.env["GIFTFLOW_CONFIG"]],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, env={**SANITIZERS, **books.environ},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "") and f"1 of the wallets {user}-{user} would have more than 2^53-1 coins" in done.stderr, done
    assert books.balance(user) == (1 << 53) - 2


def test_the_notices_of_a_room_stand_in_the_order_of_its_gifts(books):
    """They are sent partition by partition: between rooms their order is free, within one it is the log's."""
    user = books.new_id()
    fund(books, [user], 1_000_000)
    commands = [books.gift_command(user, room_id=5000 + i * 7 % 11) for i in range(300)]
    books.produce_many([(str(user), command) for command in commands])
    ids = {command["request_id"] for command in commands}

    def notices():
        found = [(record["key"], json.loads(record["payload"])) for record in books.records("giftflow.notices")]
        found = [(key, frame) for key, frame in found if frame["data"].get("request_id") in ids]
        return found if len(found) >= len(ids) else None

    rooms = {}
    for key, frame in wait_until(notices, 60, "a notice of each", every=0.5):
        assert key == f"r:{frame['room_id']}"
        rooms.setdefault(key, {})[int(frame["id"].split("-")[1].split(":")[0])] = True  # once: the next owner of a partition may repeat them
    assert len(rooms) == 11
    assert all(list(offsets) == sorted(offsets) for offsets in rooms.values()), rooms


def test_a_gift_that_is_new_is_known_at_once(books):
    """F11: "unknown" is said only after MySQL was read again, whatever the local snapshot says."""
    user = books.new_id()
    fund(books, [user], 1000)
    for gift_id in range(5000, 5010):
        add_gift(books, gift_id, 3)
        command = books.gift_command(user, gift_id=gift_id, price=3)
        books.produce(str(user), command)
        books.drain()
        assert outcome(books, command["request_id"], user) == "settled"


def test_holds_are_released_whatever_the_outcome(books):
    """F9: settled, rejected, duplicate and dead all release; the balance follows by version."""
    user = books.new_id()
    fund(books, [user], 1000)
    wait_until(lambda: cache.balances(books, [user]) == {user: 1000}, what="the funded balance in Redis")
    commands = [books.gift_command(user), books.gift_command(user, quantity=12), books.gift_command(user, v=2)]
    commands.append(dict(commands[0]))
    cache.write(books, user, holds={command["request_id"]: (90, now_ms() + 600_000) for command in commands[:3]})
    assert cache.read(books, user)["h"] == 270
    books.produce_many([(str(user), command) for command in commands])
    books.drain()
    wait_until(lambda: (cached := cache.read(books, user))["holds"] == {} and (cached["h"], cached["b"]) == (0, 910), what="released holds")


def test_a_record_that_mysql_refuses_is_buried_alone(books):
    """F12 b: the rest of its batch goes on; the transaction is halved down to the record."""
    user = books.new_id()
    fund(books, [user], 10_000)
    before = books.metrics("settle-1")
    root = books.connect_db("root")
    with root.cursor() as cursor:
        cursor.execute("CREATE TRIGGER refuse BEFORE INSERT ON trade FOR EACH ROW IF NEW.room_id = 666 THEN SIGNAL SQLSTATE '45000'; END IF")
    try:
        commands = [books.gift_command(user, room_id=666 if i == 13 else 5) for i in range(40)]
        books.produce_many([(str(user), command) for command in commands])
        books.drain()
    finally:
        with root.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse")
        root.close()
    assert [outcome(books, command["request_id"], user) for i, command in enumerate(commands) if i != 13] == ["settled"] * 39
    letters = [letter for letter in dead_letters(books).values() if letter["rec_key"] == str(user).encode()]
    assert [DEAD[letter["reason"]] for letter in letters] == ["sql_refused"]
    wait_until(lambda: moved(books, before).get('giftflow_dead_letters_total{reason="sql_refused"}') == 1, 60, "the dead letter's metric")
    assert moved(books, before)['giftflow_settle_retries_total{class="reject"}'] > 0


# -- what operators see


def moved(stack, before, name="settle-1"):
    """How far each series went since `before`; those that stand still are left out."""
    now = stack.metrics(name)
    return {series: now[series] - before.get(series, 0) for series in now if now[series] != before.get(series, 0)}


def counted(stack, name="settle-1"):
    """The metrics of a process that has settled all there is, once it has counted all of it: that is done behind each commit."""
    batches = stack.sql("SELECT COUNT(*) n FROM batch")[0]["n"]
    last = "giftflow_settle_batch_duration_seconds_count"
    return wait_until(lambda: (now := stack.metrics(name))[last] == batches and now, 60, f"{batches} batches are counted")


def labelled(family, label, values):
    return {f'{family}{{{label}="{value}"}}' for value in values}


def test_the_metrics_of_settlement_have_help_and_every_reason_a_series(books):
    status, _, text = books.http("GET", "/metrics", base=books.ops_url("settle-1"))
    assert status == 200
    series = set(books.metrics("settle-1"))
    wanted = labelled("giftflow_commands_total", "outcome", ["settled", "rejected", "duplicate", "dead"])
    wanted |= labelled("giftflow_commands_rejected_total", "reason", OUTCOMES[2:])
    wanted |= labelled("giftflow_dead_letters_total", "reason", DEAD[1:])
    wanted |= labelled("giftflow_settle_retries_total", "class", ["retry", "reject", "uncertain", "fatal"])
    wanted |= {"giftflow_settle_lag_records", "giftflow_settle_oldest_age_milliseconds", "giftflow_settle_fenced_total", "giftflow_settle_batch_commands_count",
               "giftflow_settle_batch_duration_seconds_count", "giftflow_settle_age_seconds_count"}  # fmt: skip
    assert not wanted - series
    documented = (ROOT / "config" / "metrics.md").read_text()
    for family in {name.split("{")[0].removesuffix("_count") for name in wanted}:
        assert f"# HELP {family} " in text and f"| {family} |" in documented, family


def test_the_metrics_move_by_what_was_settled(books):
    user = books.new_id()
    fund(books, [user], 1000)
    before = counted(books)
    first, selfish, poor = books.gift_command(user), books.gift_command(user, receiver_id=user), books.gift_command(user, quantity=100)
    books.produce_many([(str(user), command) for command in (first, first, selfish, poor)])
    books.produce(str(user), b"{")
    books.produce(str(user), {**books.gift_command(user), "colour": "red"})
    wanted = {
        'giftflow_commands_total{outcome="settled"}': 1,
        'giftflow_commands_total{outcome="duplicate"}': 1,
        'giftflow_commands_total{outcome="rejected"}': 2,
        'giftflow_commands_total{outcome="dead"}': 2,
        'giftflow_commands_rejected_total{reason="self_gift"}': 1,
        'giftflow_commands_rejected_total{reason="insufficient_balance"}': 1,
        'giftflow_dead_letters_total{reason="not_json"}': 1,
        'giftflow_dead_letters_total{reason="bad_field"}': 1,
    }
    families = ("giftflow_commands_total", "giftflow_commands_rejected_total", "giftflow_dead_letters_total")

    def seen():
        return {series: delta for series, delta in moved(books, before).items() if series.startswith(families)}

    wait_until(lambda: seen() == wanted, 60, "the counters")
    counted(books)
    change = moved(books, before)
    assert change["giftflow_settle_batch_commands_sum"] == 6
    assert change["giftflow_settle_batch_commands_count"] == change["giftflow_batches_total"] == change["giftflow_settle_batch_duration_seconds_count"]
    assert change["giftflow_settle_age_seconds_count"] == 6


def test_a_transaction_that_loses_its_connection_is_a_counted_retry(books):
    user = books.new_id()
    fund(books, [user], 1000)
    before = books.metrics("settle-1")
    command = books.gift_command(user)
    other, root = books.connect_db(), books.connect_db("root")

    def waiting():
        with root.cursor() as look:
            look.execute("SELECT trx_mysql_thread_id id FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
            return look.fetchone()

    with root, other, other.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute("SELECT * FROM wallet WHERE user_id = %s FOR UPDATE", (user,))
        books.produce(str(user), command)
        waiter = wait_until(waiting, 60, "settlement waits", every=0.5)
        with root.cursor() as killer:
            killer.execute("KILL %d" % waiter["id"])
        wait_until(lambda: moved(books, before).get('giftflow_settle_retries_total{class="retry"}'), 60, "the retry")
        cursor.execute("ROLLBACK")
    wait_until(lambda: outcome(books, command["request_id"], user) == "settled", 60, "the gift's outcome")


# -- what may be killed


class Traffic:
    """Gifts of the stack's users in a thread, until it is left."""

    def __init__(self, stack, size=100):
        self.stack, self.size = stack, size
        self.stopped, self.error = threading.Event(), None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.stopped.is_set():
                commands = [self.stack.gift_command(self.stack.users[i % len(self.stack.users)]) for i in range(self.size)]
                self.stack.produce_many([(str(command["user_id"]), command) for command in commands])
                self.stack.sent += [(command["request_id"], command["user_id"]) for command in commands]
                self.stopped.wait(0.02)
        except Exception as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *failure):
        self.stopped.set()
        self.thread.join()
        assert failure[0] or not self.error, self.error

    def wait_settled(self, more=500):
        """Until so many more have been settled: the traffic flows."""
        start = settled_offsets(self.stack)
        wait_until(lambda: settled_offsets(self.stack) >= start + Decimal(more), 180, "flowing traffic")

    def wait_settled_everywhere(self):
        """Until each partition has moved: whoever is killed then leaves none that looks stalled, whose records would be taken carefully (F12 a)."""
        start = next_offsets(self.stack)
        wait_until(lambda: all(at > start[part] for part, at in next_offsets(self.stack).items()), 180, "flowing traffic in each partition")


def next_offsets(stack):
    return {row["part"]: row["next_offset"] for row in stack.sql("SELECT part, next_offset FROM progress WHERE live = 1 AND topic = 'giftflow.commands'")}


def settled_offsets(stack):
    return stack.sql("SELECT SUM(next_offset) n FROM progress WHERE topic = 'giftflow.commands'")[0]["n"]


def owners(stack):
    return {row["owner"] for row in stack.sql("SELECT owner FROM progress WHERE topic = 'giftflow.commands'")}


def check_all_settled_once(stack):
    stack.drain()
    rows = stack.sql("SELECT request_id, user_id, outcome, log, off FROM trade WHERE kind = 1")
    found = {(str(uuid.UUID(bytes=row["request_id"])), row["user_id"]): row for row in rows}
    assert len(found) == len(rows)
    assert set(found) == set(stack.sent)
    assert {row["outcome"] for row in rows} == {0}
    want = {f"{row['log']}-{row['off']}:5556" for row in rows}
    wait_until(lambda: want <= notice_ids(stack), 60, "every notice, at least once")
    check_books(stack)


def test_kill_9_in_the_middle_of_traffic_loses_and_doubles_nothing(rough):
    with Traffic(rough) as traffic:
        for _ in range(3):
            traffic.wait_settled()
            traffic.wait_settled_everywhere()
            rough.kill("settle-1")
            rough.start("settle-1")
        traffic.wait_settled()
    check_all_settled_once(rough)


def test_two_processes_share_the_partitions_and_take_over_from_each_other(rough):
    rough.start("settle-2")
    wait_until(lambda: len(owners(rough)) == 2, what="both processes own partitions")
    with Traffic(rough) as traffic:
        traffic.wait_settled()
        rough.kill("settle-1")
        wait_until(lambda: len(owners(rough)) == 1, 60, "take-over")
        traffic.wait_settled()
        rough.start("settle-1")
        wait_until(lambda: len(owners(rough)) == 2, 60, "sharing again")
        traffic.wait_settled()
        rough.stop("settle-2")
        wait_until(lambda: len(owners(rough)) == 1, 60, "hand-over")
        traffic.wait_settled()
    check_all_settled_once(rough)


def test_mysql_dies_and_comes_back(rough):
    """F20: without MySQL for longer than settle.retry_max a lane leaves the group, so that it blocks nobody's rebalance."""
    with Traffic(rough) as traffic:
        traffic.wait_settled()
        left = rough.log_text("settle-1").count("event=group_left")
        rough.kill("mysql")
        wait_until(lambda: not rough.is_ready("settle-1"), 60, "not ready without MySQL")
        wait_until(lambda: rough.log_text("settle-1").count("event=group_left") > left, 60, "leaving the group")
        rough.start("mysql")
        wait_until(lambda: rough.is_ready("settle-1"), 60, "ready again")
        traffic.wait_settled()
        rough.kill("mysql")
        rough.start("mysql")
        traffic.wait_settled()
    check_all_settled_once(rough)


def test_redis_is_only_a_cache(rough):
    with Traffic(rough) as traffic:
        traffic.wait_settled()
        rough.kill("redis")
        traffic.wait_settled()
        rough.start("redis")
        traffic.wait_settled()
        rough.redis("flushall")
        traffic.wait_settled()
    check_all_settled_once(rough)
    for user in rough.users:
        wait_until(lambda: cache.balances(rough, [user]) == {user: rough.balance(user)}, what="the balance in Redis")


def test_sigterm_ends_the_batch_tells_it_and_leaves(rough):
    with Traffic(rough) as traffic:
        traffic.wait_settled()
        rough.stop("settle-1")
        rows = rough.sql("SELECT next_offset, notified_offset FROM progress WHERE topic = 'giftflow.commands'")
        assert all(row["next_offset"] == row["notified_offset"] for row in rows), "all notices were acknowledged before the end"
        rough.start("settle-1")
        traffic.wait_settled()
    check_all_settled_once(rough)


def test_it_waits_for_its_parts_at_the_start(rough):
    rough.stop("settle-1")
    rough.kill("mysql")
    rough.dev("start", "settle-1", "--no-wait")
    rough._read_env()

    def alive():
        try:
            return rough.http("GET", "/healthz", base=rough.ops_url("settle-1"), timeout=5)[0] == 200
        except OSError:
            return False

    wait_until(alive, what="the operations port")
    assert not rough.is_ready("settle-1")
    rough.start("mysql")
    wait_until(lambda: rough.is_ready("settle-1"), 60, "ready")
    with Traffic(rough) as traffic:
        traffic.wait_settled()
    check_all_settled_once(rough)


# -- what stops a partition, loudly


@pytest.fixture(scope="module")
def stoppable():
    stack = Stack(roles=ONLY_SETTLE, partitions=2)
    try:
        stack.up()
        add_gift(stack, 22, 90)
        yield stack
    finally:
        stack.down(purge=False)
        found = stack.bad_log_lines()
        stack.dev("down", "--purge", check=False)
    assert not found, "\n".join(found)


def user_of(stack, partition, count=2):
    while True:
        user = stack.new_id()
        if murmur2_partition(str(user), count) == partition:
            return user


def is_stopped_because(stack, reason):
    try:
        status, _, text = stack.http("GET", "/readyz", base=stack.ops_url("settle-1"), timeout=5)
    except OSError:
        return False
    return status == 503 and reason in str(text)


@pytest.mark.parametrize(
    "change, reason",
    [
        ("last_fp = x'0123456789abcdef'", "not the one that was settled"),  # F5: the topic was made anew
        ("next_offset = next_offset + 1000", "truncated or made anew"),
        ("partitions = 3", "was made for 3"),  # F4
        ("live = NULL", "no live log"),
    ],
)  # fmt: skip
def test_a_log_that_does_not_fit_stops_its_partition_and_no_other(stoppable, change, reason):
    stack = stoppable
    victim, neighbour = user_of(stack, 0), user_of(stack, 1)
    fund(stack, [victim, neighbour], 1000)
    stack.stop("settle-1")
    before = stack.sql("SELECT * FROM progress WHERE topic = 'giftflow.commands' AND part = 0")[0]
    stack.sql(f"UPDATE progress SET {change} WHERE log = {before['log']}")
    commands = [stack.gift_command(victim), stack.gift_command(neighbour)]
    stack.produce_many([(str(command["user_id"]), command) for command in commands])
    stack.dev("start", "settle-1", "--no-wait")
    stack._read_env()

    wait_until(lambda: is_stopped_because(stack, reason), 60, f"readiness says: {reason}")
    wait_until(lambda: outcome(stack, commands[1]["request_id"], neighbour) == "settled", what="the neighbour's gift")
    assert trade(stack, commands[0]["request_id"], victim) is None
    wait_until(lambda: stack.metrics("settle-1")["giftflow_settle_stopped_partitions"] == 1, what="one partition counts as stopped")
    if reason != "no live log":  # that one mends itself: init may come late
        stack.stop("settle-1")
    stack.sql(
        "UPDATE progress SET last_fp = %s, next_offset = %s, partitions = %s, live = %s WHERE log = %s",
        before["last_fp"], before["next_offset"], before["partitions"], before["live"], before["log"],
    )  # fmt: skip
    if reason != "no live log":
        stack.start("settle-1")
    wait_until(lambda: outcome(stack, commands[0]["request_id"], victim) == "settled", 60, "the victim's gift")


def segments_with(stack, text):
    """Where it stands in partition 0's log, a file and a position for each broker; None until all of them have it."""
    files = [(path, path.read_bytes().find(text)) for path in stack.dir.rglob("giftflow.commands-0/*.log")]
    found = [(path, at) for path, at in files if at >= 0]
    return found if len(found) == BROKERS else None


def test_a_record_that_kafka_cannot_give_back_stops_its_partition(stoppable):
    """Nothing accepted is passed over: what stands before a batch whose checksum is wrong is settled, and nothing behind it before it is whole."""
    stack = stoppable
    user, neighbour = user_of(stack, 0), user_of(stack, 1)
    fund(stack, [user, neighbour], 1000)
    stack.stop("settle-1")
    sound, bad, last = [stack.gift_command(user) for _ in range(3)], stack.gift_command(user), stack.gift_command(user)
    stack.produce_many([(str(user), command) for command in sound])
    stack.produce(str(user), bad)
    stack.produce(str(user), last)
    segments = wait_until(lambda: segments_with(stack, bad["request_id"].encode()), 60, "the record in the log of each broker")

    def write(byte):
        for segment, at in segments:
            with segment.open("r+b") as file:
                file.seek(at)
                file.write(byte)

    right = bad["request_id"][:1].encode()
    write(b"1" if right == b"0" else b"0")
    try:
        stack.start("settle-1", wait=False)
        wait_until(lambda: is_stopped_because(stack, "failed CRC32C check"), 60, "readiness says why")
        assert [outcome(stack, command["request_id"], user) for command in (*sound, bad, last)] == ["settled"] * 3 + [None] * 2
        assert stack.metrics("settle-1")["giftflow_settle_stopped_partitions"] == 1
        stops = lambda: stack.log_text("settle-1").count("event=partition_stopped")  # noqa: E731
        before = stops()
        wait_until(lambda: stops() > before, 120, "another look, which finds the same")
    finally:
        write(right)
    other = stack.gift_command(neighbour)
    stack.produce(str(neighbour), other)
    wait_until(lambda: outcome(stack, other["request_id"], neighbour) == "settled", what="the neighbour's gift")
    wait_until(lambda: outcome(stack, last["request_id"], user) == "settled", 180, "the last gift, once the batch is whole")
    assert outcome(stack, bad["request_id"], user) == "settled"
    assert stack.metrics("settle-1")["giftflow_settle_stopped_partitions"] == 0
    check_books(stack)


def test_a_fenced_process_drops_its_work(stoppable):
    """F8: whoever holds an older epoch commits nothing; the next assignment takes over again."""
    stack = stoppable
    user = user_of(stack, 0)
    fund(stack, [user], 1000)
    fenced, claimed = stack.metrics("settle-1")["giftflow_settle_fenced_total"], stack.log_text("settle-1").count("event=partition_claimed")
    stack.sql("UPDATE progress SET epoch = epoch + 1 WHERE topic = 'giftflow.commands' AND part = 0")
    command = stack.gift_command(user)
    stack.produce(str(user), command)
    wait_until(lambda: stack.metrics("settle-1")["giftflow_settle_fenced_total"] > fenced, what="the fence")
    assert trade(stack, command["request_id"], user) is None or stack.log_text("settle-1").count("event=partition_claimed") > claimed
    stack.start("settle-2")
    wait_until(lambda: outcome(stack, command["request_id"], user) == "settled", 60, "the gift, after a new assignment")
    stack.stop("settle-2")
    check_books(stack)


def test_a_stall_costs_short_batches_and_single_records_only_after_a_try(stoppable):
    """F12 a: as if three processes had died over 250 gifts, and a fourth one over the first of them when it went carefully."""
    stack = stoppable
    user = user_of(stack, 0)
    for tries, singly in ((0, 0), (1, 200)):
        fund(stack, [user], 100_000)
        stack.stop("settle-1")
        at = stack.sql("SELECT * FROM progress WHERE topic = 'giftflow.commands' AND part = 0")[0]
        stack.sql("UPDATE progress SET stalled_at = next_offset, stalls = 3, tried_offset = next_offset, tries = %s WHERE log = %s",
                  tries, at["log"])
        gifts = [stack.gift_command(user) for _ in range(250)]
        stack.produce_many([(user, gift) for gift in gifts])
        stack.start("settle-1")
        wait_until(lambda: outcome(stack, gifts[-1]["request_id"], user) == "settled", 180, "the last gift")
        rows = stack.sql("SELECT first_offset, next_offset FROM batch WHERE log = %s AND first_offset >= %s ORDER BY 1", at["log"], at["next_offset"])
        sizes = [row["next_offset"] - row["first_offset"] for row in rows]
        assert sum(sizes) == 250 and max(sizes) <= 200
        assert sizes[:singly] == [1] * singly
        assert len(sizes) - singly < (250 - singly) / 2, "the others are settled together"
    check_books(stack)


def test_a_record_that_kills_its_consumer_is_buried_unparsed(stoppable):
    """F12 a: as if five processes had died over this record. Its key and ce_id header still give it an outcome."""
    stack = stoppable
    user = user_of(stack, 0)
    fund(stack, [user], 1000)
    stack.stop("settle-1")
    at = stack.sql("SELECT * FROM progress WHERE topic = 'giftflow.commands' AND part = 0")[0]
    stack.sql(f"UPDATE progress SET stalled_at = next_offset, stalls = 3, tried_offset = next_offset, tries = 5 WHERE log = {at['log']}")
    poison, gift = stack.gift_command(user), stack.gift_command(user)
    stack.produce(str(user), poison, headers={"ce_id": poison["request_id"]})
    stack.produce(str(user), gift)
    stack.start("settle-1")
    wait_until(lambda: outcome(stack, gift["request_id"], user) == "settled", what="the gift behind the poison")
    assert outcome(stack, poison["request_id"], user) == "internal_error"
    letter = stack.sql("SELECT reason FROM dead_letter WHERE log = %s AND off = %s", at["log"], at["next_offset"])[0]
    assert DEAD[letter["reason"]] == "crash_loop"
