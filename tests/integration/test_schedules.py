# SPDX-License-Identifier: Apache-2.0
"""Schedules that lose, double or invent coins, or stop a partition, in a system that lacks one rule; each test carries its number.
tests/SCHEDULES.md says which test shows which. Those that other files show are not repeated here."""

import contextlib
import mmap
import struct
import subprocess
import time

import pytest
from conftest import UNHURRIED, finish
from stack import PATIENT_ENV, Stack, uuid7, wait_until
from test_faults import Foreign
from test_gateway import known
from test_ingest_outages import Senders
from test_settle import (
    DEAD, add_credit, add_gift, check_books, credit_command, dead_letters, murmur2_partition, notice_ids, outcome, owners, settled_offsets, trade,
)  # fmt: skip

DAY_MS = 86_400_000


class Clock:
    """The real clock of every process of the stack, and how wrong it is."""

    def __init__(self, path):
        path.write_bytes(bytes(8))
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), 8)

    def step(self, ms):
        self.page[:] = struct.pack("=q", ms)


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """Everything once; the tests follow each other in this file's order, and the last one ends it for good."""
    path = tmp_path_factory.mktemp("clock") / "step"
    clock = Clock(path)
    stack = Stack(roles={"sweep": 0}, settings={**UNHURRIED, "settle.retry_max": "2s", "settle.batch": 200, "kafka.session_timeout": "12s"}, env={"GIFTFLOW_CLOCK_STEP": str(path)})
    stack.clock, stack.books = clock, True
    try:
        stack.up()
        add_gift(stack, 22, 90)
        add_gift(stack, 1, 1)
        yield stack
        if stack.books:
            stack.drain()
            check_books(stack)
    finally:
        clock.step(0)
        finish(stack)


@pytest.fixture(autouse=True)
def _whole(system):
    """A test that fails half-way leaves the next one a stack that works."""
    yield
    system.clock.step(0)
    if system.books and not system.is_alive("settle-1"):
        system.start("settle-1")


def fund(stack, users, coins):
    stack.produce_many([(str(user), credit_command(user, add_credit(stack, user, coins))) for user in users])
    stack.drain()


def send(stack, *commands):
    stack.produce_many([(str(command["user_id"]), command) for command in commands])


def with_point(stack, name, point):
    """Starts a process that stops itself at the point."""
    stack.environ["GIFTFLOW_POINT"] = point
    try:
        stack.start(name, wait=False)
    finally:
        del stack.environ["GIFTFLOW_POINT"]


# -- F1 to F3: one outcome for ever, and no balance but MySQL's


def test_f1_a_rejected_request_stays_rejected_when_it_comes_again_with_money(system):
    user = system.new_id()
    fund(system, [user], 10)
    gift = system.gift_command(user)
    send(system, gift)
    send(system, credit_command(user, add_credit(system, user, 1000)))
    send(system, gift)  # a producer's retry, or a client's
    system.drain()
    assert (outcome(system, gift["request_id"], user), system.balance(user)) == ("insufficient_balance", 1010)
    row = trade(system, gift["request_id"], user)
    wait_until(lambda: f"{row['log']}-{row['off']}:5557" in notice_ids(system), 60, "the notice of failure")
    assert not [notice for notice in notice_ids(system) if notice.startswith(f"{row['log']}-") and notice.endswith(":5556") and trade_at(system, notice)["user_id"] == user]


def trade_at(stack, notice):
    log, off = notice.split(":")[0].split("-")
    return stack.sql("SELECT * FROM trade WHERE log = %s AND off = %s", log, off)[0]


