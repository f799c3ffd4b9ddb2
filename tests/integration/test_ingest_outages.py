# SPDX-License-Identifier: Apache-2.0
"""Ingest while its parts die and come back, and while it dies itself: red readiness, 503 that can be retried, nothing accepted is lost or doubled."""

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import cache
from conftest import running
from stack import Stack, uuid7, wait_until
from test_faults import Foreign

SETTINGS = {"ingest.request_timeout": "14s", "ingest.lease": "16s", "ingest.lag_max": "10m"}
USERS = 40


@pytest.fixture(scope="module")
def own():
    """One stack for this file; every test leaves all of it running again."""
    with running(Stack(roles={"ingest": 2}, settings=SETTINGS)) as stack:
        yield stack


class Senders:
    """Threads that send gifts of one coin, each with a fresh key, until told to stop. What was not answered 202 for a reason that
    may pass (503, a broken connection, 409) is doubtful: settle_doubts repeats it with its key, as a good client does."""

    def __init__(self, stack, n=1, threads=4):
        self.stack, self.n = stack, n
        self.users = stack.new_users(USERS, coins=1_000_000)
        self.accepted, self.doubtful, self.wrong = set(), set(), []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads, self._pool, self._runs = threads, ThreadPoolExecutor(threads), []

    def __enter__(self):
        self._runs = [self._pool.submit(self._run, self.users[i :: self._threads]) for i in range(self._threads)]
        return self

    def __exit__(self, *failure):
        self._stop.set()
        self._pool.shutdown()
        if not failure[0]:
            for run in self._runs:
                run.result()  # raises what a thread has raised

    def _send(self, user, key, n):
        try:
            return self.stack.try_gift(user, gift_id=1, key=key, n=n)
        except (OSError, ValueError, http.client.HTTPException) as error:  # refused, reset, cut in the middle of an answer
            return 0, {}, {"detail": repr(error)}

    def _run(self, users):
        while not self._stop.is_set():
            for user in users:
                key = uuid7()
                status, headers, answer = self._send(user, key, self.n)
                with self._lock:
                    if status == 202:
                        self.accepted.add((user, key))
                    elif status in (0, 503):
                        self.doubtful.add((user, key))
                    if status == 503 and not (int(headers.get("retry-after", 0)) >= 1 and answer["request_id"] == key and "retry with this key" in answer["detail"]):
                        self.wrong.append((headers, answer))
                    if status not in (0, 202, 429, 503):
                        self.wrong.append((status, answer))
                if status != 202:
                    time.sleep(0.02)

    def count(self):
        with self._lock:
            return len(self.accepted)

    def wait_for_more(self, more=20):
        goal = self.count() + more
        wait_until(lambda: self.count() >= goal, 60, "gifts accepted again")

    def settle_doubts(self, n):
        for user, key in self.doubtful:
            wait_until(lambda u=user, k=key: self._send(u, k, n)[0] == 202, 60, f"202 for {key}")
            self.accepted.add((user, key))

    def check(self):
        """Every accepted gift has exactly one trade row, settled, and there is no other."""
        assert not self.wrong, self.wrong[:5]
        self.stack.drain()
        rows = self.stack.sql("SELECT user_id, request_id, outcome FROM trade WHERE kind = 1 AND user_id BETWEEN %s AND %s", self.users[0], self.users[-1])
        settled = {(row["user_id"], str(uuid.UUID(bytes=row["request_id"]))) for row in rows if row["outcome"] == 0}
        assert len(settled) == len(rows), [row for row in rows if row["outcome"] != 0][:5]
        assert settled == self.accepted, (len(settled), len(self.accepted))
        spent = self.stack.sql("SELECT SUM(1000000 - balance) AS coins FROM wallet WHERE user_id BETWEEN %s AND %s", self.users[0], self.users[-1])
        assert spent[0]["coins"] == len(self.accepted)


def red(stack, name, reason):
    status, _, text = stack.http("GET", "/readyz", base=stack.ops_url(name))
    return status == 503 and reason in text


def retriable(answer, key):
    status, headers, problem = answer
    assert (status, problem["code"], problem["request_id"]) == (503, "unavailable", key), answer
    assert int(headers["retry-after"]) >= 1 and "retry with this key" in problem["detail"]


