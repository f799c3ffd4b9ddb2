# SPDX-License-Identifier: Apache-2.0
"""Two Redis primaries: users are spread over them, and one that dies, hangs, comes back empty or is flushed touches its own users only."""

import os
import signal
import subprocess

import pytest
import cache
from conftest import running
from stack import PATIENT_ENV, Stack, uuid7, wait_until


DIRTY_MAX = 100  # half of it for each


@pytest.fixture(scope="module")
def own():
    with running(Stack(env={"GIFTFLOW_PRIMARIES": "2"}, partitions=2, settings={"redis.timeout": "20s", "settle.dirty_max": DIRTY_MAX, "ingest.lag_max": "0s"})) as stack:
        yield stack


def users_of(stack, shard, count, coins):
    """Funded users who live on this primary."""
    found = [user for user in stack.new_users(8 * count, coins=coins) if cache.shard(stack, user) == shard]
    assert len(found) >= count  # 8 of 8: not in the life of this test
    return found[:count]


def keys(stack, shard):
    return {key.decode() for key in _scan(cache.ports(stack)[shard])}


def _scan(port):
    done = subprocess.run(["redis-cli", "-p", str(port), "KEYS", "*"], capture_output=True, timeout=60, check=True)
    return done.stdout.split()


def test_each_user_lives_on_one_primary(own):
    mine = {shard: users_of(own, shard, 2, 1000) for shard in (0, 1)}
    for shard, users in mine.items():
        for user in users:
            key = uuid7()
            assert own.gift(user, key=key)[0] == 202
            assert own.outcome(user, key)["balance_after"] == 910
            wait_until(lambda u=user: (cache.read(own, u) or {}).get("b") == 910 and not cache.read(own, u)["holds"], what="the balance in Redis")
            here = {cache.wallet_key(user), cache.marker_key(user, key)}
            assert here <= keys(own, shard) and not here & keys(own, 1 - shard)
            assert own.gift(user, key=key)[1].get("idempotency-replayed") == "true"
            wait_until(lambda u=user: own.available(u) == 910, what="what is available")
    assert {"gf1:gws"} <= keys(own, 0) and "gf1:gws" not in keys(own, 1)


def test_verify_looks_at_both(own):
    users = [users_of(own, shard, 1, 1000)[0] for shard in (0, 1)]
    own.drain()
    own.verify()
    program = [own.env["GIFTFLOW_BIN"], "verify", "--config", own.env["GIFTFLOW_CONFIG"], "--redis=yes"]
    for user in users:
        wait_until(lambda u=user: (cache.read(own, u) or {}).get("b") == 1000, what="the balance in Redis")
        cache.write(own, user, b=1001)
        done = subprocess.run(program, capture_output=True, text=True, timeout=180, env={**own.environ, **PATIENT_ENV})
        cache.forget(own, user)
        assert done.returncode == 3 and f"user {user}" in done.stdout, done.stdout


def test_one_that_dies_and_comes_back_empty_touches_its_own_users_only(own):
    here, there = users_of(own, 0, 1, 1000)[0], users_of(own, 1, 1, 1000)[0]
    for user in (here, there):
        assert own.outcome(user, own.gift(user)[2]["request_id"])["balance_after"] == 910
    wait_until(lambda: (cache.read(own, there) or {}).get("b") == 910, what="the balance in Redis")
    own.kill("redis-2")

    # Settlement judges theirs; the balance of the others is still held, published and refused by.
    wait_until(lambda: own.gift(there)[0] == 202, what="accepted without a hold")
    status, _, answer = own.gift(there, quantity=5000, gift_id=1)
    assert status == 202  # nobody knows that there are not so many coins
    assert own.outcome(there, answer["request_id"])["status"] == "rejected"
    refused = own.gift(here, quantity=5000, gift_id=1)
    assert (refused[0], refused[2]["code"]) == (402, "insufficient_balance")
    assert own.outcome(here, own.gift(here)[2]["request_id"])["balance_after"] == 820
    wait_until(lambda: cache.read(own, here)["b"] == 820 and not cache.read(own, here)["holds"], what="published to the one that lives")
    assert own.is_ready("ingest-1")
    left = own.balance(there)

    own.start("redis-2")  # empty; what settlement could not say is said now
    wait_until(lambda: (cache.read(own, there) or {}).get("b") == left, what="published to the one that came back")
    wait_until(lambda: own.gift(there, quantity=5000, gift_id=1)[0] == 402, what="their balance is known again")
    assert cache.of_user(own, there, "FLUSHALL") == b"OK"
    assert own.outcome(there, own.gift(there)[2]["request_id"])["balance_after"] == left - 90
    assert own.gift(there, quantity=5000, gift_id=1)[0] == 402
    wait_until(lambda: not cache.read(own, there)["holds"], what="no hold is left")


def settle_metric(stack, name):
    return stack.metrics("settle-1")[name]


def test_what_was_dropped_for_one_that_hangs_is_told_when_it_is_back(own):
    """Many more gifts than the publisher keeps, each with its hold, are settled while nobody listens."""
    here, there = users_of(own, 0, 1, 1000)[0], users_of(own, 1, 10, 10_000)
    wait_until(lambda: set(cache.balances(own, there).values()) == {10_000}, 60, "the balances in Redis")
    dropped = settle_metric(own, "giftflow_publish_dropped_total")
    os.kill(own.pid("settle-1"), signal.SIGSTOP)
    try:
        for user in there * 15:
            wait_until(lambda u=user: own.gift(u)[0] == 202, 60, "accepted")
        assert sum(len(cache.read(own, user)["holds"]) for user in there) > DIRTY_MAX  # on a very slow machine not all
        os.kill(own.pid("redis-2"), signal.SIGSTOP)
    finally:
        os.kill(own.pid("settle-1"), signal.SIGCONT)
    try:
        own.drain()
        # Of 150 items 50 are kept. What happens at the other one does not wait for this.
        wait_until(lambda: settle_metric(own, "giftflow_publish_dropped_total") - dropped >= 150 - DIRTY_MAX / 2, 60, "items are dropped")
        assert own.outcome(here, own.gift(here)[2]["request_id"])["balance_after"] == 910
        wait_until(lambda: cache.read(own, here)["b"] == 910 and not cache.read(own, here)["holds"], 60, "published to the one that lives")
    finally:
        os.kill(own.pid("redis-2"), signal.SIGCONT)

    left = {user: own.balance(user) for user in there}
    wait_until(lambda: not any(cache.read(own, user)["holds"] for user in there), 60, "holds are released")
    wait_until(lambda: cache.balances(own, there) == left, 60, "balances are told")
    own.verify()
