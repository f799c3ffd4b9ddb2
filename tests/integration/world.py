# SPDX-License-Identifier: Apache-2.0
"""Many small giftflows on the servers of one Stack: each World has its own topics (one partition), database, Redis epoch and consumer group, an
ingest, and a stream of gifts of every fate. Roles are started here one by one, with points (gf/point.h) at which they end or stop themselves."""

import http.client
import itertools
import os
import re
import signal
import subprocess
import threading
import uuid

import oracle
from stack import ROOT, Stack, process_state, uuid7, wait_until

GIFTS = {22: (90, 5000, 9999), 100: (5000, 3333, 9999)}
ROLES = ("ingest", "settle", "sweep")
RICH = 3
COINS = 10**9
ADJUST = 3
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "LSAN_OPTIONS": f"print_suppressions=0:suppressions={ROOT}/tests/lsan.supp",
    "TSAN_OPTIONS": f"halt_on_error=1:second_deadlock_stack=1:suppressions={ROOT}/tests/tsan.supp",
}
SETTINGS = {
    "KAFKA_PARTITIONS": "1", "KAFKA_SESSION_TIMEOUT": "1500ms", "KAFKA_MESSAGE_TIMEOUT": "3s", "SETTLE_LANES": "1", "SETTLE_BATCH": "100", "INGEST_PORT": "0", "INGEST_ADMIN_PORT": "0",
    "INGEST_REQUEST_TIMEOUT": "4s", "INGEST_LEASE": "5s", "INGEST_RATE_PER_SECOND": "1000", "OPS_PORT": "0", "OPS_DRAIN_TIMEOUT": "60s", "SWEEP_ROLLUP": "100ms",
}  # fmt: skip
_names = itertools.count(1)
_one_init = threading.Lock()  # tables are made slowly enough one database at a time


def uuid8():
    raw = bytearray(uuid.UUID(uuid7()).bytes)
    raw[6] = 0x80 | raw[6] & 0x0F
    return str(uuid.UUID(bytes=bytes(raw)))


