# SPDX-License-Identifier: Apache-2.0
"""Random streams against the model of ledger_model.py: thousands of records, good, repeated and poisonous, are settled by two processes, and
their income rolled up by two, that are killed at random, and every record must have become what the model says. GIFTFLOW_MODEL_SEED repeats a run's stream (kills come when
they come), GIFTFLOW_MODEL_RECORDS makes it longer."""

import json
import os
import random
import threading
import uuid
from collections import Counter

import pytest
from conftest import finish
from ledger_model import ID_MAX, KINDS, Model, partition_of
from stack import Stack, uuid7, wait_until
from test_settle import DEAD, OUTCOMES, add_gift, notice_ids, uuid8

PARTITIONS = 4
RECORDS = int(os.environ.get("GIFTFLOW_MODEL_RECORDS", "4000"))
SEED = int(os.environ.get("GIFTFLOW_MODEL_SEED", "0")) or random.SystemRandom().getrandbits(48)
GIFTS = {1: (1, 5000, 9999), 22: (90, 3333, 100), 100: (5000, 10000, 9999), 900: (1 << 52, 1, 9999), 901: (7, 0, 9999)}
USERS = 60
FIRST_USER = 700_000


class Streamer:
    """Makes records as (partition, key, value); what it makes depends on the seed alone, but for request ids."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.users = list(range(FIRST_USER, FIRST_USER + USERS))
        self.sent, self.credits, self.unsent = [], {}, []

    def credit(self, user, coins, kind="adjust"):
        credit_id = uuid8()
        self.credits[credit_id] = (user, KINDS[kind], coins)
        return {"v": 1, "type": "credit", "request_id": credit_id, "user_id": user, "kind": kind, "ts": 1}

    def gift(self, **fields):
        gift_id = self.random.choice(list(GIFTS))
        price = GIFTS[gift_id][0]
        return {
            "v": 1, "type": "gift", "request_id": uuid7(), "user_id": self.random.choice(self.users), "receiver_id": self.random.randint(1, 9), "room_id": self.random.randint(1, 5),
            "gift_id": gift_id, "price": price, "quantity": self.random.choice((1, 1, 1, 2, 10, 99, 100, 101)), "gift_type": self.random.randint(0, 2), "ts": 1, **fields,
        }  # fmt: skip

    def _good(self):
        return self.gift()

    def _cheap(self):
        return self.gift(gift_id=1, price=1, quantity=self.random.randint(1, 3))

    def _rejected(self):
        gift = self.gift()
        return {**gift, **self.random.choice((
            {"price": gift["price"] + 1}, {"price": 0}, {"price": -(2**63)}, {"gift_id": 77}, {"quantity": 0}, {"quantity": -1}, {"quantity": 2**31 - 1},
            {"receiver_id": gift["user_id"]}, {"user_id": FIRST_USER - 1}, {"gift_id": 900, "price": 1 << 52, "quantity": 9999},
        ))}  # fmt: skip

    def _poison(self):
        gift = self.gift()
        text = json.dumps(gift)
        without = {name: value for name, value in gift.items() if name != "room_id"}
        return self.random.choice((
            "{}", "[]", "null", "not JSON", text[:-1], text + "x", text[:-1] + ', "v": 1}', without, {**gift, "v": 2}, {**gift, "v": "1"}, {**gift, "type": "loan"}, {**gift, "more": 1},
            {**gift, "quantity": 1.5}, {**gift, "quantity": 2**31}, {**gift, "price": 2**63}, {**gift, "room_id": 0}, {**gift, "user_id": ID_MAX + 1}, {**gift, "request_id": "1-2-3"},
            {**gift, "request_id": "00000000-0000-0000-0000-000000000000"}, {**gift, "request_id": uuid8()}, {**gift, "ts": -1}, {**gift, "gift_type": 128},
        ))  # fmt: skip

    def _misplaced(self):
        gift = self.gift()
        key = str(gift["user_id"])
        if self.random.random() < 0.5:
            return gift, None, str(gift["user_id"] + 1)
        return gift, (partition_of(key, PARTITIONS) + self.random.randint(1, PARTITIONS - 1)) % PARTITIONS, key

    def _credit(self):
        user, kind = self.random.choice(self.users), self.random.choices(list(KINDS)[1:], (10, 10, 10, 1))[0]  # a chargeback freezes its wallet for good
        coins = self.random.choice((1, 90, 5000, 100_000))
        if kind == "chargeback":
            coins *= self.random.choice((1, 1, 100))
        if kind == "adjust" and self.random.random() < 0.4:
            coins = -coins
        return self.credit(user, coins, kind)

    def _forged_credit(self):
        credit = self._credit()
        return {**credit, **self.random.choice(({"request_id": uuid8()}, {"user_id": credit["user_id"] + 1}, {"kind": "gift_refund" if credit["kind"] != "gift_refund" else "recharge"}))}

    def _again(self):
        """A record as it was, or its id with other content, or with capital letters, or in another user's name."""
        value, partition, key = self.random.choice(self.sent[-200:] if self.random.random() < 0.7 else self.sent)
        if not isinstance(value, dict) or value.get("type") != "gift" or partition is not None or key != str(value["user_id"]):
            return value, partition, key
        return self.random.choice((
            (value, None, key), (value, None, key), ({**value, "quantity": 3}, None, key), ({**value, "price": 91}, None, key),
            ({**value, "request_id": str(value["request_id"]).upper()}, None, key), ({**value, "user_id": FIRST_USER}, None, str(FIRST_USER)),
        ))  # fmt: skip

    def next(self):
        if not self.sent:
            made = self._good()
        else:
            kinds = (self._good, self._cheap, self._rejected, self._poison, self._misplaced, self._credit, self._forged_credit, self._again)
            made = self.random.choices(kinds, (20, 40, 6, 4, 2, 8, 2, 18))[0]()
        value, partition, key = made if isinstance(made, tuple) else (made, None, None)
        if key is None:
            key = str(value["user_id"] if isinstance(value, dict) else self.random.choice(self.users))
        self.sent.append((value, partition, key))
        return self.sent[-1]


