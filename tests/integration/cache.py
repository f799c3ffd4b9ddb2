# SPDX-License-Identifier: Apache-2.0
"""The balance cache as include/gf/balance.h describes it, read and written by the tests' own code: keys, values, who lives where."""
import binascii
import socket
import struct
import uuid
from urllib.parse import urlsplit

HEAD, HOLD = struct.Struct("<cBqqqqqII"), struct.Struct("<16sqq")


def ports(stack):
    return [urlsplit(url).port for url in stack.env["GIFTFLOW_REDIS_URL"].split(",")]


def shard(stack, user):
    return binascii.crc_hqx(f"u:{user}".encode(), 0) % len(ports(stack))


def wallet_key(user):
    return f"gf1:{{u:{user}}}:w2"


def marker_key(user, request_id):
    return f"gf1:{{u:{user}}}:q2:{request_id}"


def _reply(answers):
    kind, line = (head := answers.readline())[:1], head[1:-2]
    if kind == b"$":
        return None if line == b"-1" else answers.read(int(line) + 2)[:-2]
    assert kind in b"+:", head
    return int(line) if kind == b":" else line


def ask(port, commands):
    """Pipelined commands of text, bytes and numbers; strings come back as bytes."""
    sent = b""
    for command in commands:
        words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
        sent += b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as conn, conn.makefile("rb") as answers:
        conn.sendall(sent)
        return [_reply(answers) for _ in commands]


def of_user(stack, user, *command):
    return ask(ports(stack)[shard(stack, user)], [command])[0]


def unpack(value):
    """None for no value; h: what is held, holds: {request id: (amount, deadline)}."""
    if value is None:
        return None
    letter, s, b, v, f, c, h, _, _ = HEAD.unpack_from(value)
    assert letter == b"w" and (len(value) - HEAD.size) % HOLD.size == 0, value
    holds = {str(uuid.UUID(bytes=rid)): (amount, deadline) for rid, amount, deadline in HOLD.iter_unpack(value[HEAD.size :])}
    return {"s": s, "b": b, "v": v, "f": f, "c": c, "h": h, "n": len(holds), "holds": holds}


def pack(v=1, b=0, s=1, f=0, c=0, h=None, holds=()):
    """holds: {request id: (amount, deadline)}; h: their sum, unless it is given."""
    holds = dict(holds)
    h = sum(amount for amount, _ in holds.values()) if h is None else h
    return HEAD.pack(b"w", s, b, v, f, c, h, 0, 0) + b"".join(HOLD.pack(uuid.UUID(rid).bytes, *hold) for rid, hold in holds.items())


def read(stack, user):
    return unpack(of_user(stack, user, "GET", wallet_key(user)))


def write(stack, user, **fields):
    """As settlement would leave it, with other fields where they are given."""
    was = read(stack, user) or {}
    was.pop("n", None)
    if "holds" in fields:
        was.pop("h", None)
    assert of_user(stack, user, "SET", wallet_key(user), pack(**{**was, **fields}), "PX", 900000) == b"OK"


def forget(stack, user):
    return of_user(stack, user, "DEL", wallet_key(user))


def balances(stack, users):
    """{user: balance, None for those that are not cached}"""
    users, found = list(users), {}
    for at, port in enumerate(ports(stack)):
        here = [user for user in users if shard(stack, user) == at]
        values = ask(port, [("GET", wallet_key(user)) for user in here]) if here else []
        found.update({user: value and unpack(value)["b"] for user, value in zip(here, values)})
    return found