class Process:
    """One role's process, started by the test."""

    def __init__(self, world, role, point=None, **settings):
        number = next(_names)  # `-<number>.log`: what Stack.bad_log_lines looks at
        self.path = world.dir / "log" / f"{world.name}-{role}-{number}.log"
        env = {**world.environ, **{f"GIFTFLOW_{name}": value for name, value in settings.items()}}
        env["GIFTFLOW_POINT"] = point or ""
        self.name, self.point, self.world = f"{world.name}-{role}-{number}", point, world
        with open(self.path, "ab") as log:
            self.child = subprocess.Popen([world.env["GIFTFLOW_BIN"], role, "--config", world.env["GIFTFLOW_CONFIG"]], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if role in ROLES:  # ./dev down ends it too, should the tests not come to it
            (world.dir / "pid" / f"{role}-{number}.pid").write_text(f"{self.child.pid}\n")

    def log(self):
        return self.path.read_text(errors="replace")

    def address(self, event):
        """Of the port that the line of this event tells."""
        line = re.compile(rf"event={event} .*address=(\S+)")
        return "http://" + wait_until(lambda: line.search(self.log()), 60, f"{self.name}: {event}").group(1)

    def is_stopped(self):
        return process_state(self.child.pid) == "T"

    def reached(self, name, action, times=1):
        """Waits until it has ended (kill) or stopped (stop) itself at that point, for the n-th time."""
        line = f"name={name} action={action}"
        wait_until(lambda: self.log().count(line) >= times or self.child.poll() is not None, 60, f"{self.name} reaches {name}")
        assert self.log().count(line) >= times, f"{self.name} has ended ({self.child.returncode}) before {name}\n{self.log()[-3000:]}"
        if action == "kill":
            assert self.child.wait(60) == -signal.SIGKILL
        else:
            wait_until(self.is_stopped, 60, f"{self.name} stands still")

    def go_on(self):
        self.child.send_signal(signal.SIGCONT)

    def is_ready(self):
        try:
            return self.world.http("GET", "/readyz", base=self.address("ops_started"), timeout=20)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def terminate(self):
        self.child.send_signal(signal.SIGTERM)

    def ended(self):
        assert self.child.wait(120) == 0, f"{self.name} ended with {self.child.returncode}\n{self.log()[-3000:]}"

    def kill(self):
        """Whatever has become of it."""
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(60)


class World(Stack):
    """Not thread-safe: one thread for one world."""

    def __init__(self, stack, number):
        super().__init__(directory=stack.dir, partitions=1)
        self.name, self.secret, self.redis_epoch = f"w{number}", stack.secret, 100 + number
        self.prefix, self.processes = f"{self.name}", []
        self.env = {**stack.env, "GIFTFLOW_MYSQL_DB": f"giftflow_{self.name}", "GIFTFLOW_INGEST_URL": ""}
        own = {**SETTINGS, "KAFKA_PREFIX": self.prefix, "MYSQL_DATABASE": self.env["GIFTFLOW_MYSQL_DB"], "REDIS_EPOCH": str(self.redis_epoch), "SETTLE_GROUP": f"{self.name}-settle"}
        keep = {name: value for name, value in os.environ.items() if not name.startswith("GIFTFLOW_")}
        self.environ = {**SANITIZERS, **keep, **{f"GIFTFLOW_{name}": value for name, value in own.items()}}
        self.credits, self.accepted, self.old, self.rich = {}, [], [], []

    def open(self):
        """Topics, tables, catalogue, three rich users, one ingest."""
        with _one_init:
            init = self.spawn("init", MYSQL_READ_TIMEOUT="120s")
            assert init.child.wait(240) == 0, init.log()
        for gift_id, (price, share, most) in GIFTS.items():
            self.sql("INSERT INTO gift (gift_id, name, cover_url, effect_url, max_quantity, status, ver, updated_ms) VALUES (%s, 'gift', '', '', %s, 1, 1, 0)", gift_id, most)
            self.sql("INSERT INTO gift_price VALUES (%s, 0, 9223372036854775807, %s, %s)", gift_id, price, share)
        self.rich = [self.new_id() for _ in range(RICH)]
        self.old = [self.gift_command(user) for user in self.rich]
        self.produce_many([self.credit(user, COINS) for user in self.rich] + [(str(command["user_id"]), command) for command in self.old])
        first = self.spawn("settle")
        self.drain()
        first.terminate()
        self.ingest = self.spawn("ingest")
        first.ended()
        self.env["GIFTFLOW_INGEST_URL"] = self.ingest.address("api_started")
        wait_until(self.ingest.is_ready, 60, "ingest")
        return self

    def close(self):
        for process in self.processes:
            process.kill()
        self.close_db()

    def spawn(self, role, point=None, **settings):
        self.processes.append(Process(self, role, point, **settings))
        return self.processes[-1]

    # -- the world's own topics, whatever they are called elsewhere

    def _topic(self, topic):
        return topic.replace("giftflow.", f"{self.prefix}.", 1)

    def produce_many(self, records, topic="giftflow.commands"):
        """(key, object or text) pairs, in order."""
        return super().produce_many(records, self._topic(topic))

    def produce(self, key, value, partition=None, headers=None, topic="giftflow.commands"):
        return super().produce(key, value, partition, headers, self._topic(topic))

    def records(self, topic):
        return super().records(self._topic(topic))

    def end_offsets(self, topic="giftflow.commands"):
        return super().end_offsets(self._topic(topic))

    def progress(self):
        return self.sql("SELECT * FROM progress WHERE live = 1")[0]

    def drain(self, deadline=90):
        end = self.end_offsets()[0]
        wait_until(lambda: self.progress()["next_offset"] >= end, deadline, f"{self.name}: all {end} commands settled")

    # -- what is sent

    def credit(self, user, coins):
        """A row of `credit`, and the record that names it."""
        credit_id = uuid8()
        self.credits[credit_id] = (user, ADJUST, coins)
        self.sql(
            "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms) VALUES (%s, %s, %s, %s, 'test', 'test', 1, 1)",
            uuid.UUID(credit_id).bytes, ADJUST, user, coins,
        )  # fmt: skip
        return str(user), {"v": 1, "type": "credit", "request_id": credit_id, "user_id": user, "kind": "adjust", "ts": 1}

    def send_gifts(self, count):
        """By HTTP: with holds in Redis. Returns the commands, as they stand in the topic."""
        commands = []
        for i in range(count):
            command = self.gift_command(self.rich[i % RICH], quantity=1 + i % 3)
            self.post(command)
            commands.append(command)
        return commands

    def post(self, command, url=None):
        """One gift by HTTP, until it is accepted: a client that does not give up."""
        body = {"room_id": command["room_id"], "receiver_id": command["receiver_id"], "gift_id": command["gift_id"], "quantity": command["quantity"], "type": 0}

        def accepted():
            status, headers, answer = self.http("POST", "/v1/gifts", body, {"Idempotency-Key": command["request_id"]}, user=command["user_id"], base=url)
            assert status in (202, 409, 429, 503), answer
            return headers if status == 202 else None

        headers = wait_until(accepted, 60, "a 202", every=0.2)
        self.accepted.append((command["request_id"], command["user_id"]))
        return headers

    def send_mixed(self):
        """About 20 records of every fate, one batch most likely: settled, rejected, repeated (in the batch, from long ago), credited, buried."""
        sent = self.send_gifts(5)
        wait_until(lambda: self.post(sent[0]).get("idempotency-replayed") == "true", 60, "a replay")
        new, stranger, rich = self.new_id(), self.new_id(), self.rich[0]
        odd = [
            self.gift_command(rich, price=91), self.gift_command(rich, receiver_id=rich), self.gift_command(stranger), sent[1], self.old[0], {**sent[2], "quantity": 9},
            self.gift_command(rich, v=2), {**self.gift_command(rich), "room_id": 0},
        ]  # fmt: skip
        records = [self.credit(new, 500), self.credit(rich, -(10**12))]
        records += [(str(command["user_id"]), command) for command in odd]
        records += [(str(new), self.gift_command(new)), (str(new), self.gift_command(new, quantity=50)), (str(rich), "gift!")]
        self.produce_many(records)

    # -- proof

    def rules(self):
        """What the model has to know beside the records."""
        return GIFTS, self.credits

    def judge(self):
        return oracle.judge(self, *self.rules(), self.accepted)

    def cut_transaction(self):
        """Ends the connection that has a transaction open: the server rolls it back."""
        find = "SELECT p.id FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id WHERE p.db = %s AND t.trx_rows_modified > 0"
        with self.connect_db("root") as root, root.cursor() as cursor:

            def look():
                cursor.execute(find, (self.env["GIFTFLOW_MYSQL_DB"],))
                return cursor.fetchall()

            # innodb_trx is a copy that the server renews only when nobody has read it for 0.1 s; other worlds read it too
            connections = wait_until(look, 60, "an open transaction that has written", every=0.5)
            assert len(connections) == 1, connections
            cursor.execute("KILL %s", (connections[0]["id"],))

    def incomes_are_rolled_up(self):
        left = "SELECT COUNT(*) n FROM rollup r JOIN progress p ON p.log = r.log WHERE r.rolled_offset < p.next_offset"
        wait_until(lambda: self.sql(left)[0]["n"] == 0, 60, "everything is rolled up")
        want = self.sql("SELECT receiver_id, SUM(host_coins) host, SUM(-amount) gross, COUNT(*) n FROM trade WHERE kind = 1 AND outcome = 0 GROUP BY receiver_id ORDER BY receiver_id")
        got = self.sql("SELECT receiver_id, total_host host, total_gross gross, balance FROM income_account ORDER BY receiver_id")
        assert [(row["receiver_id"], row["host"], row["gross"], row["host"]) for row in want] == [(row["receiver_id"], row["host"], row["gross"], row["balance"]) for row in got]