@pytest.fixture(scope="module")
def ledger():
    stack = Stack(roles={"ingest": 0, "router": 0, "gateway": 0, "sweep": 2, "settle": 2}, partitions=PARTITIONS,
                  settings={"settle.batch": 64, "kafka.session_timeout": "6s", "sweep.rollup": "50ms", "sweep.rollup_rows": 100})  # fmt: skip
    try:
        stack.up()
        for gift_id, (price, share, most) in GIFTS.items():
            add_gift(stack, gift_id, price, valid_from=1_000_000, max_quantity=most)  # long after what the records say of their time (F11)
            stack.sql("UPDATE gift_price SET share_bp = %s WHERE gift_id = %s", share, gift_id)
        yield stack
    finally:
        finish(stack)


def produce(stack, records):
    """In order, in runs of the same destination."""
    run, where = [], None
    for value, partition, key in records:
        if run and partition != where:
            send(stack, run, where)
            run = []
        run.append((key, value if isinstance(value, str) else json.dumps(value)))
        where = partition
    send(stack, run, where)


def send(stack, run, partition):
    lines = "".join(f"{key}\t{value}\n" for key, value in run)
    place = ["-X", "partitioner=murmur2_random"] if partition is None else ["-p", partition]
    stack._kcat("-P", "-t", "giftflow.commands", "-X", "acks=all", "-K", "\t", *place, input=lines.encode())


def insert_credits(stack, credits):
    connection = stack.connect_db()
    with connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms) VALUES (%s, %s, %s, %s, 'test', 'test', 1, 1)",
            [(uuid.UUID(credit_id).bytes, kind, user, coins) for credit_id, (user, kind, coins) in credits.items()],
        )


class Killer(threading.Thread):
    """SIGKILL for one settle process after the other, and now and then for a sweep, as long as it is needed."""

    def __init__(self, stack, seed):
        super().__init__()
        self.stack, self.random = stack, random.Random(seed)
        self.stop, self.kills, self.error = threading.Event(), 0, None

    def run(self):
        try:
            while not self.stop.wait(self.random.uniform(0.2, 1.5)):
                name = f"{'sweep' if self.kills % 3 == 2 else 'settle'}-{1 + self.kills % 2}"
                self.stack.kill(name)
                self.kills += 1
                self.stack.start(name, wait=False)
        except Exception as error:  # told by the test's own thread
            self.error = error


def predict(stack, streamer):
    model = Model(PARTITIONS, GIFTS, streamer.credits,)
    records = stack.records("giftflow.commands")
    for record in sorted(records, key=lambda record: (record["partition"], record["offset"])):
        model.consume(record["partition"], record["offset"], record["key"], record["payload"])
    return model, len(records)


