# SPDX-License-Identifier: Apache-2.0
"""Everything runs, everything breaks: viewers send gifts and repeat what was not answered, an operator moves coins, a foreign producer repeats and garbles, and
two nemeses kill, freeze, lock and flush whatever they find, at the same time and at any moment. Then all is mended, and the books must be what the model says
(oracle.py), every 202 must have its outcome, nobody may have been told anything else, and every process must have found its way back by itself.

Not part of CI: `./dev test --nemesis[=SECONDS]` runs it, on the engines that GIFTFLOW_ENGINE, GIFTFLOW_BROKERS and GIFTFLOW_PRIMARIES name. GIFTFLOW_NEMESIS_SEED
repeats the choice of faults (not the moment in which they meet)."""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cache
import oracle
import pymysql
import pytest
from conftest import finish
from fault_proxy import FaultProxy
from servers import free_port
from stack import BROKERS, Stack, uuid7, wait_until
from test_verify_watch import Watch
from ws_client import Closed, HandshakeError, WsClient

SECONDS = int(os.environ.get("GIFTFLOW_NEMESIS_SECONDS", "120"))
SEED = int(os.environ.get("GIFTFLOW_NEMESIS_SEED", "0")) or random.SystemRandom().getrandbits(48)
GIFTS = {1: (1, 5000, 9999), 22: (90, 3333, 9999), 100: (5000, 5000, 9999)}
ROLES = {"ingest": 2, "settle": 3, "router": 2, "gateway": 2, "sweep": 2}
NAMES = [f"{role}-{n}" for role, count in ROLES.items() for n in range(1, count + 1)]
KAFKAS = ["kafka"] if BROKERS == 1 else [f"kafka-{n}" for n in range(1, BROKERS + 1)]
REDISES = ["redis", *(f"redis-{n}" for n in range(2, 1 + int(os.environ.get("GIFTFLOW_PRIMARIES", "1"))))]
ROOMS = (1001, 1002, 1003)
RECEIVERS = range(20001, 20006)
CLIENTS, POOR, STRANGER = 8, 4, 1
COINS = 1_000_000
SETTINGS = {
    "settle.batch": 40, "settle.retry_max": "3s", "kafka.session_timeout": "3s", "kafka.message_timeout": "4s", "ingest.request_timeout": "5s", "ingest.lease": "6s",
    "ingest.hold_ttl": "15s", "ingest.lag_max": "10s", "mysql.read_timeout": "6s", "redis.timeout": "1s", "router.ack_timeout": "1s", "gateway.announce": "1s", "sweep.rollup": "200ms",
}  # fmt: skip
FINAL = {"settled", "rejected"}


class Worker(threading.Thread):
    """A thread that goes on until it is told to stop; what it dies of is raised by finished()."""

    def __init__(self, world, name):
        super().__init__(name=name, daemon=True)
        self.world, self.stack, self.random, self.error = world, world.stack, random.Random(f"{SEED}-{name}"), None

    def run(self):
        try:
            while not self.world.stop.is_set():
                self.turn()
            self.end()
        except Exception as error:  # told by the test's own thread
            self.error = error
            self.world.stop.set()

    def end(self):
        pass

    def finished(self):
        self.join()
        if self.error:
            raise self.error


