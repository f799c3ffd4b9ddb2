# SPDX-License-Identifier: Apache-2.0
"""Exactly once, shown: at every named point of settlement, ingest and roll-up (`giftflow points`; a new point is a new test) a process is ended by
SIGKILL, or stopped by SIGSTOP for longer than its group session while another one takes its work over and then woken up. Afterwards the books
are judged from outside (oracle.py). The cases run side by side, each in a World of its own; a test waits for its case."""

import http.client
import queue
import re
import subprocess
import threading
import uuid
from concurrent.futures import Future

import oracle
import pytest
from conftest import finish
from stack import BUILD, ROOT, Stack, wait_until
from world import World

WORLDS = 8
WAIT_S = 900  # for a case's turn, not for the case
POINTS = [line.split()[0] for line in subprocess.run([ROOT / "build" / BUILD / "giftflow", "points"], capture_output=True, text=True, check=True).stdout.splitlines()]
SETTLE = [point for point in POINTS if point.startswith("settle_")]
INGEST = [point for point in POINTS if point.startswith("ingest_")]
SWEEP = [point for point in POINTS if point.startswith("sweep_")]
assert len(SETTLE) + len(INGEST) + len(SWEEP) == len(POINTS), "a point of another role has no test"
SUSPICIOUS = re.compile("event=(partition_stopped|batch_refused)")


# -- settle


def pass_of(point):
    """The take-over has its own round for Redis: the batch's is the second."""
    return 2 if point.startswith("settle_publish_") and point != "settle_publish_queued" else 1


def prepare(world, point):
    """Some points are passed only when a former owner has left something."""
    at = world.progress()
    if point.startswith("settle_rederive_"):
        world.sql("UPDATE progress SET notified_offset = %s WHERE log = %s", at["next_offset"] - 5, at["log"])
    if point.startswith("settle_try_"):
        world.sql("UPDATE progress SET stalls = 3, stalled_at = next_offset WHERE log = %s", at["log"])


def bring_to(world, point, mode):
    """A settle process that is dead or stopped at this point, with mixed records before it."""
    order = f"{point}:{mode}:{pass_of(point)}"
    if point.startswith("settle_lookup_"):  # reached only when the answer to COMMIT is lost
        order = f"settle_progress_moved:stop,{order}"
    process = world.spawn("settle", order)
    if point.startswith("settle_lookup_"):
        process.reached("settle_progress_moved", "stop")
        world.cut_transaction()
        process.go_on()
    if point == "settle_revoked":
        world.drain()
        process.terminate()
    if pass_of(point) > 1:  # of a slow publisher both leave as one: then a later batch's is the second
        wait_until(lambda: f"name={point} action={mode}" in process.log() or not world.send_gifts(1), 60, f"{point} is passed again", every=0.5)
    process.reached(point, mode)
    return process


def settle_case(world, point, mode):
    world.send_mixed()
    prepare(world, point)
    before = world.progress()["next_offset"]
    first = bring_to(world, point, mode)
    assert not oracle.told_too_early(world), "a notice of an outcome that is not committed"
    if point.startswith(("settle_claim", "settle_rederive_", "settle_republish_")):
        assert world.progress()["next_offset"] == before, "what the former owner left comes before anything new"
    world.send_gifts(2)
    second = world.spawn("settle")
    world.drain()
    if mode == "stop":
        model = oracle.predict(world, *world.rules())
        wait_until(lambda: not oracle.missing_notices(world, model), 60, "a notice of every outcome", every=0.2)
        first.go_on()
        world.send_gifts(2)
        world.drain()
        if point != "settle_revoked":  # that one is about to end
            wait_until(first.is_ready, 60, "the woken process is ready")
            first.terminate()
        first.ended()
    second.terminate()
    second.ended()
    for process in (first, second):  # a zombie is fenced; if only the tables' own constraints had held it up, it would say so
        assert not SUSPICIOUS.search(process.log()), process.log()[-3000:]
    world.judge()


# -- ingest


def ingest_case(world, point, mode):
    """The client repeats with the same key to another ingest and gets its 202; one outcome, whatever the first one left."""
    first = world.spawn("ingest", f"{point}:{mode}")
    url = first.address("api_started")
    wait_until(first.is_ready, 60, "ingest")
    command = world.gift_command(world.rich[0])
    enough = threading.Event()
    poster = threading.Thread(target=post_in_vain, args=(world, command, url, enough))
    poster.start()
    first.reached(point, mode)
    enough.set()
    world.post(command)
    if mode == "stop":
        first.go_on()
    poster.join()
    settle = world.spawn("settle")
    world.drain()
    if mode == "stop":
        wait_until(first.is_ready, 60, "the woken ingest")
        wait_until(lambda: world.post(command, url).get("idempotency-replayed") == "true", 60, "a replay")
        first.terminate()
        first.ended()
        world.drain()
    settle.terminate()
    settle.ended()
    model = world.judge()
    rows = [row for row in model.rows.values() if row.request_id == command["request_id"]]
    assert len(rows) == 1


def post_in_vain(world, command, url, enough):
    """Without an answer, or with any: the client cannot know. Again, should a machine that is too busy have answered before the point (503)."""
    body = {"room_id": command["room_id"], "receiver_id": command["receiver_id"], "gift_id": command["gift_id"], "quantity": 1, "type": 0}
    while True:
        try:
            world.http("POST", "/v1/gifts", body, {"Idempotency-Key": command["request_id"]}, user=command["user_id"], base=url)
        except (OSError, http.client.HTTPException):
            pass
        if enough.wait(0.2):
            break


# -- sweep


