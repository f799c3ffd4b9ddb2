# SPDX-License-Identifier: Apache-2.0
"""A proxy between settle and MySQL, on a unix socket of its own, that knows one thing of the protocol: where a packet begins and ends. It
forwards everything until it is told what to do to the next COMMIT of a settling transaction, and does that once:

    lose_answer   the COMMIT is forwarded and done, its answer is swallowed, the connection is cut
    cut_before    the connection is cut on both sides; the COMMIT never reaches the server
    abandon       the client is cut, the server is left with its open transaction and hears nothing more
    hold_request  the COMMIT is kept for so many seconds and then forwarded, whether the client is still there or not
    hold_answer   the COMMIT is forwarded, its answer kept for so many seconds

Other transactions (the claim of a log, roll-ups) pass untouched. Threads: two per connection, daemons; nothing is shared but the order."""

import os
import socket
import struct
import threading
import time

QUERY = b"\x03"
SETTLING = b"INSERT INTO batch "  # a statement that only settling transactions have


class SqlProxy:
    def __init__(self, path, target):
        self.path, self.target = path, target
        self.fired = 0  # orders that were carried out
        self.commits = 0  # COMMITs of settling transactions that were seen
        self._order, self._lock = None, threading.Lock()
        self._abandoned = []
        self._listener = socket.socket(socket.AF_UNIX)
        if os.path.exists(path):
            os.unlink(path)
        self._listener.bind(path)
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()
        os.unlink(self.path)

    def order(self, action, seconds=0):
        """For the next COMMIT; returns at once. `fired` tells when it is done."""
        assert action in ("lose_answer", "cut_before", "abandon", "hold_request", "hold_answer")
        with self._lock:
            assert self._order is None, "one order at a time"
            self._order = (action, seconds)

    def _take_order(self):
        with self._lock:
            order, self._order = self._order, None
            self.commits += 1
            self.fired += order is not None
            return order or (None, 0)

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.target)
            except OSError:  # MySQL is away: so are we
                client.close()
                continue
            link = _Link(self, client, server)
            threading.Thread(target=link.upwards, daemon=True).start()
            threading.Thread(target=link.downwards, daemon=True).start()


class _Link:
    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self.swallow, self.swallowed, self.hold_s = False, threading.Event(), 0

    def cut(self, *sides):
        for side in sides or (self.client, self.server):
            try:
                side.shutdown(socket.SHUT_RDWR)  # wakes the other thread, which close() would not
            except OSError:
                pass

    def upwards(self):
        """From settle to the server, packet by packet."""
        settling = False
        reader = self.client.makefile("rb")
        try:
            while True:
                packet = _read_packet(reader)
                if packet is None:
                    break
                text = packet[4:]
                if text[:1] == QUERY and text[1:6] == b"BEGIN":
                    settling = False
                settling = settling or text[:1] == QUERY and SETTLING in text[:64]
                if settling and text == QUERY + b"COMMIT":
                    settling = False
                    if not self.commit(packet):
                        return
                else:
                    self.server.sendall(packet)
        except OSError:
            pass
        self.cut()

    def commit(self, packet):
        """False: nothing more is to be read of this connection."""
        action, seconds = self.proxy._take_order()
        if action == "cut_before":
            self.cut()
            return False
        if action == "abandon":
            self.proxy._abandoned.append(self.server)  # it stays open until the server's own deadline
            self.cut(self.client)
            return False
        if action == "hold_request":
            time.sleep(seconds)
        self.swallow = action == "lose_answer"
        self.hold_s = seconds if action == "hold_answer" else 0
        self.server.sendall(packet)
        if self.swallow:
            self.swallowed.wait(60)  # the server has answered: the COMMIT is done
            self.cut()
            return False
        return True

    def downwards(self):
        try:
            while True:
                data = self.server.recv(1 << 16)
                if not data:
                    break
                if self.swallow:
                    self.swallowed.set()
                    return
                if self.hold_s:
                    time.sleep(self.hold_s)
                    self.hold_s = 0
                self.client.sendall(data)
        except OSError:
            pass
        if self.server not in self.proxy._abandoned:
            self.cut()


def _read_packet(reader):
    """Its header included; None at the end. Packets of 16 MiB go on in the next, which does not matter here."""
    header = reader.read(4)
    if len(header) < 4:
        return None
    body = reader.read(struct.unpack("<I", header[:3] + b"\0")[0])
    return header + body