class Viewer(Worker):
    """Sends gifts, one after the other, as an app does: what has no final answer is sent again with the same key, to either ingest."""

    def __init__(self, world, number, user):
        super().__init__(world, f"viewer-{number}")
        self.user = user

    def ask(self, method, path, body=None, key=None):
        """The answer, or None: nobody knows."""
        headers = {"Idempotency-Key": key} if key else {}
        try:
            return self.stack.http(method, path, body, {**headers, "authorization": f"Bearer {self.world.token(self.user)}"}, base=self.random.choice(self.world.ingests), timeout=8)
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return None

    def turn(self):
        key, gift = uuid7(), self.random.choices(list(GIFTS), (10, 5, 1))[0]
        body = {"room_id": self.random.choice(ROOMS), "receiver_id": self.random.choice(RECEIVERS), "gift_id": gift, "quantity": self.random.randint(1, 3), "type": 0}
        if self.random.random() < 0.2:  # an impatient finger
            with ThreadPoolExecutor(1) as pool:
                twin = pool.submit(self.once, key, body)
                self.send(key, body)
                twin.result()
        else:
            self.send(key, body)
        if (self.user, key) in self.world.accepted:
            self.look_back(key, body)
        self.world.stop.wait(self.random.uniform(0, 0.1))

    def once(self, key, body):
        answer = self.ask("POST", "/v1/gifts", body, key)
        if answer is None:
            return None
        status, _, told = answer
        self.world.answers[status] += 1
        if status == 202:
            self.world.accepted.add((self.user, key))
        elif 400 <= status < 500 and status not in (409, 429):
            assert told["code"] in ("insufficient_balance", "wallet_not_found"), (key, answer)
            self.world.refused.add((self.user, key))
            if (self.user, key) in self.world.accepted:
                self.world.taken_back.append(round(time.time() - self.world.began, 2))
        else:
            assert status in (409, 429, 503), (key, answer)
        return status

    def send(self, key, body):
        """Until the answer is final. After the faults this must come to an end."""
        end = None
        while (status := self.once(key, body)) in (None, 409, 429, 503):
            if self.world.stop.is_set():
                end = end or time.monotonic() + 180
                assert time.monotonic() < end, (key, status, "no final answer although nothing is broken")
            time.sleep(self.random.uniform(0.05, 0.5))

    def look_back(self, key, body):
        """Repeats are answered alike, and an outcome never changes."""
        if self.random.random() < 0.2:
            self.once(key, body)
        for _ in range(self.random.choice((0, 0, 1, 3))):
            answer = self.ask("GET", f"/v1/requests/{key}")
            if answer and answer[0] == 200 and answer[2]["status"] in FINAL:
                told = {name: answer[2].get(name) for name in ("status", "code", "amount", "balance_after")}
                assert self.world.told.setdefault((self.user, key), told) == told, (key, told, self.world.told[self.user, key])
        if self.random.random() < 0.1:
            answer = self.ask("GET", "/v1/wallet")
            assert not answer or answer[0] != 200 or answer[2]["balance"] >= 0 <= answer[2]["available"] <= answer[2]["balance"], answer


class Operator(Worker):
    """Gives coins to the poor, and takes some away, with one key until it is accepted; drops dead letters or replays them, twice
    now and then; those whose requests have outcomes are refused, garbage is buried again."""

    def turn(self):
        user, coins, key = self.random.choice(self.world.users), self.random.choice((100, 300, 1000, -50, -(10**9))), uuid7()
        while not self.adjust(user, coins, key) and not self.world.stop.wait(0.3):
            pass
        if self.random.random() < 0.3:
            self.bury()
        self.world.stop.wait(self.random.uniform(0.2, 0.8))

    def ask(self, method, path, body=None, **headers):
        """(status, answer); 0: nobody knows."""
        try:
            status, _, answer = self.stack.http(method, path, body, {"authorization": f"Bearer {self.world.admin_key}", **headers}, base=self.random.choice(self.world.admins), timeout=15)
        except (OSError, http.client.HTTPException):
            return 0, None
        return status, answer

    def adjust(self, user, coins, key):
        status, answer = self.ask("POST", "/admin/v1/adjustments", {"user_id": user, "coins": coins, "reason": "nemesis"}, **{"Idempotency-Key": key})
        assert status in (0, 202, 409, 429, 503), (status, answer)
        if status == 202:
            self.world.accepted.add((user, answer["request_id"]))
        return status == 202

    def bury(self):
        status, answer = self.ask("GET", "/admin/v1/dead-letters?limit=100")
        assert status in (0, 200, 503), (status, answer)
        letters = answer["dead_letters"] if status == 200 else []
        for letter in self.random.sample(letters, min(5, len(letters))):
            for order in self.random.choice((("replay", "drop"), ("drop",), ("drop", "drop"), ("replay", "replay"))):
                status, answer = self.ask("POST", f"/admin/v1/dead-letters/{letter['log']}/{letter['off']}/{order}")
                assert status in (0, 202 if order == "replay" else 200, 409, 503), (order, letter, status, answer)
                self.world.orders[order, status] += 1