def test_f1_f10_who_dies_behind_its_commit_has_told_nothing_and_the_next_owner_tells_all(system):
    """Rejections as well as gifts, notices as well as balances: all come from the trade rows."""
    rich, poor = [system.new_id() for _ in range(20)], [system.new_id() for _ in range(20)]
    fund(system, rich + poor, 100)
    system.stop("settle-1")
    with_point(system, "settle-1", "settle_committed:kill")
    commands = [system.gift_command(user, price=90 if user in rich else 91) for user in rich + poor]
    send(system, *commands)
    wait_until(lambda: system.has_ended("settle-1"), 60, "its death")
    told = notice_ids(system)
    rows = [row for row in (trade(system, command["request_id"], command["user_id"]) for command in commands) if row]
    assert rows and not {f"{row['log']}-{row['off']}:{5556 if row['outcome'] == 0 else 5557}" for row in rows} & told
    system.start("settle-1")
    system.drain()
    rows = [trade(system, command["request_id"], command["user_id"]) for command in commands]
    assert [row["outcome"] for row in rows] == [0] * 20 + [3] * 20
    want = {f"{row['log']}-{row['off']}:{5556 if row['outcome'] == 0 else 5557}" for row in rows}
    wait_until(lambda: want <= notice_ids(system), 60, "the notices", every=0.5)
    for user in rich:
        wait_until(lambda: system.available(user) == 10, 60, "its balance")
    wait_until(lambda: check_redis(system), 60, "Redis knows what MySQL knows")


def check_redis(stack):
    """verify compares Redis with MySQL."""
    done = subprocess.run([stack.env["GIFTFLOW_BIN"], "verify", "--redis=yes", "--config", stack.env["GIFTFLOW_CONFIG"]], capture_output=True, timeout=200, env={**stack.environ, **PATIENT_ENV})
    return done.returncode == 0


def test_f3_what_another_hand_writes_into_a_wallet_stays(system):
    """Frozen by hand between two batches of a process that has just written the wallet: seen at once, and never undone by a later write."""
    user = system.new_id()
    fund(system, [user], 1000)
    commands = [system.gift_command(user) for _ in range(3)]
    send(system, commands[0])
    system.drain()
    system.sql("UPDATE wallet SET status = 2, ver = ver + 1, created_ms = 12345 WHERE user_id = %s", user)
    send(system, commands[1])
    system.drain()
    fund(system, [user], 5)  # credits pass, and write the row
    wallet = system.sql("SELECT * FROM wallet WHERE user_id = %s", user)[0]
    assert (wallet["status"], wallet["created_ms"], wallet["balance"], wallet["total_spent"]) == (2, 12345, 915, 90)
    system.sql("UPDATE wallet SET status = 1, ver = ver + 1 WHERE user_id = %s", user)
    send(system, commands[2])
    system.drain()
    assert [outcome(system, command["request_id"], user) for command in commands] == ["settled", "wallet_frozen", "settled"]
    assert system.balance(user) == 825


# -- F8: who owns a partition


def test_f8_two_deployments_with_different_groups_fence_each_other_and_settle_once(system):
    users = [system.new_id() for _ in range(20)]
    fund(system, users, 10_000)
    sent = []

    def batch():
        commands = [system.gift_command(user) for user in users]
        send(system, *commands)
        sent.extend(commands)

    def claims(name):
        return system.log_text(name).count("event=partition_claimed")

    def drops_its_work(stale, owner):
        """No offset tells it: the owner stands still."""
        before = fences(system, stale)
        with system.frozen(owner):
            batch()
            wait_until(lambda: fences(system, stale) > before, 60, f"{stale} drops its work")
        system.drain()

    batch()
    system.drain()
    another = {"GIFTFLOW_SETTLE_GROUP": "another-deployment", "GIFTFLOW_KAFKA_SESSION_TIMEOUT": "5m"}  # it does not claim again because it has stood still
    system.environ.update(another)
    try:
        system.start("settle-2", wait=False)
    finally:
        for name in another:
            del system.environ[name]
    wait_until(lambda: len(owners(system)) == 1 and claims("settle-2") >= 4, 60, "it has claimed all")
    drops_its_work("settle-1", "settle-2")
    batch()
    system.kill("settle-1")
    claimed = claims("settle-1")
    system.start("settle-1", wait=False)  # and takes them back
    wait_until(lambda: claims("settle-1") >= claimed + 4, 60, "it has claimed all again")
    system.drain()
    drops_its_work("settle-2", "settle-1")
    system.stop("settle-2")
    batch()
    system.drain()
    assert settled_of(system, sent) == len(sent)
    assert {system.balance(user) for user in users} == {10_000 - 90 * 5}