@pytest.mark.parametrize("part", ["kafka", "mysql", "redis"])
def test_a_part_dies_and_comes_back_under_traffic(own, part):
    cold, key = own.new_user(coins=10), uuid7()
    wait_until(lambda: (cache.read(own, cold) or {}).get("b") == 10, what="the balance in Redis")  # settlement tells it after it is there
    cache.forget(own, cold)
    with Senders(own) as senders:
        senders.wait_for_more(100)
        own.kill(part)
        if part == "mysql":
            senders.wait_for_more()  # those whom Redis knows go on
        wait_until(lambda: red(own, "ingest-1", part), what=f"red for {part}")
        if part == "redis":
            senders.wait_for_more()  # no hold, a limiter of its own; settlement judges
        else:
            retriable(own.try_gift(cold, gift_id=1, key=key), key)  # without MySQL nobody knows this balance
        own.start(part)
        wait_until(lambda: own.is_ready("ingest-1") and own.is_ready("ingest-2"), 60, "ready again")
        wait_until(lambda: own.gift(cold, gift_id=1, key=key)[0] == 202, 60, "a cold wallet is served")
        senders.wait_for_more()
    senders.settle_doubts(2)
    senders.check()
    assert own.outcome(cold, key)["balance_after"] == 9


def test_f15_a_gift_in_doubt_keeps_its_hold_and_its_key(own):
    """The broker has the record or not, nobody knows: coins that it may cost are not free, and its key goes on meaning this gift."""
    user = own.new_user(coins=10)
    assert own.gift(user, gift_id=1)[0] == 202
    own.drain()

    def in_doubt():
        """None: ingest has missed the broker before it could send the gift, and has given the hold back."""
        wait_until(lambda: own.is_ready("ingest-1"), 60, "ready")
        key = uuid7()
        with own.frozen("kafka"):
            retriable(answer := own.try_gift(user, gift_id=1, quantity=3, key=key), key)
            if "did not confirm" not in answer[2]["detail"]:
                return None
            wait_until(lambda: own.available(user) == 6, what="what is available beside the hold")
            wait_until(lambda: own.http("GET", f"/v1/requests/{key}", user=user)[2].get("status") == "accepted", what="the key's gift")
        return key

    key = wait_until(in_doubt, 180, "a gift in doubt")
    wait_until(lambda: own.gift(user, gift_id=1, quantity=3, key=key)[0] == 202, 60, "202")
    assert own.outcome(user, key, 60)["balance_after"] == 6
    wait_until(lambda: own.available(user) == 6, 60, "the hold is released")


@contextlib.contextmanager
def ingest_with(stack, monkeypatch, **settings):
    """Another ingest-1 for a while."""
    for name, value in settings.items():
        monkeypatch.setitem(stack.environ, f"GIFTFLOW_{name}", value)
    stack.stop("ingest-1")
    stack.start("ingest-1")
    try:
        yield
    finally:
        monkeypatch.undo()
        stack.stop("ingest-1")
        stack.start("ingest-1")


def test_a_gift_refused_while_redis_was_silent_holds_no_coins(own, monkeypatch):
    """Redis does what it was sent, but its reply comes too late: the client hears 503, and so nothing may stay held for the ten minutes of a hold."""
    user, key = own.new_user(coins=90), uuid7()
    own.drain()
    with ingest_with(own, monkeypatch, INGEST_REDIS_DOWN="refuse"):
        assert own.gift(user, gift_id=100)[0] == 402  # its balance is known, and as fresh as can be
        with own.frozen("redis"):
            retriable(own.try_gift(user, key=key), key)
        wait_until(lambda: own.gift(user)[0] == 202, 60, "the coins are free for another gift")
        assert own.gift(user, key=key)[0] == 402


def test_ingest_starts_without_its_parts_and_finds_them(own):
    user, key = own.new_user(coins=10), uuid7()
    own.drain()
    own.stop("ingest-1")
    for part in ("redis", "mysql", "kafka"):
        own.kill(part)
    own.start("ingest-1", wait=False)
    wait_until(lambda: all(red(own, "ingest-1", part) for part in ("redis", "mysql", "kafka")), what="all three are missed")
    retriable(own.try_gift(user, gift_id=1, key=key), key)
    for part in ("redis", "mysql", "kafka"):
        assert not own.is_ready("ingest-1")
        own.start(part)
    wait_until(lambda: own.is_ready("ingest-1"), 60, "ready")
    wait_until(lambda: own.gift(user, gift_id=1, key=key)[0] == 202, 60, "served")
    assert own.outcome(user, key, 60)["balance_after"] == 9


