# SPDX-License-Identifier: Apache-2.0
"""A private giftflow stack for tests: real Kafka, MariaDB, Redis and roles, brought up by ./dev in a directory of its own.

Nothing here sleeps for luck: `wait_until` polls a condition and fails with what it last saw."""

import base64
import contextlib
import hashlib
import hmac
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pymysql

from ws_client import WsClient

ROOT = Path(__file__).resolve().parents[2]
BUILD = os.environ.get("GIFTFLOW_BUILD", "asan")
ENGINE = os.environ.get("GIFTFLOW_ENGINE", "mariadb")  # or mysql: ./dev test --mysql
BROKERS = int(os.environ.get("GIFTFLOW_BROKERS", "1"))  # or 3: ./dev test --brokers=3; `kafka` is then all of kafka-1, kafka-2 and kafka-3
GALERA = os.environ.get("GIFTFLOW_GALERA") == "yes"  # ./dev test --galera
LOGS = ROOT / "build" / "test-logs" / "stacks"
# For tools, and for processes whose parts no test takes away: what stands still with its machine is there all the same.
PATIENT = {"mysql.connect_timeout": "60s", "mysql.read_timeout": "60s", "redis.timeout": "60s"}
PATIENT_ENV = {f"GIFTFLOW_{key.replace('.', '_').upper()}": value for key, value in PATIENT.items()}
BAD_LOG = re.compile(r"ASSERT|(Address|Leak|Thread|UndefinedBehavior)Sanitizer|runtime error:")


def wait_until(condition, deadline=60, what="condition", every=0.05):
    """Calls condition() until it is true and returns its value. `deadline` in seconds is generous: it is for a broken program, not a slow one."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline} s; last seen {value!r}")
        time.sleep(every)


def answered(call):
    """call() again while its answer is a 503 that a slow machine is reason enough for, as 503 says."""
    slow = ("does not answer", "did not confirm", "does not settle down", "cannot be read", "is behind")

    def last():
        answer = call()
        return answer if answer[0] != 503 or not any(why in answer[2]["detail"] for why in slow) else None

    return wait_until(last, 60, "an answer that is no such 503", every=0.2)



def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(claims, secret, header=None):
    """A token; `header` and `claims` may be anything, so that tests can forge."""
    head = b64url(json.dumps(header or {"alg": "HS256", "typ": "JWT"}).encode())
    body = head + "." + b64url(json.dumps(claims).encode() if isinstance(claims, dict) else claims)
    return body + "." + b64url(hmac.new(secret, body.encode(), hashlib.sha256).digest())


def _kafka_text(text):
    return struct.pack(">h", len(text)) + text.encode()


_clock = [0]


def uuid7():
    """A fresh UUIDv7, as a good client makes its keys."""
    _clock[0] = max(int(time.time() * 1000), _clock[0])
    raw = bytearray(_clock[0].to_bytes(6, "big") + os.urandom(10))
    raw[6], raw[8] = 0x70 | raw[6] & 0x0F, 0x80 | raw[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(raw)))


def process_state(pid):
    """As the kernel says: R, S ..., T for one that stands still, Z for one that has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


