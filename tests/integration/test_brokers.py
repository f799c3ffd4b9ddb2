# SPDX-License-Identifier: Apache-2.0
"""Three brokers, replication factor 3, min.insync.replicas 2, which die, come back and restart under load: every gift that was answered 202 is
settled once and has its notice. Part of ./dev test --brokers=3 only."""

import json
import time

import pytest
from conftest import running
from stack import Stack, wait_until
from test_ingest_outages import Senders
from test_settle import murmur2_partition, outcome

BROKERS = ("kafka-1", "kafka-2", "kafka-3")


@pytest.fixture(scope="module")
def own():
    """One stack for this file; every test leaves all of it running again."""
    with running(Stack(roles={"router": 0, "gateway": 0}, settings={"ingest.lag_max": "0ms"})) as stack:
        yield stack


def leader(stack, partition=0, topic="giftflow.commands"):
    """The name of the broker that leads this partition."""
    addresses = stack.env["GIFTFLOW_KAFKA"].split(",")
    return BROKERS[addresses.index(stack.leader(topic, partition))]


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


def test_a_partition_without_a_leader_stops_no_other():
    """One copy of everything, so that a dead broker's partitions have no leader. Their owners neither settle them nor leave the group for them."""
    settings = {"kafka.replication": 1, "kafka.min_insync": 1, "ingest.lag_max": "0ms"}
    with running(Stack(roles={"router": 0, "gateway": 0}, settings=settings)) as stack:
        users = {murmur2_partition(str(user), 4): user for user in stack.new_users(40, 1000)}
        stack.drain()
        leads = {partition: leader(stack, partition) for partition in range(4)}
        victim = leads[0]
        healthy = [partition for partition in range(4) if leads[partition] != victim]
        assert healthy

        def send(partitions):
            commands = [stack.gift_command(users[partition]) for partition in partitions]
            stack.produce_many([(str(command["user_id"]), command) for command in commands])
            return commands

        def settled(commands):
            return all(outcome(stack, command["request_id"], command["user_id"]) == "settled" for command in commands)

        stack.stop("settle-1")
        waiting = send(range(4))
        stack.kill(victim)
        partitions = lambda: {part["partition"]: part["leader"] for part in stack._partitions("giftflow.commands")}  # noqa: E731
        wait_until(lambda: partitions()[0] == -1, 60, "no leader")
        left = stack.log_text("settle-1").count("event=group_left")
        stack.start("settle-1", wait=False)
        wait_until(lambda: settled(waiting[partition] for partition in healthy), 60, "the gifts that have a broker")
        wait_until(lambda: stack.log_text("settle-1").count("event=partition_waits partition=0") > 2, 60, "partition 0 is looked after")
        more = send(healthy)
        wait_until(lambda: settled(more), 60, "more of them")
        assert outcome(stack, waiting[0]["request_id"], users[0]) is None
        assert stack.log_text("settle-1").count("event=group_left") == left
        stack.start(victim)
        wait_until(lambda: settled(waiting), 60, "all of them")


def test_while_a_notices_partition_has_no_leader_the_others_are_not_told_again_and_again():
    """One copy of everything. What was lost of a batch is made again as a whole once, then in ever smaller pieces."""
    gifts = 2000
    settings = {"kafka.replication": 1, "kafka.min_insync": 1, "kafka.message_timeout": "1s", "settle.lanes": 1}
    with running(Stack(roles={"router": 0, "gateway": 0}, settings=settings)) as stack:
        user = next(user for user in stack.new_users(40, 90 * gifts) if murmur2_partition(str(user), 4) == 0)
        stack.drain()
        led = [leader(stack, partition, "giftflow.notices") for partition in range(4)]
        victim = next(name for name in led if name != leader(stack))
        stack.stop("settle-1")
        commands = [stack.gift_command(user, room_id=1 + i % 500) for i in range(gifts)]
        stack.produce_many([(str(user), command) for command in commands])
        stack.kill(victim)
        away = lambda: [part["leader"] for part in stack._partitions("giftflow.notices")].count(-1) == led.count(victim)  # noqa: E731
        wait_until(away, 60, "no leader")
        stack.start("settle-1", wait=False)
        wait_until(lambda: len(stack.sql("SELECT 1 FROM trade WHERE kind = 1 AND outcome = 0")) == gifts, 60, "all settled")
        time.sleep(20)  # less would only find less
        stack.start(victim)
        told = "SELECT 1 FROM progress WHERE live = 1 AND topic = 'giftflow.commands' AND notified_offset < next_offset"
        wait_until(lambda: not stack.sql(told), 90, "everything is told")
        heard = [record["payload"].split('"')[3] for record in stack.records("giftflow.notices") if ":5556" in record["payload"]]
        print(f"{len(heard)} notices of {gifts} gifts")
        assert len(set(heard)) == gifts
        assert len(heard) < 4 * gifts