class Foreigner(Worker):
    """Another producer: gifts of its own, repeats of any age with and without other content, and garbage."""

    def turn(self):
        user = self.random.choice(self.world.users)
        gift = self.random.choice(list(GIFTS))
        good = self.stack.gift_command(user, gift_id=gift, price=GIFTS[gift][0], room_id=self.random.choice(ROOMS), receiver_id=self.random.choice(RECEIVERS))
        old = self.random.choice(self.world.foreign or [good])
        kinds = (good, old, {**old, "quantity": 2}, {**good, "price": 3}, {**good, "v": 7}, {**good, "receiver_id": user}, {**good, "user_id": self.random.choice(self.world.users)}, "garbage")
        self.world.foreign.append(good)
        lines = ""
        for record in self.random.choices(kinds, (6, 5, 1, 1, 1, 1, 1, 1), k=4):
            key = old["user_id"] if record is kinds[1] or record is kinds[2] else user  # that of another user now and then
            lines += f"{key}\t{record if isinstance(record, str) else json.dumps(record)}\n"
        command = ["kcat", "-b", self.stack.env["GIFTFLOW_KAFKA"], "-P", "-t", "giftflow.commands", "-X", "partitioner=murmur2_random", "-X", "acks=all", "-X", "message.timeout.ms=5000", "-K", "\t"]
        with contextlib.suppress(subprocess.TimeoutExpired):  # taken or not: the topic is what the judge reads
            subprocess.run(command, input=lines.encode(), capture_output=True, timeout=20, check=False)
        self.world.stop.wait(0.5)


class Watcher(Worker):
    """A client in a room: what it is told is kept, and judged at the end."""

    def __init__(self, world, number, user):
        super().__init__(world, f"watcher-{number}")
        self.user, self.client, self.n = user, None, number

    def turn(self):
        try:
            if self.client is None:
                url = f"{self.random.choice(self.world.gateways)}/v1/live?room={ROOMS[self.n % len(ROOMS)]}"
                self.client = self.world.connect(url, self.user)
            frame = self.client.recv_frame(timeout=1)
        except TimeoutError:
            return
        except (OSError, Closed, HandshakeError):
            self.end()
            self.world.stop.wait(0.3)
            return
        if frame["code"] in (5556, 5557, 5558, 5559):
            self.world.frames.append((self.user, frame))

    def end(self):
        if self.client is not None:
            self.client.sock.close()
        self.client = None


class Auditor(Worker):
    """At any moment, that of a fault included: nobody is told of what is not committed."""

    def turn(self):
        self.world.stop.wait(3)
        with contextlib.suppress(AssertionError, pymysql.MySQLError, subprocess.TimeoutExpired):  # what it asks may be away
            self.world.too_early += oracle.told_too_early(self.stack)
            self.world.audits += 1