def compare_rows(stack, model):
    rows = {(row["part"], row["off"]): row for row in stack.sql("SELECT p.part, t.* FROM trade t JOIN progress p ON p.log = t.log")}
    odd = sorted(set(rows) ^ set(model.rows))
    assert not odd, [(at, rows.get(at), model.rows.get(at), model.dead.get(at)) for at in odd[:5]]
    for at, want in model.rows.items():
        row = rows[at]
        assert OUTCOMES[row["outcome"]] in want.outcomes, (at, OUTCOMES[row["outcome"]], want)
        assert (row["user_id"], str(uuid.UUID(bytes=row["request_id"]))) == (want.user, want.request_id), at
        assert (row["amount"], row["debt_delta"], row["host_coins"]) == (want.amount, want.debt_delta, want.host), (at, want)
        if row["outcome"] == 0:
            assert (row["kind"], row["balance_after"], row["seq"]) == (want.kind, want.balance_after, want.seq), (at, want)
    return rows


def compare_dead(stack, model):
    dead = {(row["part"], row["off"]): DEAD[row["reason"]] for row in stack.sql("SELECT p.part, d.off, d.reason FROM dead_letter d JOIN progress p ON p.log = d.log")}
    for at in set(dead) | set(model.dead):
        assert dead.get(at) in model.dead.get(at, {None}), (at, dead.get(at), model.dead.get(at))
    return dead


def compare_wallets(stack, model):
    wallets = {row["user_id"]: row for row in stack.sql("SELECT * FROM wallet WHERE user_id BETWEEN %s AND %s", FIRST_USER - 1, FIRST_USER + USERS + 1)}
    for user, want in model.wallets.items():
        got = wallets.pop(user)
        assert (got["balance"], got["debt"], got["ver"], got["status"] == 2) == (want.balance, want.debt, want.ver, want.frozen), (user, want)
        assert (got["total_recharged"], got["total_spent"]) == (want.recharged, want.spent), (user, want)
    assert all(row["ver"] == 1 and row["balance"] == 0 for row in wallets.values()), "a credit that was not believed moved coins"


def compare_income(stack, model):
    """Each receiver has, in rows and in the account, the gross and the share of just the gifts that the model settled."""
    behind = "SELECT 1 FROM progress p LEFT JOIN rollup r ON r.log = p.log WHERE COALESCE(r.rolled_offset, -1) <> p.next_offset"
    wait_until(lambda: not stack.sql(behind), 60, "roll-up")
    accounts = {row["receiver_id"]: row for row in stack.sql("SELECT * FROM income_account")}
    rows = {row["receiver_id"]: (row["gross"], row["host"]) for row in stack.sql("SELECT receiver_id, SUM(gross) gross, SUM(host) host FROM income GROUP BY receiver_id")}
    want = model.income()
    assert rows == want
    assert {receiver: (row["total_gross"], row["total_host"]) for receiver, row in accounts.items()} == want
    assert all(row["balance"] == row["total_host"] for row in accounts.values())


def test_every_record_becomes_what_the_model_says(ledger):
    print(f"GIFTFLOW_MODEL_SEED={SEED}")
    streamer = Streamer(SEED)
    records = [(credit, None, str(credit["user_id"])) for credit in (streamer.credit(user, 50_000) for user in streamer.users[: USERS * 3 // 4])]
    records += [streamer.next() for _ in range(RECORDS)]
    insert_credits(ledger, streamer.credits)
    killer = Killer(ledger, SEED)
    killer.start()
    try:
        for at in range(0, len(records), 500):
            kills = killer.kills
            produce(ledger, records[at : at + 500])
            wait_until(lambda: killer.kills > kills or killer.error, 60, "a process is killed")  # noqa: B023
    finally:
        killer.stop.set()
        killer.join()
    assert killer.error is None and killer.kills >= len(records) // 500, killer.error
    ledger.drain()
    model, count = predict(ledger, streamer)
    assert count == len(records)
    rows = compare_rows(ledger, model)
    dead = compare_dead(ledger, model)
    compare_wallets(ledger, model)
    compare_income(ledger, model)
    assert len(rows) + len(dead) + len(model.repeats) >= count
    seen = Counter(OUTCOMES[row["outcome"]] for row in rows.values()) + Counter(dead.values())
    print(f"{count} records, {killer.kills} kills, {len(model.repeats)} repeats: {dict(seen)}")
    assert len(seen) >= 15, "the stream is too tame"
    logs = {row["part"]: row["log"] for row in ledger.sql("SELECT part, log FROM progress WHERE live = 1 AND topic = 'giftflow.commands'")}
    told = lambda: {notice.split(":")[0] for notice in notice_ids(ledger)}  # noqa: E731
    wait_until(lambda: {f"{logs[part]}-{off}" for part, off in rows} <= told(), 60, "a notice of every outcome", every=1)
    assert {f"{logs[part]}-{off}" for part, off in rows} == told()
    ledger.verify()