def test_a_hold_that_is_due_is_available_again(own, monkeypatch):
    user, key = own.new_user(coins=10), uuid7()
    own.drain()
    own.stop("settle-1")
    try:
        with ingest_with(own, monkeypatch, INGEST_HOLD_TTL="1s"):
            assert own.gift(user, gift_id=1, quantity=3, key=key)[0] == 202
            wait_until(lambda: own.available(user) == 10, 60, "the hold is due")
    finally:
        own.start("settle-1")
    assert own.outcome(user, key, 60)["balance_after"] == 7


def test_many_who_ask_for_the_gifts_share_one_read(own, monkeypatch):
    """The list is read anew after each change and each catalogue.refresh, just when everybody asks for it: they must not fill the queue of the others."""
    ask = f"GET /v1/gifts HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {own.token(1)}\r\n\r\n".encode()
    with ingest_with(own, monkeypatch, INGEST_DB_QUEUE="16", INGEST_REQUEST_TIMEOUT="40s", INGEST_LEASE="50s", MYSQL_READ_TIMEOUT="60s"), contextlib.ExitStack() as clients:
        host, port = own.ingest_url(1).removeprefix("http://").split(":")
        with own.frozen("mysql"):
            asking = [clients.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(60)]
            for client in asking:
                client.sendall(ask)
            wait_until(lambda: own.metrics("ingest-1")["giftflow_http_in_flight"] == 60, what="60 requests under way")
        for client in asking:
            assert client.recv(12) == b"HTTP/1.1 200"


def test_a_drained_ingest_answers_what_it_has(own):
    """A sender takes a connection that breaks for what may happen to it. One request is under way for sure: Kafka has not acknowledged it."""
    user = own.new_user(coins=100)

    def under_way(pool):
        """None: ingest has missed the broker before it could send the gift."""
        wait_until(lambda: own.is_ready("ingest-1"), 60, "ready")
        key = uuid7()
        with own.frozen("kafka"):
            answer = pool.submit(own.try_gift, user, gift_id=1, key=key)
            held = lambda: own.http("GET", f"/v1/requests/{key}", user=user, base=own.ingest_url(2))[2].get("status") == "accepted"  # noqa: E731
            wait_until(lambda: answer.done() or held(), 60, "the hold of a request under way")
            if answer.done():
                return None
            os.kill(own.pid("ingest-1"), signal.SIGTERM)
            wait_until(lambda: "event=drain_started" in own.log_text("ingest-1"), 60, "the drain")
        return answer, key

    with Senders(own) as senders, ThreadPoolExecutor(1) as pool:
        senders.wait_for_more(100)
        answer, key = wait_until(lambda: under_way(pool), 180, "a drain with a request under way")
        if answer.result()[0] != 202:
            retriable(answer.result(), key)  # a broker that wakes late
        wait_until(lambda: own.has_ended("ingest-1"), 60, "its end")
    assert "event=drain_finished left=0" in own.log_text("ingest-1")
    own.start("ingest-1")
    senders.settle_doubts(2)
    senders.check()


def test_an_adjustment_that_outlives_the_drain_is_answered(own, monkeypatch):
    """MySQL writes its row when the process has stopped waiting: what comes after that finds most parts closed."""
    user, key = own.new_id(), uuid7()
    row = "INSERT INTO credit (credit_id, kind, user_id, coins, target_user, target_request, part, actor, reason, status, created_ms) VALUES (%s, 3, %s, 1, %s, %s, -1, 'x', 'x', 1, 0)"
    late = {"OPS_DRAIN_TIMEOUT": "100ms", "INGEST_REQUEST_TIMEOUT": "40s", "INGEST_LEASE": "50s", "MYSQL_READ_TIMEOUT": "60s"}
    with ingest_with(own, monkeypatch, **late), ThreadPoolExecutor(1) as pool:
        told = len(own.log_text("ingest-1"))
        with Foreign(own) as other:
            other.run(row, uuid.uuid4().bytes, user, user, uuid.UUID(key).bytes)
            answer = pool.submit(own.admin, "POST", "/admin/v1/adjustments", {"user_id": user, "coins": 5, "reason": "late"}, {"Idempotency-Key": key})
            other.wait_for_waiter()
            os.kill(own.pid("ingest-1"), signal.SIGTERM)
            wait_until(lambda: "event=drain_finished left=1" in own.log_text("ingest-1")[told:], 60, "the drain has waited long enough")
        status, _, problem = answer.result()
        assert (status, problem["code"]) == (503, "unavailable") and "retry with this key" in problem["detail"]
        wait_until(lambda: own.has_ended("ingest-1"), 60, "its end")
        own.start("ingest-1")
    assert own.adjust(user, 5, reason="late", key=key) == problem["request_id"]
    wait_until(lambda: own.balance(user) == 5, 60, "the adjustment is made")