def sweep_case(world, point, mode):
    world.send_mixed()
    settle = world.spawn("settle")
    world.drain()
    first = world.spawn("sweep", f"{point}:{mode}")
    first.reached(point, mode)
    world.send_gifts(2)
    world.drain()
    second = world.spawn("sweep")
    world.incomes_are_rolled_up()
    processes = [second, settle]
    if mode == "stop":
        first.go_on()
        world.send_gifts(2)
        world.drain()
        wait_until(first.is_ready, 60, "the woken sweep")
        processes.append(first)
        world.incomes_are_rolled_up()
    for process in processes:
        process.terminate()
    for process in processes:
        process.ended()
    world.incomes_are_rolled_up()
    world.judge()


# -- all of them, side by side

CASES = {"settle": settle_case, "ingest": ingest_case, "sweep": sweep_case}


class Runner:
    """Works through the cases in some threads; a world goes from case to case until one fails in it."""

    def __init__(self, stack, cases):
        self.stack, self.results = stack, {case: Future() for case in cases}
        self.waiting, self.numbers = queue.SimpleQueue(), iter(range(1, 10_000))
        for case in cases:
            self.waiting.put(case)
        self.threads = [threading.Thread(target=self.work) for _ in range(min(WORLDS, len(cases)))]
        for thread in self.threads:
            thread.start()

    def work(self):
        world = None
        while not self.waiting.empty():
            try:
                point, mode = case = self.waiting.get(block=False)
            except queue.Empty:
                break
            try:
                world = world or World(self.stack, next(self.numbers)).open()
                CASES[point.split("_")[0]](world, point, mode)
                self.results[case].set_result(True)
            except BaseException as error:  # told by the case's own test
                self.results[case].set_exception(error)
                if world:
                    world.close()
                world = None
        if world:
            world.close()

    def end(self):
        while not self.waiting.empty():
            try:
                self.waiting.get(block=False)
            except queue.Empty:
                break
        for thread in self.threads:
            thread.join()


@pytest.fixture(scope="module")
def runner(request):
    stack = Stack(roles={"ingest": 0, "settle": 0, "router": 0, "gateway": 0, "sweep": 0}, partitions=1, env={"GIFTFLOW_MYSQL_OPTS": "--innodb-flush-log-at-trx-commit=2"})  # no server is killed here
    chosen = [(item.callspec.params["point"], item.callspec.params["mode"]) for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    runner = None
    try:
        stack.up()
        runner = Runner(stack, chosen)
        yield runner
    finally:
        if runner:
            runner.end()
        finish(stack)


@pytest.mark.parametrize("mode", ["kill", "stop"])
@pytest.mark.parametrize("point", POINTS)
def test_exactly_once_when_it_ends_or_stands_still_at(runner, point, mode):
    runner.results[point, mode].result(WAIT_S)


def test_a_transaction_that_repeats_have_defeated_is_not_told_as_committed(runner):
    """In each of the attempts at one batch another of its requests turns out to be settled elsewhere: the last attempt is rolled back as the ones before."""
    attempts = 4  # INSERT_ATTEMPTS of store.c
    world = World(runner.stack, next(runner.numbers)).open()
    try:
        gifts = world.send_gifts(attempts + 2)
        log, end = world.progress()["log"], world.end_offsets()[0]
        points = ",".join(f"settle_planned:stop:{n + 1}" for n in range(attempts)) + ",settle_committed:stop"
        process = world.spawn("settle", points, KAFKA_SESSION_TIMEOUT="60s")  # who stands still for long is still its owner
        for n in range(attempts):
            process.reached("settle_planned", "stop", n + 1)
            settled_elsewhere(world, gifts[n], n)
            process.go_on()
        process.reached("settle_committed", "stop")
        assert world.progress()["next_offset"] == end, "what is told next was not committed"
        process.go_on()
        process.terminate()
        process.ended()
        told = {at for _, at in oracle.notices(world)}
        rows = {row["off"]: row for row in world.sql("SELECT * FROM trade WHERE log = %s", log)}
        assert told == set(rows) and {end - 2, end - 1} <= told and not told & set(range(end - 6, end - 2))
        assert [rows[end - n]["outcome"] for n in (2, 1)] == [0, 0]
    finally:
        world.close()


def settled_elsewhere(world, command, n):
    """Its request has a row, in another log and with other content."""
    world.sql(
        "INSERT INTO trade (log, off, user_id, request_id, kind, outcome, amount, seq, balance_after, prev_log, prev_off, gift_id, gift_type, quantity, price, receiver_id, room_id, host_coins, fp, ts_ms)"
        " VALUES (99, %s, %s, %s, 1, 1, 0, 1, 0, 0, -1, 22, 0, 1, 90, 1, 1, 0, '01234567', 1)",
        n, command["user_id"], uuid.UUID(command["request_id"]).bytes,
    )  # fmt: skip


def test_what_retention_takes_between_claim_and_first_fetch_stops_nothing(runner):
    """The reader begins at the record that was settled last; when that has gone meanwhile, the partition is claimed again and goes on behind it."""
    world = World(runner.stack, next(runner.numbers)).open()
    try:
        process = world.spawn("settle", "settle_compared:stop", KAFKA_SESSION_TIMEOUT="60s")  # who stands still for long does not claim again by itself
        process.reached("settle_compared", "stop")
        world.delete_records(world._topic("giftflow.commands"), 0, world.progress()["next_offset"])
        process.go_on()
        world.send_gifts(3)
        world.drain()
        assert "event=partition_broken" in process.log(), "the reader did not meet it"
        process.terminate()
        process.ended()
    finally:
        world.close()
