# SPDX-License-Identifier: Apache-2.0
"""A small WebSocket client (RFC 6455) on the standard library, for tests: it can also say what a proper client never says.

One thread, blocking, every wait with a deadline. Frames from the server arrive as messages; `recv` answers pings by itself."""

import base64
import hashlib
import json
import os
import socket
import struct
import time
from urllib.parse import urlsplit

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class HandshakeError(Exception):
    """The server's answer was not 101; `status` (0: no answer), `headers` (names in lower case) and `body` say what it was."""

    def __init__(self, status, headers, body):
        super().__init__(f"handshake answered {status}: {body[:200]!r}")
        self.status, self.headers, self.body = status, headers, body


class Closed(Exception):
    """The connection ended; `code` is the close code, 1006 when there was no close frame."""

    def __init__(self, code, reason=""):
        super().__init__(f"closed {code} {reason}")
        self.code, self.reason = code, reason


class WsClient:
    def __init__(self, url, token=None, protocols=None, headers=None, timeout=60, receive_buffer=None):
        """`protocols` replaces the usual pair; `headers` replace or add; a header that is None is left out."""
        parts = urlsplit(url)
        self.pending, self.frames = b"", []
        self.seen, self.repeated = set(), False  # ids of frames; whether the one that recv_frame has given last came before
        self.kind, self.whole = None, b""  # the message of which some fragments are here
        self.auto_pong = True
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout)
        self.sock.connect((parts.hostname, parts.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if protocols is None:
            protocols = ["giftflow.v1"] + ([f"bearer.{token}"] if token else [])
        key = base64.b64encode(os.urandom(16))
        lines = {
            "Host": parts.netloc,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key.decode(),
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": ", ".join(protocols) or None,
        }
        lines.update(headers or {})
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items() if v is not None) + "\r\n"
        self.sock.sendall(request.encode())
        self._read_answer(key, timeout)

    def _read_answer(self, key, timeout):
        deadline = time.monotonic() + timeout
        while b"\r\n\r\n" not in self.pending:
            if not self._fill(deadline):
                raise HandshakeError(0, {}, self.pending)
        head, self.pending = self.pending.split(b"\r\n\r\n", 1)
        first, *rest = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        self.headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}
        if status != 101:
            length = int(self.headers.get("content-length", 0))
            while len(self.pending) < length and self._fill(deadline):
                pass
            self.sock.close()
            raise HandshakeError(status, self.headers, self.pending)
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        assert self.headers.get("sec-websocket-accept") == accept, self.headers
        self.protocol = self.headers.get("sec-websocket-protocol")

    def _fill(self, deadline):
        """Reads some bytes; False at the end of the connection; TimeoutError at the deadline."""
        self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            return False
        self.pending += data
        return bool(data)


    # -- what a client sends

    def send_raw(self, data):
        self.sock.sendall(data)

    def send_frame(self, opcode, payload=b"", fin=True, mask=True, rsv=0):
        head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
        bit = 0x80 if mask else 0
        if len(payload) < 126:
            head += bytes([bit | len(payload)])
        elif len(payload) < 65536:
            head += bytes([bit | 126]) + struct.pack(">H", len(payload))
        else:
            head += bytes([bit | 127]) + struct.pack(">Q", len(payload))
        if mask:
            key = os.urandom(4)
            payload = bytes(b ^ key[i & 3] for i, b in enumerate(payload))
            head += key
        self.send_raw(head + payload)

    def send_text(self, text):
        self.send_frame(TEXT, text.encode() if isinstance(text, str) else text)

    def send_fragmented(self, parts):
        for i, part in enumerate(parts):
            self.send_frame(CONTINUATION if i else TEXT, part.encode(), fin=i == len(parts) - 1)

    def ping(self, payload=b"are you there"):
        self.send_frame(PING, payload)

    # -- what comes back

    def _recv_frame(self, deadline):
        while True:  # an interrupted read leaves self.pending as it was, so the next call goes on from there
            whole = self._parse()
            if whole:
                return whole
            if not self._fill(deadline):
                raise Closed(1006)

    def _parse(self):
        data = self.pending
        if len(data) < 2:
            return None
        assert not data[1] & 0x80, "a server must not mask"
        size, at = data[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(data) < 2 + width:
                return None
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        if len(data) < at + size:
            return None
        self.pending = data[at + size :]
        return bool(data[0] & 0x80), data[0] & 0x0F, data[at : at + size]

    def recv(self, timeout=60):
        """The next message: (opcode, payload). Pongs are returned too. Raises Closed, or TimeoutError at the deadline."""
        deadline = time.monotonic() + timeout
        while True:
            fin, opcode, payload = self._recv_frame(deadline)
            if opcode == CLOSE:
                code = struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005
                raise Closed(code, payload[2:].decode("utf-8", "replace"))
            if opcode == PING:
                if self.auto_pong:
                    self.send_frame(PONG, payload)
                continue
            if opcode == PONG:
                return opcode, payload
            if opcode != CONTINUATION:
                self.kind, self.whole = opcode, b""
            self.whole += payload
            if fin:
                return self.kind, self.whole

    def recv_frame(self, timeout=60):
        """The next giftflow frame, of a message that holds one frame or an array of them."""
        deadline = time.monotonic() + timeout
        while not self.frames:
            kind, payload = self.recv(max(deadline - time.monotonic(), 0.001))
            if kind == PONG:
                continue
            assert kind == TEXT, kind
            value = json.loads(payload.decode("utf-8"))
            assert not isinstance(value, list) or 1 <= len(value) <= 64, "an array holds 1 to 64 frames"
            self.frames += value if isinstance(value, list) else [value]
        frame = self.frames.pop(0)
        self.repeated = frame.get("id") in self.seen
        self.seen |= {frame["id"]} if "id" in frame else set()
        return frame

    def wait_frame(self, wanted, timeout=60):
        """The first frame for which wanted(frame) is true; those before it are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            frame = self.recv_frame(max(deadline - time.monotonic(), 0.001))
            if wanted(frame):
                return frame

    def collect(self, seconds):
        """All frames that arrive within so many seconds."""
        deadline, seen = time.monotonic() + seconds, []
        try:
            while True:
                seen.append(self.recv_frame(max(deadline - time.monotonic(), 0.001)))
        except TimeoutError:
            return seen

    def expect_close(self, timeout=60):
        """Reads until the connection ends and returns the close code."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                self.recv(max(deadline - time.monotonic(), 0.001))
        except Closed as end:
            return end.code

    def close(self, code=1000):
        try:
            self.send_frame(CLOSE, struct.pack(">H", code))
        except OSError:
            pass
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