def test_an_adjustment_without_an_answer_says_what_to_do(own, monkeypatch):
    """It may be recorded: under another key it would be made twice."""
    user, key = own.new_id(), uuid7()
    ask = ("POST", "/admin/v1/adjustments", {"user_id": user, "coins": 5, "reason": "test"}, {"Idempotency-Key": key})
    with ingest_with(own, monkeypatch, MYSQL_READ_TIMEOUT="1s"):
        with own.frozen("mysql"):
            retriable(own.admin(*ask), key)  # it is asked, and does not answer
            wait_until(lambda: red(own, "ingest-1", "mysql"), 60, "MySQL is missed")
            retriable(own.admin(*ask), key)  # nobody can be asked
    wait_until(lambda: own.admin(*ask)[0] == 202, 60, "202")
    wait_until(lambda: own.balance(user) == 5, 60, "the adjustment is made once")


def test_a_redis_that_takes_no_writes_is_as_good_as_none(own):
    """A disk that is full, replicas that are away: it may be so for hours, and soon there is no balance in Redis that is fresh."""
    cold = own.new_user(coins=10)
    own.drain()
    own.redis("FLUSHALL")
    own.redis("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        status, _, answer = own.gift(cold, gift_id=1)
        assert status == 202, answer
        assert own.outcome(cold, answer["request_id"], 60)["balance_after"] == 9
    finally:
        own.redis("CONFIG", "SET", "min-replicas-to-write", "0")
    wait_until(lambda: own.gift(cold, gift_id=1)[0] == 202, 60, "202")


def test_a_killed_ingest_leaves_nothing_that_its_twin_cannot_finish(own):
    with Senders(own) as senders:
        senders.wait_for_more(100)
        own.kill("ingest-1")
    senders.settle_doubts(2)  # after the lease, where a call had begun
    own.start("ingest-1")
    senders.check()


def test_ingest_takes_no_more_when_settlement_is_too_far_behind(own, monkeypatch):
    user = own.new_user(coins=1000)
    own.stop("settle-1")
    with ingest_with(own, monkeypatch, INGEST_LAG_MAX="10s"):
        assert own.gift(user, gift_id=1)[0] == 202

        def behind():
            answer = own.try_gift(user, gift_id=1, key=(key := uuid7()))
            return (answer, key) if answer[0] == 503 and "settlement is behind" in answer[2]["detail"] else None

        answer, key = wait_until(behind, 60, "503", every=0.5)
        retriable(answer, key)
        own.start("settle-1")
        wait_until(lambda: own.gift(user, gift_id=1)[0] == 202, 60, "served")


def test_f4_another_partition_count_stops_ingest(own):
    user, key = own.new_user(coins=10), uuid7()
    own.drain()
    own.stop("settle-1")  # a partition that it claimed meanwhile would be stopped until it is claimed again
    own.stop("ingest-1")
    own.sql("UPDATE progress SET partitions = partitions + 1 WHERE live = 1 AND topic = 'giftflow.commands'")
    try:
        own.start("ingest-1", wait=False)
        wait_until(lambda: red(own, "ingest-1", "partitions") and not red(own, "ingest-1", "kafka is away"), what="red")
        wait_until(lambda: "event=partitions_mismatched" in own.log_text("ingest-1"), what="the reason in the log")
        retriable(own.try_gift(user, gift_id=1, key=key), key)
    finally:
        own.sql("UPDATE progress SET partitions = partitions - 1 WHERE live = 1 AND topic = 'giftflow.commands'")
        own.start("settle-1")
    wait_until(lambda: own.is_ready("ingest-1"), 60, "ready")
    wait_until(lambda: own.gift(user, gift_id=1, key=key)[0] == 202, 60, "served")