class Stack:
    def __init__(self, directory=None, roles=None, partitions=4, settings=None, env=None):
        """roles: {"ingest": 2, ...}, one each where not named. settings: {"settle.batch": 100}. env: for ./dev and all it starts."""
        self.dir = Path(directory or tempfile.mkdtemp(prefix="gf-"))
        self.roles, self.partitions, self.settings = roles or {}, partitions, settings or {}
        self.environ = {**os.environ, "GIFTFLOW_BUILD": BUILD, "GIFTFLOW_MYSQL_POOL": "128M", **(env or {})}
        self.env = {}
        self._ids = itertools.count(1_000_000)
        self._db = None

    # -- processes

    def dev(self, *args, timeout=400, check=True, env=None):
        """Runs ./dev on this stack; returns its standard output. env: for it alone, and what it starts."""
        command = [str(ROOT / "dev"), *map(str, args), "--dir", str(self.dir)]
        done = subprocess.run(command, env={**self.environ, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}")
        return done.stdout

    def _read_env(self):
        lines = (self.dir / "env").read_text().splitlines()
        self.env = dict(line.split("=", 1) for line in lines)

    def up(self, build=False):
        args = [f"{role}={n}" for role, n in self.roles.items()]
        for key, value in self.settings.items():
            args += ["--set", f"{key}={value}"]
        self.dev("up", *args, "--partitions", self.partitions, *([] if build else ["--no-build"]))
        self._read_env()
        self.secret = Path(self.env["GIFTFLOW_JWT_SECRET_FILE"]).read_bytes().rstrip(b"\n")
        return self

    def down(self, purge=True):
        """Stops everything and keeps a copy of the logs. A process that does not drain is an error."""
        self.close_db()
        try:
            self.dev("down")
        finally:
            if (self.dir / "log").is_dir():
                shutil.copytree(self.dir / "log", LOGS / self.dir.name, dirs_exist_ok=True)
            if purge:
                self.dev("down", "--purge", check=False)

    def start(self, name, wait=True):
        """wait=False: for a start that cannot become ready yet; it answers, though."""
        self.dev("start", name, *([] if wait else ["--no-wait"]))
        self._read_env()
        if not wait:
            wait_until(lambda: self.is_alive(name), 60, f"{name} answers")

    def kill(self, name):
        """SIGKILL, at once."""
        self.dev("kill", name)

    def stop(self, name):
        """SIGTERM, and wait until it has drained."""
        self.dev("stop", name)
        self._read_env()

    def resident(self, name):
        """Bytes."""
        with open(f"/proc/{self.pid(name)}/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))

    def pid(self, name):
        return int((Path(self.env["GIFTFLOW_PID_DIR"]) / f"{name}.pid").read_text())

    def state(self, name):
        return process_state(self.pid(name))

    def has_ended(self, name):
        """By itself, or by a signal that the test has sent."""
        try:
            return self.state(name) == "Z"
        except FileNotFoundError:  # it has left
            return True

    @contextlib.contextmanager
    def frozen(self, name):
        """SIGSTOP, and SIGCONT at the end. A server's name stands for all of its kind: three brokers, two primaries."""
        directory = Path(self.env["GIFTFLOW_PID_DIR"])
        pids = [int(path.read_text()) for pattern in (f"{name}.pid", f"{name}-[0-9].pid") for path in directory.glob(pattern)]
        assert pids, name
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def log_text(self, name):
        return (Path(self.env["GIFTFLOW_LOG_DIR"]) / f"{name}.log").read_text(errors="replace")

    def bad_log_lines(self):
        """What no role's log may hold: failed assertions and sanitizer reports."""
        found = []
        for path in sorted((self.dir / "log").glob("*-[0-9]*.log")) + [self.dir / "log" / "init.log"]:
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            for i, line in enumerate(lines):
                if BAD_LOG.search(line):
                    found.append(f"{path.name}:{i + 1}: " + "\n    ".join(lines[i : i + 25]))
                    break
        return found

    # -- addresses and tokens

    def ingest_url(self, n=1):
        return self.env["GIFTFLOW_INGEST_URL"].split(",")[n - 1]

    def admin_url(self, n=1):
        return self.env["GIFTFLOW_ADMIN_URL"].split(",")[n - 1]

    def gateway_url(self, n=1):
        return self.env["GIFTFLOW_GATEWAY_URL"].split(",")[n - 1]

    def ops_url(self, name):
        """name: settle-1; a bare role means its first."""
        urls = dict(pair.split("=", 1) for pair in self.env["GIFTFLOW_OPS_URLS"].split(","))
        return urls[name if "-" in name else f"{name}-1"]

    def token(self, user, ttl=3600, **claims):
        now = int(time.time())
        return jwt({"sub": str(user), "iat": now, "exp": now + ttl, **claims}, self.secret)

    # -- HTTP

    def http(self, method, path, body=None, headers=None, user=None, base=None, timeout=60):
        """-> (status, headers with names in lower case, parsed JSON or text). body: an object, or bytes as they are. user: sends that user's token."""
        url = urlsplit(base or self.ingest_url())
        send = {k.lower(): v for k, v in (headers or {}).items()}
        if user is not None:
            send.setdefault("authorization", f"Bearer {self.token(user)}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            send.setdefault("content-type", "application/json")
        conn = http.client.HTTPConnection(url.hostname, url.port, timeout=timeout)
        try:
            conn.request(method, path, body=body, headers=send)
            answer = conn.getresponse()
            data = answer.read()
        finally:
            conn.close()
        got = {k.lower(): v for k, v in answer.getheaders()}
        if "json" in got.get("content-type", ""):
            return answer.status, got, json.loads(data)
        return answer.status, got, data.decode("utf-8", "replace")

    def admin(self, method, path, body=None, headers=None, n=1):
        send = {"authorization": f"Bearer {self.env['GIFTFLOW_ADMIN_KEY']}", **(headers or {})}
        return self.http(method, path, body, send, base=self.admin_url(n))

    def metrics(self, name):
        """{'family{labels}': value}"""
        status, _, text = self.http("GET", "/metrics", base=self.ops_url(name))
        assert status == 200, text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {series: float(value) for series, value in lines}

    def _probe(self, name, path):
        try:
            return self.http("GET", path, base=self.ops_url(name), timeout=20)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def is_alive(self, name):
        return self._probe(name, "/healthz")

    def is_ready(self, name):
        return self._probe(name, "/readyz")

    def try_gift(self, user, room=1001, receiver=20001, gift_id=22, quantity=1, key=None, n=1):
        """POST /v1/gifts once, with a fresh key or the one given."""
        body = {"room_id": room, "receiver_id": receiver, "gift_id": gift_id, "quantity": quantity, "type": 0}
        return self.http("POST", "/v1/gifts", body, {"Idempotency-Key": key or uuid7()}, user=user, base=self.ingest_url(n))

    def gift(self, user, key=None, **more):
        """The same by a client that repeats it with its key while the answer is 503."""
        key = key or uuid7()
        return answered(lambda: self.try_gift(user, key=key, **more))

    def available(self, user):
        """As GET /v1/wallet says; None: nobody can say it now."""
        return self.http("GET", "/v1/wallet", user=user)[2].get("available")

    def outcome(self, user, request_id, deadline=60):
        """Waits for the final outcome of a request and returns the answer of GET /v1/requests/{id}."""

        def final():
            status, _, answer = self.http("GET", f"/v1/requests/{request_id}", user=user)
            return answer if status == 200 and answer["status"] != "accepted" else None

        return wait_until(final, deadline, f"outcome of {request_id}")

    def ws(self, user, room=1001, since=None, user_since=None, n=1, **more):
        query = f"room={room}" + (f"&since={since}" if since is not None else "") + (f"&user_since={user_since}" if user_since is not None else "")
        return WsClient(f"{self.gateway_url(n)}/v1/live?{query}", token=self.token(user), **more)

    # -- people and money

    def new_id(self):
        """An id that no other test uses, for a user, a room or a receiver."""
        return next(self._ids)

    def new_user(self, coins=0):
        return self.new_users(1, coins)[0]

    def new_users(self, count, coins=0):
        """Opens wallets; with coins, credits them by the normal path and waits until they are settled."""
        users = [self.new_id() for _ in range(count)]
        if coins:
            self.dev("fund", f"{users[0]}-{users[-1]}", coins)
        else:
            for user in users:
                status, _, answer = self.admin("POST", "/admin/v1/wallets", {"user_id": user})
                assert status in (200, 201), answer
        return users

    def adjust(self, user, coins, reason="test", key=None):
        """A credit (or debit) through the admin API; returns its request id."""
        body, headers = {"user_id": user, "coins": coins, "reason": reason}, {"Idempotency-Key": key or uuid7()}
        status, _, answer = answered(lambda: self.admin("POST", "/admin/v1/adjustments", body, headers))
        assert status == 202, answer
        return answer["request_id"]

    def balance(self, user):
        rows = self.sql("SELECT balance FROM wallet WHERE user_id = %s", user)
        return rows[0]["balance"] if rows else None

    # -- MySQL

    def connect_db(self, user=None):
        return pymysql.connect(
            unix_socket=self.env["GIFTFLOW_MYSQL_SOCKET"], user=user or self.env["GIFTFLOW_MYSQL_USER"], database=self.env["GIFTFLOW_MYSQL_DB"],
            charset="utf8mb4", autocommit=True, cursorclass=pymysql.cursors.DictCursor, read_timeout=60, write_timeout=60,
        )

    def close_db(self):
        if self._db:
            self._db.close()
        self._db = None

    def sql(self, query, *args):
        """Rows as dicts. One connection is kept; it is made again when the server was restarted."""
        for attempt in (1, 2):
            try:
                self._db = self._db or self.connect_db()
                with self._db.cursor() as cursor:
                    cursor.execute(query, args or None)
                    return cursor.fetchall()
            except (pymysql.OperationalError, pymysql.InterfaceError):
                self._db = None
                if attempt == 2:
                    raise

    # -- Redis and Kafka

    def redis(self, *args):
        url = urlsplit(self.env["GIFTFLOW_REDIS_URL"].split(",")[0])
        return subprocess.run(["redis-cli", "-p", str(url.port), *map(str, args)], capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def _kcat(self, *args, **kwargs):
        command = ["kcat", "-b", self.env["GIFTFLOW_KAFKA"], *map(str, args)]
        done = subprocess.run(command, capture_output=True, timeout=120, **kwargs)
        assert done.returncode == 0, (command, done.stderr.decode())
        return done.stdout

    def produce(self, key, value, partition=None, headers=None, topic="giftflow.commands"):
        """One record. value: an object, text, bytes, or None for a null value; without a partition, where Java's partitioner puts the key."""
        args = ["-P", "-t", topic, "-X", "partitioner=murmur2_random", "-X", "acks=all"]
        args += ["-p", partition] if partition is not None else []
        for name, text in (headers or {}).items():
            args += ["-H", f"{name}={text}"]
        if value in (None, "", b""):  # kcat takes an empty file for no record, but not an empty line behind a key
            assert key is not None
            return self._kcat(*args, *(["-Z"] if value is None else []), "-K", "\t", input=f"{key}\t\n".encode())
        if not isinstance(value, (bytes, str)):
            value = json.dumps(value)
        args += ["-k", key] if key is not None else []
        with tempfile.NamedTemporaryFile() as record:  # a file is one record, whatever bytes it holds
            record.write(value.encode() if isinstance(value, str) else value)
            record.flush()
            return self._kcat(*args, record.name)

    def produce_many(self, records, topic="giftflow.commands"):
        """(key, object) pairs, in order."""
        lines = "".join(f"{key}\t{json.dumps(value)}\n" for key, value in records)
        self._kcat("-P", "-t", topic, "-X", "partitioner=murmur2_random", "-X", "acks=all", "-K", "\t", input=lines.encode())

    def gift_command(self, user, **more):
        """A well-formed gift command, as another producer would write it; `more` replaces fields."""
        return {
            "v": 1, "type": "gift", "request_id": uuid7(), "user_id": user, "receiver_id": 20001, "room_id": 1001, "gift_id": 22, "price": 90,
            "quantity": 1, "gift_type": 0, "ts": int(time.time() * 1000), **more,
        }  # fmt: skip

    def records(self, topic):
        """All records of a topic: dicts with key, payload (text), partition, offset, headers."""
        out = self._kcat("-C", "-t", topic, "-o", "beginning", "-e", "-q", "-J")
        return [json.loads(line) for line in out.decode("utf-8", "replace").splitlines()]

    def _kafka_request(self, api, body, broker=None):
        """One request of the broker's own protocol, version 0 (kcat cannot administer); the answer behind its correlation id."""
        host, port = (broker or self.env["GIFTFLOW_KAFKA"].split(",")[0]).split(":")
        request = struct.pack(">hhi", api, 0, 1) + _kafka_text("test") + body
        with socket.create_connection((host, int(port)), timeout=60) as conn, conn.makefile("rb") as answers:
            conn.sendall(struct.pack(">i", len(request)) + request)
            return answers.read(struct.unpack(">i", answers.read(4))[0])[4:]

    def create_topic(self, topic, partitions, settings=()):
        """As another hand would; settings: {name: value}."""
        body = struct.pack(">i", 1) + _kafka_text(topic) + struct.pack(">ihii", partitions, BROKERS, 0, len(settings))
        body += b"".join(_kafka_text(name) + _kafka_text(value) for name, value in dict(settings).items()) + struct.pack(">i", 30000)
        assert self._kafka_request(19, body)[-2:] == b"\0\0", topic
        wait_until(lambda: len(self._partitions(topic)) == partitions, 60, f"topic {topic}")

    def add_partitions(self, topic, count):
        """Up to `count` of them: what must never be done to the commands topic."""
        body = struct.pack(">i", 1) + _kafka_text(topic) + struct.pack(">iiib", count, -1, 30000, 0)
        assert self._kafka_request(37, body)[8 + 2 + len(topic) :][:2] == b"\0\0", topic
        wait_until(lambda: len(self._partitions(topic)) == count, 60, f"partitions of {topic}")

    def delete_topic(self, topic):
        body = struct.pack(">i", 1) + _kafka_text(topic) + struct.pack(">i", 30000)
        assert self._kafka_request(20, body)[-2:] == b"\0\0", topic
        wait_until(lambda: not self._partitions(topic), 60, f"end of topic {topic}")

    def delete_records(self, topic, partition, before):
        """What retention does: the partition begins at `before` from now on."""
        body = struct.pack(">i", 1) + _kafka_text(topic) + struct.pack(">iiqi", 1, partition, before, 30000)
        assert self._kafka_request(21, body, self.leader(topic, partition))[-2:] == b"\0\0", topic

    def _partitions(self, topic):
        about = json.loads(self._kcat("-L", "-J", "-t", topic, "-X", "allow.auto.create.topics=false"))  # looking makes none
        return about["topics"][0]["partitions"] if about["topics"] else []

    def leader(self, topic, partition):
        """The address of the broker that leads this partition."""
        about = json.loads(self._kcat("-L", "-J", "-t", topic, "-X", "allow.auto.create.topics=false"))  # looking makes none
        leads = {part["partition"]: part["leader"] for part in about["topics"][0]["partitions"]}
        return {broker["id"]: broker["name"] for broker in about["brokers"]}[leads[partition]]

    def end_offsets(self, topic="giftflow.commands"):
        """{partition: end}"""

        def ask():
            try:
                count = len(self._partitions(topic))
                out = self._kcat("-Q", *itertools.chain.from_iterable(("-t", f"{topic}:{p}:-1") for p in range(count))).decode()
            except AssertionError:  # a broker that has just started leads no partition yet
                return None
            ends = {int(p): int(end) for p, end in re.findall(r"\[(\d+)\] offset (\d+)", out)}
            return ends if len(ends) == count > 0 else None

        return wait_until(ask, 60, f"end offsets of {topic}", every=0.5)

    def drain(self, deadline=90):
        """Waits until every command that is in Kafka now is settled."""
        ends = self.end_offsets()

        def settled():
            rows = self.sql("SELECT part, next_offset FROM progress WHERE live = 1 AND topic = 'giftflow.commands'")
            at = {row["part"]: row["next_offset"] for row in rows}
            return all(at.get(part, 0) >= end for part, end in ends.items())

        wait_until(settled, deadline, "all commands settled")

    # -- proof

    def verify(self, deadline=60):
        """giftflow verify must find nothing; what it says is returned. Run it when no command is on its way (see drain)."""
        done = subprocess.run(
            [self.env["GIFTFLOW_BIN"], "verify", "--config", self.env["GIFTFLOW_CONFIG"]],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline * 3, env={**self.environ, **PATIENT_ENV},
        )  # fmt: skip
        assert done.returncode == 0, f"verify ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout
