# SPDX-License-Identifier: Apache-2.0
"""Three brokers, replication factor 3, min.insync.replicas 2, which die, come back and restart under load: every gift that was answered 202 is
settled once and has its notice. Part of ./dev test --brokers=3 only."""

import json

import pytest
from conftest import running
from stack import Stack, wait_until
from test_ingest_outages import Senders

BROKERS = ("kafka-1", "kafka-2", "kafka-3")


@pytest.fixture(scope="module")
def own():
    """One stack for this file; every test leaves all of it running again."""
    with running(Stack(roles={"router": 0, "gateway": 0}, settings={"ingest.lag_max": "0ms"})) as stack:
        yield stack


def leader(stack, partition=0):
    """The name of the broker that leads this partition of the commands."""
    addresses = stack.env["GIFTFLOW_KAFKA"].split(",")
    return BROKERS[addresses.index(stack.leader("giftflow.commands", partition))]


def copies(stack):
    """Of each partition of our topics: how many copies it should have and how many it has."""
    topics = [topic for topic in json.loads(stack._kcat("-L", "-J"))["topics"] if topic["topic"].startswith("giftflow.")]
    return [(len(part["replicas"]), len(part["isrs"])) for topic in topics for part in topic["partitions"]]


def wait_for_copies(stack):
    wait_until(lambda: set(copies(stack)) == {(3, 3)}, 120, "every partition in three copies")


def finish_and_check(stack, senders):
    senders.settle_doubts(1)
    senders.check()
    trades = stack.sql("SELECT log, off FROM trade WHERE kind = 1")
    ids = {f"{row['log']}-{row['off']}:5556" for row in trades}
    told = lambda: ids <= {record["payload"].split('"')[3] for record in stack.records("giftflow.notices")}  # noqa: E731
    wait_until(told, 90, "a notice of every gift", every=0.5)
    print(f"{len(senders.accepted)} gifts accepted, {len(senders.doubtful)} of them by a repeat")


def test_init_makes_three_copies_and_wants_two(own):
    wait_for_copies(own)
    assert len(copies(own)) == 4 + 4 + 1 + 1


def test_leaders_are_killed_under_load_and_come_back(own):
    with Senders(own) as senders:
        senders.wait_for_more(100)
        for partition in (0, 1):
            name = leader(own, partition)
            own.kill(name)
            senders.wait_for_more(100)
            own.start(name)
            wait_for_copies(own)
        senders.wait_for_more(100)
    finish_and_check(own, senders)


def test_a_rolling_restart_under_load_loses_nothing(own):
    with Senders(own) as senders:
        senders.wait_for_more(100)
        for name in BROKERS:
            own.stop(name)
            senders.wait_for_more(50)
            own.start(name)
            wait_for_copies(own)
        senders.wait_for_more(100)
    finish_and_check(own, senders)


def test_with_two_of_three_away_nothing_is_accepted_and_nothing_lost(own):
    with Senders(own) as senders:
        senders.wait_for_more(100)
        for name in BROKERS[1:]:
            own.kill(name)
        doubts = len(senders.doubtful)
        wait_until(lambda: len(senders.doubtful) >= doubts + 20, 120, "answers that are no 202")
        at = senders.count()
        wait_until(lambda: len(senders.doubtful) >= doubts + 40, 120, "more of them")
        assert senders.count() == at, "accepted by one broker of three"
        for name in BROKERS[1:]:
            own.start(name)
        wait_for_copies(own)
        senders.wait_for_more(100)
    finish_and_check(own, senders)
