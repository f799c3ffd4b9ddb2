# SPDX-License-Identifier: Apache-2.0
"""Router and gateway on a real stack: who may enter a live room, which frame reaches whom, and what a kill leaves behind.

One stack with two routers and two gateways serves the whole file; the tests that kill come last and put back what they took.
Where a test needs a frame that settlement would not make, it writes the notice itself."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from conftest import running
from stack import Stack, jwt, wait_until
from ws_client import BINARY, PING, Closed, HandshakeError, WsClient

NOTICES = "giftflow.notices"
# A client that the test does not read for a while is not silent, and a gateway that the machine holds up is not late: both would make repeats.
PATIENT = {"gateway.ping": "10m", "router.ack_timeout": "30s", "redis.timeout": "30s"}
SMALL = {"gateway.queue_frames": 32, "gateway.queue_bytes": "64KiB", "gateway.message_max": "1KiB", "kafka.session_timeout": "6s", **PATIENT}
offsets = itertools.count(1_000_000)  # of trades that never were: far above the real ones


@pytest.fixture(scope="module")
def live():
    with running(Stack(roles={"router": 2, "gateway": 2}, settings=SMALL)) as stack:
        yield stack


def notice(code, room, user, **data):
    """Exactly as settlement writes it."""
    channel = "room" if code == 5556 else "user"
    value = {"id": f"900-{next(offsets)}:{code}", "ch": channel, "code": code, "room_id": room, "user_id": user, "data": data or {"x": 1}}
    return f"r:{room}" if channel == "room" else f"u:{user}", json.dumps(value, separators=(",", ":"))


def publish(stack, *records):
    lines = "".join(f"{key}\t{value}\n" for key, value in records)
    stack._kcat("-P", "-t", NOTICES, "-X", "partitioner=murmur2_random", "-X", "acks=all", "-K", "\t", input=lines.encode())


def id_of(record):
    return json.loads(record[1])["id"]


def known(stack, *visits):
    """Until the routers know that these clients are in these rooms: (client, room). Joins and notices travel different ways, and what a
    busy machine routes before the join is not for the client. All that came to a client until then is dropped."""

    def reached():
        probes = {room: notice(5556, room, 1, probe=True) for _, room in visits}
        publish(stack, *probes.values())
        try:
            for client, room in visits:
                client.wait_frame(lambda f: f.get("id") == id_of(probes[room]), timeout=5)
        except TimeoutError:
            return False
        return True

    wait_until(reached, 120, "the routers know the clients")


def news(client, timeout=60, but=None):
    """The next frame that is no probe of `known`, no repeat and not of this code. On a starved machine a router loses its place in the group, and
    who follows it routes again what was not committed: also what no client was there for the first time."""
    return client.wait_frame(lambda f: not client.repeated and "probe" not in f.get("data", {}) and f["code"] != but, timeout)


def gateway_total(stack, series):
    return sum(stack.metrics(f"gateway-{n}")[series] for n in (1, 2))


def refused(stack, query="room=1001", user=1, path="/v1/live", **more):
    with pytest.raises(HandshakeError) as caught:
        WsClient(f"{stack.gateway_url()}{path}?{query}", **{"token": stack.token(user), **more})
    return caught.value


def code_of(error):
    return json.loads(error.body)["code"]


# -- who may enter


@pytest.mark.parametrize("query", ["", "room=", "room=0", "room=-1", "room=01", "room=9007199254740992", "room=abc", "room=1&since=x", "room=1&user_since=-1"])
def test_a_bad_room_or_resume_point_is_400(live, query):
    error = refused(live, query)
    assert error.status == 400 and code_of(error) == "malformed", error


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Upgrade": None}, 426),
        ({"Connection": "keep-alive"}, 426),
        ({"Upgrade": "h2c"}, 400),
    ],
)
def test_a_bad_handshake_is_refused(live, headers, status):
    error = refused(live, headers=headers)
    assert error.status == status and code_of(error) == "bad_handshake", error
    if status == 426:
        assert error.headers["sec-websocket-version"] == "13"


def test_other_paths_are_404(live):
    assert refused(live, path="/v1/other").status == 404


def test_a_bad_token_is_401(live):
    now = int(time.time())
    good = {"sub": "7", "exp": now + 600}
    forged = {
        "garbage": "garbage",
        "expired": live.token(7, ttl=-60),
        "wrong key": jwt(good, b"x" * 32),
        "alg none": jwt(good, live.secret, header={"alg": "none"}).rsplit(".", 1)[0] + ".",
        "other alg": jwt(good, live.secret, header={"alg": "RS256"}),
        "no exp": jwt({"sub": "7"}, live.secret),
        "user 0": jwt({**good, "sub": "0"}, live.secret),
        "oversized": jwt({**good, "pad": "x" * 5000}, live.secret),
    }
    for name, token in forged.items():
        error = refused(live, token=token)
        assert error.status == 401 and code_of(error) == "unauthorized", (name, error)
        assert "www-authenticate" in error.headers, name
        assert token not in error.body.decode(), name
    for protocols in ([], ["giftflow.v1"], [f"bearer.{live.token(7)}"], ["giftflow.v2", f"bearer.{live.token(7)}"]):
        assert refused(live, protocols=protocols).status == 401, protocols


def test_pages_of_other_origins_may_not_enter(live):
    host = live.gateway_url().removeprefix("ws://")
    for origin in ("https://evil.example", "null", f"http://{host}.evil.example", f"http://evil.example/{host}", "", f"{host}", "http://127.0.0.1"):
        error = refused(live, headers={"Origin": origin})
        assert error.status == 403 and code_of(error) == "origin_not_allowed", (origin, error)
    for origin in (f"http://{host}", f"https://{host}", None):
        live.ws(1, headers={"Origin": origin}).close()


def test_the_answer_names_our_protocol_and_not_the_token(live):
    with live.ws(1) as client:
        assert client.protocol == "giftflow.v1"
        assert live.token(1) not in str(client.headers)


def test_each_expiring_token_closes_with_4401(live):
    for ttl in (2, 10, 60):  # a slow machine may get there after it has expired
        try:
            clients = [WsClient(f"{live.gateway_url()}/v1/live?room=5", token=live.token(3, ttl=ttl + more)) for more in (0, 3)]
            break
        except HandshakeError as late:
            assert late.status == 401
    assert [client.expect_close(timeout=120) for client in clients] == [4401, 4401]


def test_the_page_is_one_file_with_a_strict_policy(live):
    url = live.gateway_url().replace("ws://", "http://") + "/"
    with urllib.request.urlopen(url, timeout=20) as answer:
        body = answer.read().decode()
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert body.startswith("<!doctype html>") and body.rstrip().endswith("</html>")
    assert "src=" not in body and "<link" not in body  # no outside assets


# -- what a client may say


def test_json_is_ignored_also_in_fragments(live):
    with live.ws(1, room=live.new_id()) as client:
        client.send_text('{"ping":1}')
        client.send_fragmented(['{"pi', 'ng":', "2}"])
        client.send_frame(PING, b"there?")
        assert client.recv() == (0xA, b"there?")


@pytest.mark.parametrize(
    "opcode, payload, code",
    [
        (1, b"not json", 1007),
        (1, b"", 1007),
        (1, b'{"a":', 1007),
        (1, b"\xff", 1007),
        (BINARY, b"{}", 1003),
        (1, b'"' + b"x" * 2000 + b'"', 1009),
        (3, b"{}", 1002),
    ],
)
def test_anything_else_closes_with_its_code_and_is_counted(live, opcode, payload, code):
    before = gateway_total(live, "giftflow_ws_protocol_errors_total")
    client = live.ws(1, room=live.new_id())
    client.send_frame(opcode, payload)
    assert client.expect_close() == code
    wait_until(lambda: gateway_total(live, "giftflow_ws_protocol_errors_total") > before, what="it is counted")


def test_an_oversized_message_in_fragments_is_1009(live):
    client = live.ws(1, room=live.new_id())
    client.send_fragmented(['"', "x" * 600, "x" * 600, '"'])
    assert client.expect_close() == 1009


def test_an_unmasked_frame_is_1002(live):
    client = live.ws(1, room=live.new_id())
    client.send_frame(1, b"{}", mask=False)
    assert client.expect_close() == 1002


# -- which frame reaches whom


def test_a_gift_reaches_everybody_in_the_room_and_nobody_else(live):
    sender, receiver, viewer, stranger = live.new_user(1000), live.new_id(), live.new_id(), live.new_id()
    room, other = live.new_id(), live.new_id()
    inside = [live.ws(user, room, n=n) for user, n in ((sender, 1), (receiver, 2), (viewer, 1), (viewer, 2))]
    outside = live.ws(stranger, other)
    known(live, *((client, room) for client in inside), (outside, other))
    status, _, answer = live.gift(sender, room=room, receiver=receiver, gift_id=22, quantity=2)
    assert status == 202
    for client in inside:
        frame = client.wait_frame(lambda f: f["code"] == 5556)
        data = frame["data"]
        assert frame["ch"] == "room" and frame["room_id"] == room and frame["seq"] >= 1 << 40
        assert frame["id"].endswith(":5556")
        assert data["request_id"] == answer["request_id"]
        assert (data["sender_id"], data["receiver_id"], data["gift_id"], data["quantity"], data["amount"]) == (sender, receiver, 22, 2, 180)
        assert "balance" not in json.dumps(frame)
    marker = notice(5556, other, stranger)
    publish(live, marker)  # what comes first to the other room is its own frame: the gift did not
    assert news(outside)["id"] == id_of(marker)
    for client in (*inside, outside):
        client.close()


def test_a_failure_reaches_its_sender_in_that_room_alone(live):
    sender, viewer, room, other = live.new_user(1000), live.new_id(), live.new_id(), live.new_id()
    here, again, elsewhere, witness = live.ws(sender, room, n=1), live.ws(sender, room, n=2), live.ws(sender, other), live.ws(viewer, room)
    known(live, (here, room), (again, room), (elsewhere, other), (witness, room))
    command = live.gift_command(sender, room_id=room, price=91)  # not the catalogue's price: settlement rejects it
    live.produce(sender, command)
    for client in (here, again):
        frame = client.wait_frame(lambda f: f["code"] == 5557)
        assert frame["ch"] == "user" and frame["data"]["request_id"] == command["request_id"]
        assert frame["data"]["code"] == "price_mismatch" and frame["data"]["message"]
    in_room, in_other = notice(5556, room, viewer), notice(5556, other, viewer)
    publish(live, in_room, in_other)
    assert news(witness)["id"] == id_of(in_room)
    assert news(elsewhere, but=5558)["id"] == id_of(in_other)
    for client in (here, again, elsewhere, witness):
        client.close()


def test_a_credit_reaches_its_user_in_any_room(live):
    user, other = live.new_user(), live.new_id()
    rooms = [live.new_id(), live.new_id()]
    mine = [live.ws(user, rooms[0], n=1), live.ws(user, rooms[1], n=2)]
    room = live.new_id()
    theirs = live.ws(other, room)
    known(live, *zip(mine, rooms), (theirs, room))
    request_id = live.adjust(user, 500)
    for client in mine:
        frame = client.wait_frame(lambda f: f["code"] == 5558)
        assert frame["data"]["request_id"] == request_id and frame["data"]["balance_after"] == 500
    marker = notice(5556, room, other)
    publish(live, marker)
    assert news(theirs)["id"] == id_of(marker)
    for client in (*mine, theirs):
        client.close()


def test_many_frames_leave_together_in_order(live):
    room = live.new_id()
    records = [notice(5556, room, 1) for _ in range(500)]
    with live.ws(1, room) as client:
        known(live, (client, room))
        publish(live, *records)
        frames = [news(client) for _ in records]  # it checks that no array is longer than 64
    assert [f["id"] for f in frames] == [id_of(r) for r in records]
    seqs = [f["seq"] for f in frames]
    assert seqs == sorted(set(seqs))
    assert {s >> 40 for s in seqs} == {live.sql("SELECT incarnation FROM topic WHERE topic = %s", NOTICES)[0]["incarnation"]}


def test_who_resumes_is_told_that_history_is_gone(live):
    room = live.new_id()
    with live.ws(1, room, since=5, user_since=6) as client:
        assert client.recv_frame() == {"code": "history_lost", "ch": "room", "seq": 0}
        assert client.recv_frame() == {"code": "history_lost", "ch": "user", "seq": 0}
        known(live, (client, room))
        publish(live, notice(5556, room, 1))
        seq = news(client)["seq"]
        with live.ws(2, room, since=5) as second:
            assert second.recv_frame() == {"code": "history_lost", "ch": "room", "seq": seq}


def test_a_malformed_notice_stops_nobody(live):
    room = live.new_id()
    bad = sum(live.metrics(f"router-{n}")["giftflow_router_bad_notices_total"] for n in (1, 2))
    good = notice(5556, room, 1)
    with live.ws(1, room) as client:
        known(live, (client, room))
        publish(live, (f"r:{room}", "not json"), (f"r:{room}", '{"id":"1-2:5556"}'), good)
        assert news(client)["id"] == id_of(good)
    assert sum(live.metrics(f"router-{n}")["giftflow_router_bad_notices_total"] for n in (1, 2)) >= bad + 2  # read again, if the group has changed


def test_a_client_that_never_reads_is_closed_and_counted_and_others_are_not_delayed(live):
    room, user, other = live.new_id(), live.new_id(), live.new_id()
    wait_until(lambda: gateway_total(live, "giftflow_ws_connections") == 0, what="the clients of the tests before are gone")
    asleep = live.ws(user, room, receive_buffer=4096)
    awake = live.ws(other, room)
    known(live, (asleep, room), (awake, room))
    slow = gateway_total(live, "giftflow_ws_slow_closed_total")
    records = [notice(5557, room, user, pad="x" * 3000) for _ in range(400)]  # may not be dropped: 1.2 MB for the sleeper
    marker = notice(5556, room, other)
    publish(live, *records, marker)
    assert news(awake)["id"] == id_of(marker)
    wait_until(lambda: gateway_total(live, "giftflow_ws_slow_closed_total") == slow + 1, what="the sleeper is counted")
    wait_until(lambda: gateway_total(live, "giftflow_ws_connections") == 1, what="the sleeper is gone without having read")
    assert asleep.expect_close() in (4408, 1006)  # 1006: the deadline of the close handshake came first
    awake.close()


# -- what a kill leaves behind


def test_routers_killed_and_started_again_lose_nothing_and_repeat_with_the_same_id(live):
    room, user = live.new_id(), live.new_user()
    client = live.ws(user, room)
    known(live, (client, room))
    live.adjust(user, 10_000)
    client.wait_frame(lambda f: f["code"] == 5558)
    came = {}  # request id: the ids of its frames

    def send():  # 202, as soon as the rate allows it
        return wait_until(lambda: (answer := live.gift(user, room=room, gift_id=1))[0] == 202 and answer[2]["request_id"], what="202")

    def watch_for(request):
        while request not in came:
            frame = client.recv_frame(120)
            if "request_id" in frame["data"]:  # no probe
                came.setdefault(frame["data"]["request_id"], []).append(frame["id"])

    def taken():
        return sum(live.metrics(f"router-{n}")["giftflow_router_notices_total"] for n in (1, 2))

    def repeated():
        """The gateway has the gift, and no router knows that it has."""
        with live.frozen("gateway-1"):
            before, owed = taken(), send()
            wait_until(lambda: taken() > before, 60, "a router has it")
            live.kill("router-1")
            live.kill("router-2")
            during = [send() for _ in range(10)]
        live.start("router-1")
        live.start("router-2")
        watch_for(send())  # what comes to the room comes in order: behind all repeats
        assert {owed, *during} <= set(came), "lost"
        return len(came[owed]) > 1

    watch_for(send())
    wait_until(repeated, 240, "a repeat")  # at once, unless it was another notice that the router has taken
    assert all(len(set(ids)) == 1 for ids in came.values()), "a repeat has the same id"
    client.close()


def test_a_killed_gateway_is_found_again_and_clients_resume(live):
    room = live.new_id()
    client, beside = live.ws(1, room, n=1), live.ws(2, room, n=2)
    known(live, (client, room), (beside, room))
    live.kill("gateway-1")
    with pytest.raises(Closed) as end:
        client.recv()
    assert end.value.code == 1006
    marker = notice(5556, room, 1)
    publish(live, marker)
    assert news(beside)["id"] == id_of(marker)  # the other gateway does not wait for the dead one
    live.start("gateway-1")
    with live.ws(1, room, since=1, n=1) as again:
        assert again.recv_frame()["code"] == "history_lost"
        known(live, (again, room), (beside, room))
        marker = notice(5556, room, 1)
        publish(live, marker)
        assert news(again)["id"] == id_of(marker)
        assert news(beside)["id"] == id_of(marker)
    beside.close()


def test_a_stopped_gateway_tells_its_clients_to_move(live):
    client, url = live.ws(1, live.new_id(), n=2), f"{live.gateway_url(2)}/v1/live?room=1"
    ports = dict(line.split() for line in (live.dir / "ports").read_text().splitlines())

    def announced():  # that of the gateway which was killed may be there still
        return [member for member in live.redis("ZRANGE", "gf1:gws", 0, -1).splitlines() if member.endswith(f":{ports['gateway-2.link_port']}")]

    assert len(announced()) == 1
    live.stop("gateway-2")
    assert client.expect_close() == 1012
    assert not announced()
    with pytest.raises(OSError):
        WsClient(url, token=live.token(1))
    live.start("gateway-2")


def test_a_gateway_that_drains_leaves_its_routers_before_its_clients(live):
    """What it acknowledged after that would be committed and seen by nobody."""

    def linked():
        return [live.metrics(f"router-{n}")["giftflow_router_gateways"] for n in (1, 2)]

    def left():
        """False: when it was to be frozen, the gateway had ended."""
        wait_until(lambda: linked() == [2, 2], 60, "both routers are linked to both gateways")
        client = live.ws(1, live.new_id(), n=2)
        os.kill(live.pid("gateway-2"), signal.SIGTERM)
        with pytest.raises(Closed) as end:
            client.recv()  # and does not answer, so the gateway stays a while: a frozen one does not get to anything else
        try:
            with live.frozen("gateway-2"):
                assert end.value.code == 1012
                wait_until(lambda: linked() == [1, 1], 60, "the routers know that they are left")
                return live.state("gateway-2") == "T"
        except ProcessLookupError:
            return False
        finally:
            wait_until(lambda: live.has_ended("gateway-2"), 60, "its end")
            live.start("gateway-2")

    wait_until(left, 240, "a gateway that is frozen in its drain")


def test_without_redis_frames_still_arrive_and_the_entry_comes_back(live):
    room = live.new_id()
    client = live.ws(1, room)
    known(live, (client, room))
    live.kill("redis")
    marker = notice(5556, room, 1)
    publish(live, marker)
    assert news(client)["id"] == id_of(marker)
    live.start("redis")
    wait_until(lambda: live.redis("ZCARD", "gf1:gws") == "2", 60, "both gateways announced again")
    keys = live.redis("KEYS", "gf1:gw:*").split()
    rooms = [json.loads(live.redis("GET", key))["rooms"] for key in keys]
    assert any(room in r for r in rooms), rooms
    client.close()


def test_an_announcement_that_redis_refuses_is_told(live):
    live.redis("DEL", "gf1:gws")
    live.redis("SET", "gf1:gws", "no set")
    wait_until(lambda: "event=announce_refused" in live.log_text("gateway-1") and "WRONGTYPE" in live.log_text("gateway-1"), 60, "the gateway tells")
    wait_until(lambda: "event=gateways_not_read" in live.log_text("router-1"), 60, "the router tells")
    live.redis("DEL", "gf1:gws")
    wait_until(lambda: live.redis("ZCARD", "gf1:gws") == "2", 60, "both gateways announced again")


# -- links that break; each on a stack of its own, with little patience

ALONE = {"ingest": 0, "settle": 0, "sweep": 0, "router": 1, "gateway": 1}


LONG = "15s"  # router.ack_timeout: a router that has given a link up waits as long for the new one, and a machine that is slow has the same time


def moved(stack, before, series):
    return stack.metrics("router-1")[series] > before[series]


def came(client, *records):
    """Until each of these notices was seen; repeats are what clients have to expect."""
    missing = {id_of(record) for record in records}

    def all_came():
        try:
            missing.discard(client.recv_frame(0.5).get("id"))
        except TimeoutError:
            pass
        return not missing

    wait_until(all_came, 60, "every notice on the screen")


def test_a_gateway_whose_clock_is_ahead_does_not_take_out_the_others(make_stack, tmp_path):
    stack = make_stack(roles={**ALONE, "gateway": 2}, settings={"gateway.announce": "60s", "redis.timeout": "30s"}, gifts=False)
    ahead = tmp_path / "clock"
    ahead.write_bytes((3600_000).to_bytes(8, "little"))
    stack.stop("gateway-2")
    assert stack.redis("ZCARD", "gf1:gws") == "1"
    stack.environ["GIFTFLOW_CLOCK_STEP"] = str(ahead)
    stack.start("gateway-2")  # ready: a router has found it
    assert stack.redis("ZCARD", "gf1:gws") == "2"
    ends = [float(text) for text in stack.redis("ZRANGE", "gf1:gws", 0, -1, "WITHSCORES").splitlines()[1::2]]
    assert max(ends) - min(ends) < 1800_000, ends


def test_a_router_that_has_no_partition_is_ready_and_takes_over(make_stack):
    stack = make_stack(roles={**ALONE, "router": 2}, partitions=1, settings={"gateway.ping": "10m", "kafka.session_timeout": "6s"}, gifts=False)
    room = stack.new_id()
    with stack.ws(1, room) as client:
        wait_until(lambda: stack.is_ready("router-1") and stack.is_ready("router-2"), 60, "both are ready")
        known(stack, (client, room))

        def read():
            return [stack.metrics(f"router-{n}")["giftflow_router_notices_total"] for n in (1, 2)]

        before = read()
        known(stack, (client, room))
        stack.kill("router-1" if read()[0] > before[0] else "router-2")
        record = notice(5556, room, 1)
        publish(stack, record)
        came(client, record)


@pytest.mark.parametrize("redis", [True, False], ids=["with redis", "without redis"])
def test_a_gateway_that_was_frozen_has_missed_nothing(make_stack, redis):
    stack = make_stack(roles=ALONE, settings={"gateway.ping": "10m", "router.ack_timeout": LONG}, gifts=False)
    room = stack.new_id()
    with stack.ws(1, room) as client:
        known(stack, (client, room))
        if not redis:
            stack.kill("redis")
        with stack.frozen("gateway-1"):
            before, owed, later = stack.metrics("router-1"), notice(5556, room, 1), notice(5556, room, 1)
            publish(stack, owed)
            wait_until(lambda: moved(stack, before, "giftflow_router_ack_timeouts_total"), 60, "the router gives the link up")
            publish(stack, later)
        came(client, owed, later)
    if not redis:
        stack.start("redis")


class Cable:
    """Between a router and a gateway. What the router says on connections that were there at a cut() is gone, as on a way that has broken and told
    nobody; new ones are good."""

    def __init__(self):
        self.target, self._count, self._cut = None, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        self._cut = self._count

    def _accept(self):
        while True:
            router, _ = self._listener.accept()
            try:
                gateway = socket.create_connection(self.target)
            except (OSError, TypeError):  # not there yet
                router.close()
                continue
            self._count += 1
            for carry in ((router, gateway, self._count), (gateway, router, sys.maxsize)):
                threading.Thread(target=self._carry, args=carry, daemon=True).start()

    def _carry(self, source, sink, number):
        try:
            while data := source.recv(65536):
                if number > self._cut:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def cabled(make_stack):
    cable = Cable()
    settings = {"gateway.ping": "10m", "router.ack_timeout": LONG, "gateway.link_advertise": cable.address}
    stack = make_stack(roles={**ALONE, "gateway": 0}, settings=settings, gifts=False)
    stack.start("gateway-1", wait=False)
    ports = dict(line.split() for line in (stack.dir / "ports").read_text().splitlines())
    cable.target = ("127.0.0.1", int(ports["gateway-1.link_port"]))
    wait_until(lambda: stack.is_ready("gateway-1"), 60, "the router has found the gateway")
    return stack, cable


def test_what_a_broken_link_has_lost_is_sent_again(cabled):
    stack, cable = cabled
    room = stack.new_id()
    with stack.ws(1, room) as client:
        known(stack, (client, room))
        cable.cut()
        owed = notice(5556, room, 1)
        publish(stack, owed)
        came(client, owed)


def test_a_router_that_drains_leaves_what_it_is_owed_to_the_next_one(cabled):
    stack, cable = cabled
    room = stack.new_id()
    with stack.ws(1, room) as client:
        known(stack, (client, room))
        cable.cut()
        before, owed = stack.metrics("router-1"), notice(5556, room, 1)
        publish(stack, owed)
        wait_until(lambda: moved(stack, before, "giftflow_router_notices_total"), 60, "the router has it")
        stack.stop("router-1")  # it waits for the acknowledgement, and gives it up
        stack.start("router-1")
        came(client, owed)


def test_a_router_that_starts_without_redis_drops_nothing(make_stack):
    stack = make_stack(roles=ALONE, settings={"gateway.ping": "10m", "gateway.announce": "8s", "kafka.session_timeout": "6s"}, gifts=False)
    room = stack.new_id()
    with stack.ws(1, room) as client:
        known(stack, (client, room))
        stack.kill("router-1")
        stack.kill("redis")
        stack.start("router-1", wait=False)
        record = notice(5556, room, 1)
        publish(stack, record)
        wait_until(lambda: "redis" in str(stack.http("GET", "/readyz", base=stack.ops_url("router-1"))[2]), 60, "the router waits for redis")
        time.sleep(11)  # longer than it would hold them for gateways that have to announce themselves: two seconds, and gateway.announce
        stack.start("redis")
        came(client, record)


@pytest.mark.parametrize("assigned", [False, True], ids=["kept", "assigned-anew"])
def test_seqs_rise_also_when_the_notices_topic_is_made_anew(make_stack, assigned):
    """A router that has its partitions assigned anew meanwhile sees no offset fall."""
    stack = make_stack(roles=ALONE, settings={"gateway.ping": "10m"}, gifts=False)
    room = stack.new_id()
    with stack.ws(1, room) as client:
        known(stack, (client, room))
        records = [notice(5556, room, 1) for _ in range(60)]
        publish(stack, *records)
        came(client, *records)
        stack.delete_topic(NOTICES)
        subprocess.run([stack.env["GIFTFLOW_BIN"], "init", "--config", stack.env["GIFTFLOW_CONFIG"]], check=True, timeout=120)
        if assigned:
            stack.start("router-2")
            stack.stop("router-2")
        known(stack, (client, room))  # what came before the router has found the new end is missed, as after any gap
        publish(stack, notice(5556, room, 1))
        assert news(client)["seq"] >> 40 == 2 == stack.sql("SELECT incarnation FROM topic WHERE topic = %s", NOTICES)[0]["incarnation"]


def test_a_router_on_a_backlog_reads_ahead_no_further_with_many_partitions(make_stack):
    stack = make_stack(roles={**ALONE, "gateway": 0}, partitions=32, settings={"gateway.announce": "60s"}, gifts=False)
    idle = stack.resident("router-1")
    stack.stop("router-1")
    publish(stack, *(notice(5556, room, 1, pad="x" * 3800) for room in range(1, 50_001)))
    stack.start("router-1")  # it holds what it reads until a gateway must have announced itself
    sizes = [idle]
    while len(sizes) < 6 or sizes[-1] > sizes[-5] + (1 << 20):  # it still reads
        time.sleep(1)
        sizes.append(stack.resident("router-1"))
    assert idle + (8 << 20) < max(sizes) < idle + (96 << 20)


def test_a_router_ends_though_kafka_does_not_answer(make_stack):
    """librdkafka waits at the close for the answer to each commit of offsets, for as long as the broker is silent."""
    stack = make_stack(roles=ALONE, settings={"ops.drain_timeout": "100ms"}, gifts=False)
    for routed in range(20):  # a commit is under way when the broker stops, or comes at the end
        publish(stack, notice(5556, 1, 1))
        wait_until(lambda: stack.metrics("router-1")["giftflow_router_notices_total"] > routed, 60, "the notice is routed")
    with stack.frozen("kafka"):
        os.kill(stack.pid("router-1"), signal.SIGTERM)
        wait_until(lambda: stack.has_ended("router-1"), 60, "the router has ended")
    stack.start("router-1")