def fences(stack, name):
    return stack.log_text(name).count("event=partition_fenced")


def settled_of(stack, commands):
    return sum(outcome(stack, command["request_id"], command["user_id"]) == "settled" for command in commands)


# -- F10, F15: the cache forgets everything


def test_f10_redis_is_flushed_under_load_and_knows_all_again(system):
    """G6. No coin is lost, doubled or invented, and Redis agrees with MySQL as soon as it is quiet."""
    with Senders(system) as senders:
        for _ in range(3):
            senders.wait_for_more(50)
            system.redis("FLUSHALL")
        senders.wait_for_more(50)
    senders.settle_doubts(1)
    senders.check()
    wait_until(lambda: check_redis(system), 60, "Redis knows what MySQL knows")
    for user in senders.users:
        wait_until(lambda: system.available(user) == system.balance(user), 60, "no hold is left")


def test_f15_a_request_that_redis_has_forgotten_is_unknown_for_now_and_its_key_is_worth_one_gift(system):
    user, key = system.new_id(), uuid7()
    fund(system, [user], 1000)
    system.stop("settle-1")
    wait_until(lambda: system.gift(user, key=key)[0] == 202, 60, "202")
    assert system.http("GET", f"/v1/requests/{key}", user=user)[2]["status"] == "accepted"
    system.redis("FLUSHALL")
    status, _, problem = system.http("GET", f"/v1/requests/{key}", user=user)
    assert (status, problem["code"]) == (404, "unknown_request") and "yet" in problem["detail"], problem
    wait_until(lambda: system.gift(user, key=key)[0] == 202, 60, "the client repeats with its key")
    system.start("settle-1")
    assert system.outcome(user, key, 60)["balance_after"] == 910
    system.drain()
    assert system.balance(user) == 910


# -- F11, F12, F16


def test_f11_a_gift_is_paid_at_the_price_that_its_sender_saw(system):
    """The price changes while gifts are on their way; the time that counts is the broker's, whatever the producer says."""
    gift_id, user = system.new_id(), system.new_id()
    fund(system, [user], 10_000)
    assert system.admin("POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": "g", "price": 70})[0] == 201
    status, _, answer = system.admin("PUT", f"/admin/v1/gifts/{gift_id}", {"price": 80})
    assert status == 200, answer
    fair = [system.gift_command(user, gift_id=gift_id, price=price, ts=ts) for price in (70, 80) for ts in (1, int(time.time() * 1000) + DAY_MS)]
    unfair = system.gift_command(user, gift_id=gift_id, price=60)
    send(system, *fair, unfair)
    system.drain()
    assert [outcome(system, command["request_id"], user) for command in (*fair, unfair)] == ["settled"] * 4 + ["price_mismatch"]
    assert system.balance(user) == 10_000 - 300


def test_f12_an_error_that_nobody_has_met_costs_its_record_alone(system):
    """The batch is halved down to the record, which gets settle.retry_max of its own, and is buried while others are settled."""
    users = [user for user in (system.new_id() for _ in range(40)) if murmur2_partition(str(user), 4) == 1][:5]
    other = next(user for user in iter(system.new_id, None) if murmur2_partition(str(user), 4) == 2)
    fund(system, [*users, other], 100_000)
    before = set(dead_letters(system))
    commands = [system.gift_command(users[i % len(users)], room_id=666 if i == 7 else 5) for i in range(20)]
    with Trigger(system, "BEFORE INSERT ON trade FOR EACH ROW IF NEW.room_id = 666 THEN SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 9876; END IF"):
        send(system, *commands)

        def the_last_is_settled():
            send(system, system.gift_command(other))
            return outcome(system, commands[-1]["request_id"], commands[-1]["user_id"]) == "settled"

        wait_until(the_last_is_settled, 90, "the gifts behind it", every=0.5)
        system.drain()
    new = [letter for at, letter in dead_letters(system).items() if at not in before]
    assert [DEAD[letter["reason"]] for letter in new] == ["sql_refused"]
    assert [outcome(system, command["request_id"], command["user_id"]) for i, command in enumerate(commands) if i != 7] == ["settled"] * 19
    metrics = system.metrics("settle-1")
    assert metrics['giftflow_settle_retries_total{class="fatal"}'] > 0
    assert not [series for series in metrics if series.startswith("giftflow_settle_retries_total") and "class=" not in series]