class Nemesis(Worker):
    """One fault at a time, a pause, the next one; two of them at once never choose the same process."""

    def __init__(self, world, number):
        super().__init__(world, f"nemesis-{number}")
        self.faults = (
            (6, self.role_dies), (8, self.role_meets_a_point), (5, self.role_freezes), (4, self.role_drains), (2, self.mysql_dies), (3, self.mysql_freezes), (4, self.mysql_cuts), (3, self.mysql_locks), (2, self.mysql_read_only),
            (2, self.kafka_dies), (2, self.kafka_freezes), (2, self.redis_dies), (2, self.redis_flushed), (2, self.redis_freezes), (2, self.redis_cuts), (2, self.redis_full),
            (2, self.redis_forgets), (2, self.clock_steps), (6, self.link_fails),
        )  # fmt: skip

    def turn(self):
        self.world.stop.wait(self.random.uniform(0, 2))
        if self.world.stop.is_set():
            return
        fault = self.random.choices([fault for _, fault in self.faults], [weight for weight, _ in self.faults])[0]
        self.world.faults[fault.__name__] += 1
        fault()

    def note(self, text):
        self.world.note(f"{self.name}: {text}")

    def victim(self):
        return self.random.choice(NAMES)

    @contextlib.contextmanager
    def holding(self, name, what):
        with self.world.locks[name]:
            self.note(f"{name} {what}")
            yield
            self.note(f"{name} is back")

    def freeze(self, name, seconds):
        """This one alone; Stack.frozen takes all of a kind."""
        pid = self.stack.pid(name)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def role_dies(self):
        name = self.victim()
        with self.holding(name, "dies"):
            self.stack.kill(name)
            time.sleep(self.random.choice((0, 0, 1, 4)))
            self.stack.start(name, wait=False)

    def role_freezes(self):
        name = self.victim()
        with self.holding(name, "freezes"):
            self.freeze(name, self.random.choice((0.3, 1, 4, 8)))

    def role_drains(self):
        name = self.victim()
        with self.holding(name, "drains"):
            self.stack.stop(name)
            self.stack.start(name, wait=False)

    def role_meets_a_point(self):
        """Ends or stands still between two steps whose order matters, if it comes by within five seconds."""
        point, action = self.random.choice(self.world.points), self.random.choice(("kill", "stop"))
        name = self.random.choice([name for name in NAMES if name.startswith(point.split("_")[0])])
        at = f"{point}:{action}:{self.random.choice((1, 1, 2, 10))}"
        with self.holding(name, f"begins anew, with {at}"):
            self.stack.kill(name)
            self.stack.dev("start", name, "--no-wait", env={"GIFTFLOW_POINT": at}, check=False)  # it may have ended before this does
            end = time.monotonic() + 5
            while self.stack.state(name) not in "TZ" and time.monotonic() < end:
                time.sleep(0.1)
            if self.stack.state(name) == "T":
                self.world.faults[at.split(":")[0]] += 1
                time.sleep(self.random.choice((0.5, 5)))
                os.kill(self.stack.pid(name), signal.SIGCONT)
            elif self.stack.has_ended(name):
                self.world.faults[at.split(":")[0]] += 1
            time.sleep(0.5)
            with contextlib.suppress(AssertionError):  # it may have ended by itself
                self.stack.kill(name)
            self.stack.start(name, wait=False)

    def mysql_dies(self):
        with self.holding("mysql", "dies"):
            self.stack.kill("mysql")
            time.sleep(self.random.choice((0, 1, 5)))
            self.stack.start("mysql")

    def mysql_freezes(self):
        with self.holding("mysql", "freezes"):
            self.freeze("mysql", self.random.choice((0.5, 2, 9)))

    def root(self, *queries):
        """Rows of the last one; a server that is away is no error here."""
        try:
            with self.stack.connect_db("root") as conn, conn.cursor() as cursor:
                for query in queries:
                    cursor.execute(query)
                return cursor.fetchall()
        except pymysql.MySQLError:
            return []

    def mysql_cuts(self):
        """Connections in the middle of whatever they do: those with a transaction first."""
        with self.holding("mysql", "cuts connections"):
            for _ in range(self.random.randint(1, 5)):
                busy = self.root("SELECT trx_mysql_thread_id AS id FROM information_schema.innodb_trx WHERE trx_mysql_thread_id > 0")
                idle = self.root("SELECT id FROM information_schema.processlist WHERE user = 'giftflow'")
                for row in busy or idle[: self.random.randint(0, 3)]:
                    self.root(f"KILL {row['id']}")
                time.sleep(self.random.uniform(0, 0.3))

    def mysql_locks(self):
        """A foreign session that holds rows, or tables, for longer or shorter than anybody waits."""
        user = self.random.choice(self.world.users)
        with self.holding("mysql", f"is locked, wallet {user} or all"), contextlib.suppress(pymysql.MySQLError), self.stack.connect_db("root") as conn, conn.cursor() as cursor:
            if self.random.random() < 0.3:
                cursor.execute("FLUSH TABLES WITH READ LOCK")
            else:
                cursor.execute("BEGIN")
                cursor.execute("SELECT * FROM wallet WHERE user_id = %s FOR UPDATE", user)
            time.sleep(self.random.choice((0.5, 3, 8)))

    def mysql_read_only(self):
        with self.holding("mysql", "takes no writes"):
            self.root("SET GLOBAL read_only = 1")
            time.sleep(self.random.choice((0.5, 3)))
            self.root("SET GLOBAL read_only = 0")

    def kafka_dies(self):
        name = self.random.choice(KAFKAS)
        with self.holding(name, "dies"):
            self.stack.kill(name)
            time.sleep(self.random.choice((0, 3)))
            self.stack.start(name)

    def kafka_freezes(self):
        name = self.random.choice(KAFKAS)
        with self.holding(name, "freezes"):
            self.freeze(name, self.random.choice((0.5, 2, 7)))

    def redis(self, name, *words):
        with contextlib.suppress(OSError, AssertionError):  # it may be away
            return cache.ask(cache.ports(self.stack)[REDISES.index(name)], [words])[0]

    def redis_dies(self):
        name = self.random.choice(REDISES)
        with self.holding(name, "dies"):
            self.stack.kill(name)
            time.sleep(self.random.choice((0, 1, 5)))
            self.stack.start(name)

    def redis_flushed(self):
        name = self.random.choice(REDISES)
        with self.holding(name, "is flushed"):
            self.redis(name, "FLUSHALL")

    def redis_freezes(self):
        name = self.random.choice(REDISES)
        with self.holding(name, "freezes"):
            self.freeze(name, self.random.choice((0.5, 3)))

    def redis_cuts(self):
        name = self.random.choice(REDISES)
        with self.holding(name, "cuts connections"):
            self.redis(name, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def redis_full(self):
        name = self.random.choice(REDISES)
        with self.holding(name, "is full"):
            self.redis(name, "CONFIG", "SET", "maxmemory", "1mb")
            time.sleep(self.random.choice((0.5, 3)))
            self.redis(name, "CONFIG", "SET", "maxmemory", "256mb")

    def redis_forgets(self):
        """One wallet, as an eviction would."""
        user = self.random.choice(self.world.users)
        name = REDISES[cache.shard(self.stack, user)]
        with self.holding(name, f"forgets wallet {user}"):
            self.redis(name, "DEL", cache.wallet_key(user))

    def link_fails(self):
        """Requests that are done and not answered, half sent, or late."""
        name = self.random.choice(list(self.world.proxies))
        proxy, fault = self.world.proxies[name], self.random.choice(("lose", "lose", "half", "slow"))
        with self.holding(name, f"fails: {fault}"):
            proxy.fault = fault
            time.sleep(self.random.choice((0.1, 0.5, 3)))
            proxy.fault = None

    def clock_steps(self):
        step = self.random.choice((-600_000, -5_000, 0, 5_000, 600_000))
        self.note(f"the clock is wrong by {step} ms")
        self.world.set_clock(step)


class World:
    """The stack, and what its users were told."""

    def __init__(self, directory):
        self.clock = Path(directory) / "clock"
        self.set_clock(0)
        socket, ports = Path(directory) / "mysql.sock", {name: free_port() for name in REDISES}
        settings = {**SETTINGS, "mysql.socket": socket, "redis.url": ",".join(f"redis://127.0.0.1:{port}" for port in ports.values())}
        self.stack = Stack(roles=ROLES, partitions=6, settings=settings, env={"GIFTFLOW_CLOCK_STEP": str(self.clock)})
        self.proxies = {"the link to mysql": FaultProxy(str(socket), lambda: self.stack.env.get("GIFTFLOW_MYSQL_SOCKET", str(self.stack.dir / "mysql.sock")))}
        for name, port in ports.items():
            self.proxies[f"the link to {name}"] = FaultProxy(port, lambda name=name: self.port_of(name))
        self.stop, self.began = threading.Event(), time.time()
        self.accepted, self.refused, self.told, self.taken_back = set(), set(), {}, []
        self.foreign, self.frames, self.faults, self.answers, self.orders = [], [], Counter(), Counter(), Counter()
        self.too_early, self.audits = [], 0
        self.locks = {name: threading.Lock() for name in (*NAMES, "mysql", *KAFKAS, *REDISES, *self.proxies)}
        self._log = threading.Lock()

    def note(self, text):
        with self._log:
            print(f"{time.time() - self.began:7.2f} {text}", flush=True)

    def port_of(self, name):
        """As ./dev has chosen it, which it writes before it starts the server."""
        ports = dict(line.split() for line in (self.stack.dir / "ports").read_text().splitlines())
        return int(ports[name])

    def close(self):
        finish(self.stack)
        for proxy in self.proxies.values():
            proxy.close()

    def set_clock(self, ms):
        with open(self.clock, "r+b" if self.clock.exists() else "w+b") as file:
            file.write(ms.to_bytes(8, "little", signed=True))

    def token(self, user):
        now = int(time.time())
        return self.stack.token(user, iat=now - 3600, exp=now + 7200)

    def connect(self, url, user):
        return WsClient(url, token=self.token(user), timeout=5)

    def open(self):
        self.stack.up()
        for gift_id, (price, share, most) in GIFTS.items():
            self.stack.sql("INSERT INTO gift (gift_id, name, cover_url, effect_url, max_quantity, status, ver, updated_ms) VALUES (%s, 'gift', '', '', %s, 1, 1, 0)", gift_id, most)
            self.stack.sql("INSERT INTO gift_price VALUES (%s, 0, 9223372036854775807, %s, %s)", gift_id, price, share)
        rich, poor = self.stack.new_users(CLIENTS - POOR, COINS), self.stack.new_users(POOR, 200)
        self.users, self.strangers = rich + poor, [self.stack.new_id() for _ in range(STRANGER)]
        env = self.stack.env  # later it names only those that run
        self.ingests, self.admins, self.gateways = (env[f"GIFTFLOW_{name}_URL"].split(",") for name in ("INGEST", "ADMIN", "GATEWAY"))
        listed = subprocess.run([env["GIFTFLOW_BIN"], "points"], capture_output=True, text=True, check=True).stdout
        self.points = [line.split()[0] for line in listed.splitlines()]
        self.admin_key, self.began = env["GIFTFLOW_ADMIN_KEY"], time.time()
        return self

    def mend(self):
        """The one thing that a fault leaves; processes must come back by themselves."""
        self.set_clock(0)
        for name in NAMES:
            wait_until(lambda name=name: self.stack.is_ready(name), 120, f"{name} is ready again, by itself", every=0.5)

    def credits(self):
        return {str(uuid.UUID(bytes=row["credit_id"])): (row["user_id"], row["kind"], row["coins"]) for row in self.stack.sql("SELECT credit_id, user_id, kind, coins FROM credit")}


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    try:
        yield world.open()
    finally:
        world.stop.set()
        world.close()


def told_the_truth(world):
    """What clients were told, by HTTP and by frames, is what the rows say."""
    rows = {(row["user_id"], str(uuid.UUID(bytes=row["request_id"]))): row for row in world.stack.sql("SELECT * FROM trade")}
    for (user, key), told in world.told.items():
        row = rows[user, key]
        assert (told["status"] == "settled") == (row["outcome"] == 0), (user, key, told, row)
        assert row["outcome"] != 0 or told["balance_after"] == row["balance_after"], (user, key, told, row)
    logs = {(row["log"], row["off"]): row for row in rows.values()}
    for user, frame in world.frames:
        log, off, code = map(int, oracle.NOTICE_ID.fullmatch(frame["id"]).groups())
        row = logs[log, off]
        assert (row["outcome"] == 0) == (code in (5556, 5558)) and code == frame["code"], (frame, row)
        assert str(uuid.UUID(bytes=row["request_id"])) == frame["data"]["request_id"].lower(), (frame, row)
        assert code == 5556 or row["user_id"] == user, ("somebody else's business", user, frame)
    settled_though_refused = [(user, key) for user, key in world.refused - world.accepted if (user, key) in rows and rows[user, key]["outcome"] == 0]
    print(f"settled though the last answer was a refusal {settled_though_refused}, accepted and then refused at {world.taken_back}: only a Redis that has lost its keys may do that")


def test_whatever_breaks_the_books_are_right(world):
    print(f"GIFTFLOW_NEMESIS_SEED={SEED} GIFTFLOW_NEMESIS_SECONDS={SECONDS}")
    viewers = [Viewer(world, n, user) for n, user in enumerate([*world.users, world.users[0], *world.strangers])]
    watchers = [Watcher(world, n, world.users[n]) for n in range(4)]
    others = [Operator(world, "operator"), Foreigner(world, "foreigner"), Auditor(world, "auditor")]
    nemeses = [Nemesis(world, n) for n in (1, 2)]
    threads = [*viewers, *watchers, *others, *nemeses]
    with Watch(world.stack, "--rate", 1_000_000) as watch:
        for thread in threads:
            thread.start()
        world.stop.wait(SECONDS)
        world.stop.set()
        for thread in nemeses:
            thread.finished()
        world.mend()
        for thread in threads:
            thread.finished()
        world.stack.drain(180)
        watch.full_passes()
        assert watch.alarms() == [], watch.log()
        assert not re.search(r"redis_drift_found (?!.*behind MySQL)", watch.log()), watch.log()  # a publisher that was killed leaves some behind
        assert watch.stop() == 0, watch.log()
    assert not world.too_early and world.audits, world.too_early[:5]
    model = oracle.judge(world.stack, GIFTS, world.credits(), [(key, user) for user, key in world.accepted])
    told_the_truth(world)
    seen = Counter(outcome for row in model.rows.values() for outcome in row.outcomes)
    print(f"{len(world.accepted)} accepted, {len(world.refused)} refused, answers {dict(world.answers)}, {len(world.frames)} frames, outcomes {dict(seen)}, "
          f"{len(model.dead)} dead letters {dict(world.orders)}, {len(model.repeats)} repeats; faults {dict(world.faults)}, connections cut {[proxy.cuts for proxy in world.proxies.values()]}")  # fmt: skip
    assert len(world.accepted) > SECONDS and world.frames, "nothing was going on"
    user, room = world.users[0], ROOMS[0]
    for n in (1, 2):  # and it works as on the first day
        with world.stack.ws(user, room, n=n) as client:
            wait_until(lambda client=client: world.stack.gift(user, room=room, gift_id=1)[0] == 202 and live(client), 60, f"a frame on gateway {n}")


def live(client):
    with contextlib.suppress(TimeoutError):
        return client.wait_frame(lambda frame: frame["code"] == 5556, timeout=3)
    return None