def test_f12_an_error_that_nobody_has_met_buries_nothing_when_it_is_the_server(system):
    user = system.new_id()
    fund(system, [user], 10_000)
    before = set(dead_letters(system))
    commands = [system.gift_command(user) for _ in range(20)]
    retried = system.log_text("settle-1").count("event=batch_retried")
    left = system.log_text("settle-1").count("event=group_left")
    with Trigger(system, "BEFORE INSERT ON batch FOR EACH ROW SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 9876"):
        send(system, *commands)
        wait_until(lambda: system.log_text("settle-1").count("event=group_left") > left, 60, "the lane gives the batch back")
    assert system.log_text("settle-1").count("event=batch_retried") > retried
    system.drain()
    assert settled_of(system, commands) == 20 and set(dead_letters(system)) == before


class Trigger:
    """A trigger that somebody has made, for as long as it takes."""

    def __init__(self, stack, text):
        self.stack, self.text = stack, text

    def run(self, statement):
        root = self.stack.connect_db("root")
        try:
            with root.cursor() as cursor:
                cursor.execute(statement)
        finally:
            root.close()

    def __enter__(self):
        self.run(f"CREATE TRIGGER refuse {self.text}")

    def __exit__(self, *_):
        self.run("DROP TRIGGER refuse")


def test_f16_the_keys_of_trade_append(system):
    """UNIQUE begins with the id: ids of version 7 go to its right edge. A statement needs no index, it follows prev_log, prev_off."""
    keys = {}
    for row in system.sql("SHOW INDEX FROM trade"):
        keys.setdefault(row["Key_name"], []).append(row["Column_name"])
    assert keys == {"PRIMARY": ["log", "off"], "request": ["request_id", "user_id"]}
    user = system.new_id()
    fund(system, [user], 1000)
    commands = [system.gift_command(user, quantity=quantity) for quantity in (1, 2, 3)]
    send(system, *commands)
    system.drain()
    status, _, page = system.http("GET", "/v1/wallet/trades?limit=10", user=user)
    assert status == 200 and [item["amount"] for item in page["trades"]] == [-270, -180, -90, 1000]


# -- F18: one id, two meanings


def test_f18_rooms_users_and_ids_that_look_alike_are_told_apart_and_seq_survives_a_flush(system):
    room, twin = system.new_user(1000), system.new_user(1000)  # a user whose number is also the room's
    shared = uuid7()
    with system.ws(room, room) as client:
        known(system, (client, room))

        def next_of(seen):
            """The next gift that is no probe of `known` and no repeat, which has the same id."""
            return client.wait_frame(lambda f: f["code"] == 5556 and "probe" not in f["data"] and f["id"] not in [frame["id"] for frame in seen])

        for user in (room, twin):  # one UUID, two clients, one room
            wait_until(lambda: system.gift(user, room=room, key=shared)[0] == 202, 60, "202")
        frames = []
        for _ in range(2):
            frames.append(next_of(frames))
        assert {frame["data"]["sender_id"] for frame in frames} == {room, twin}
        assert frames[0]["id"] != frames[1]["id"] and {frame["ch"] for frame in frames} == {"room"}
        system.redis("FLUSHALL")
        wait_until(lambda: system.gift(twin, room=room)[0] == 202, 60, "202")
        frame = next_of(frames)
        assert frame["seq"] > max(f["seq"] for f in frames) >= 1 << 40
        system.adjust(room, 5)
        assert client.wait_frame(lambda f: f["code"] == 5558, timeout=60)["ch"] == "user"


# -- F20: what must not run ahead


def test_f20_settlement_waits_for_its_notices(system):
    """Kafka takes no more notices while records are already here, all of one lane: settlement stops after a bounded number of batches."""
    users = users_of(system, 0, 4)[:20]
    fund(system, users, 1_000_000)
    system.stop("settle-1")
    system.environ["GIFTFLOW_KAFKA_MESSAGE_TIMEOUT"] = "5m"  # no notice is given up, and made again, before we have looked
    try:
        system.start("settle-1")
    finally:
        del system.environ["GIFTFLOW_KAFKA_MESSAGE_TIMEOUT"]

    def settled_without_kafka():
        with contextlib.ExitStack() as later:
            with Foreign(system) as foreign:
                foreign.run("SELECT * FROM progress FOR UPDATE")
                send(system, *(system.gift_command(user) for _ in range(100) for user in users))
                foreign.wait_for_waiter()  # the rest is being fetched meanwhile
                start = settled_offsets(system)
                later.enter_context(system.frozen("kafka"))
            wait_a_while("without Kafka")
            settled = settled_offsets(system) - start
        system.drain(180)  # a broker that wakes takes no requests for a while
        return settled

    settled = wait_until(lambda: (n := settled_without_kafka()) > 2 * 200 and n, 240, "a Kafka that stops when enough is here")
    assert settled <= (2 + 1) * 200, "two batches that nobody has heard of, and one under way"


def users_of(stack, part, count):
    """New users whose records go to this one of `count` partitions."""
    return [user for user in (stack.new_id() for _ in range(40 * count)) if murmur2_partition(str(user), count) == part]


def wait_a_while(what):
    """For what must not happen: a slow machine only proves less."""
    end = time.monotonic() + 5
    wait_until(lambda: time.monotonic() > end, 60, f"a while {what}", every=0.5)


# -- clocks, stars and whales


@pytest.mark.parametrize("step", [DAY_MS, -DAY_MS, 400 * DAY_MS])
def test_a_stepped_clock_moves_no_money(system, step):
    """All processes' wall clocks are wrong by a day or a year, back and forth under load; then everything is repeated, years late."""
    users = [system.new_id() for _ in range(10)]
    fund(system, users, 10_000)
    commands = []
    for round_ in range(4):
        system.clock.step(step if round_ % 2 else 0)
        batch = [system.gift_command(user) for user in users]
        send(system, *batch)
        commands += batch
    key = uuid7()
    token = {"Authorization": f"Bearer {system.token(users[0], ttl=10**9)}", "Idempotency-Key": key}
    body = {"room_id": 5, "receiver_id": 6, "gift_id": 1, "quantity": 1, "type": 0}
    system.clock.step(step)
    wait_until(lambda: system.http("POST", "/v1/gifts", body, token)[0] == 202, 60, "202 by a wrong clock")
    system.drain()
    system.redis("FLUSHALL")
    system.stop("settle-1")
    system.start("settle-1")
    send(system, *commands)
    assert system.http("POST", "/v1/gifts", body, token)[0] in (202, 503)
    system.clock.step(0)
    wait_until(lambda: system.http("POST", "/v1/gifts", body, token)[0] == 202, 60, "202 by the right clock")
    system.drain()
    assert {system.balance(user) for user in users[1:]} == {10_000 - 4 * 90}
    assert system.balance(users[0]) == 10_000 - 4 * 90 - 1
    assert settled_of(system, commands) == len(commands)


def test_a_star_with_many_tippers_is_no_hot_row(system):
    """While somebody holds every row of the receiver, gifts to him settle without waiting: the transaction touches none of them."""
    star, users = system.new_id(), [system.new_id() for _ in range(50)]
    fund(system, [star, *users], 1000)
    system.sql("INSERT INTO income_account (receiver_id, balance, total_gross, total_host, ver, updated_ms) VALUES (%s, 0, 0, 0, 1, 0)", star)
    retried = system.log_text("settle-1").count("event=batch_retried")
    with Foreign(system) as foreign:
        foreign.run("SELECT * FROM wallet WHERE user_id = %s FOR UPDATE", star)
        foreign.run("SELECT * FROM income_account WHERE receiver_id = %s FOR UPDATE", star)
        foreign.run("SELECT * FROM income WHERE receiver_id = %s FOR UPDATE", star)
        commands = [system.gift_command(user, receiver_id=star) for user in users for _ in range(10)]
        send(system, *commands)
        system.drain()
    assert {system.balance(user) for user in users} == {100}
    assert system.log_text("settle-1").count("event=batch_retried") == retried
    system.sql("DELETE FROM income_account WHERE receiver_id = %s", star)


def test_a_whale_is_one_row_written_once_per_batch(system):
    """5,000 gifts of one sender between those of fifty others of the partition: the others settle in the same batches, and its wallet is
    written once in each."""
    whale = system.new_id()
    others = []
    while len(others) < 50:
        others += [user for user in [system.new_id()] if murmur2_partition(str(user), 4) == murmur2_partition(str(whale), 4)]
    fund(system, [whale, *others], 1_000_000)
    commands = []
    for i in range(5000):
        commands.append(system.gift_command(whale))
        if i % 100 == 0:
            commands.append(system.gift_command(others[i // 100]))
    before = counters(system)
    send(system, *commands)
    system.drain()
    after = counters(system)
    batches = after["batches"] - before["batches"]
    written = after["rows"] - before["rows"]
    assert system.balance(whale) == 1_000_000 - 5000 * 90 and {system.balance(user) for user in others} == {1_000_000 - 90}
    assert system.sql("SELECT ver FROM wallet WHERE user_id = %s", whale)[0]["ver"] == 5002
    assert batches < 500, "a busy sender does not make small batches"
    assert written <= 50 + 12 * batches, (written, batches)  # the others, and of each batch the whale and progress, now and then notified


def counters(stack):
    rows = stack.sql("SHOW GLOBAL STATUS LIKE 'Handler_update'")
    return {"rows": int(rows[0]["Value"]), "batches": stack.sql("SELECT COUNT(*) n FROM batch")[0]["n"]}


# -- the last one: partitions cannot be taken away again


def test_f4_partitions_added_to_the_topic_stop_ingest_and_settle(system):
    user = system.new_id()
    fund(system, [user], 1000)
    system.drain()
    check_books(system)
    system.books = False
    system.add_partitions("giftflow.commands", 8)
    gift = system.gift_command(user)
    system.stop("ingest-1")
    system.start("ingest-1", wait=False)
    wait_until(lambda: "partitions" in system.http("GET", "/readyz", base=system.ops_url("ingest-1"))[2], 60, "ingest is not ready")
    key = uuid7()
    status, _, problem = system.try_gift(user, key=key)
    assert (status, problem["request_id"]) == (503, key)
    send(system, gift)
    wait_until(lambda: system.metrics("settle-1")["giftflow_settle_stopped_partitions"] >= 4, 90, "all partitions are stopped")
    assert not system.is_ready("settle-1") and "was made for 4" in system.log_text("settle-1")
    system.stop("settle-1")
    settled = settled_offsets(system)
    late = [system.gift_command(users_of(system, part, 8)[0]) for part in range(8)]
    send(system, *late)
    system.start("settle-1", wait=False)
    wait_until(lambda: system.metrics("settle-1")["giftflow_settle_stopped_partitions"] >= 8, 60, "and stay so")
    wait_a_while("for whoever would take them")
    assert [trade(system, command["request_id"], command["user_id"]) for command in late] == [None] * 8
    assert settled_offsets(system) == settled
