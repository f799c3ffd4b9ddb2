# SPDX-License-Identifier: Apache-2.0
"""A second opinion on settlement: what every record of the commands topic must become, told from the written rules alone. It shares no
code with the program, sees one record at a time in offset order, knows neither batches nor transactions, and keeps all numbers as Python's.
Where a rule leaves the answer to the batch's borders (they are settlement's own business), the expectation is a set."""

import json
import re
import uuid
from dataclasses import dataclass, field

ID_MAX = 2**53 - 1
KINDS = {"gift": 1, "recharge": 2, "adjust": 3, "gift_refund": 4, "chargeback": 5}
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
GIFT_FIELDS = {"v", "type", "request_id", "user_id", "receiver_id", "room_id", "gift_id", "price", "quantity", "gift_type", "ts"}
CREDIT_FIELDS = {"v", "type", "request_id", "user_id", "kind", "ts"}
RANGES = {"user_id": (1, ID_MAX), "receiver_id": (1, ID_MAX), "room_id": (1, ID_MAX), "gift_id": (1, 2**31 - 1), "price": (-(2**63), 2**63 - 1),
          "quantity": (-(2**31), 2**31 - 1), "gift_type": (0, 127), "ts": (0, ID_MAX)}  # fmt: skip


def is_id(text):
    return isinstance(text, str) and UUID.fullmatch(text) is not None and uuid.UUID(text).int != 0


def murmur2(key):
    """Java's default partitioner, written from its description: 32-bit MurmurHash2, seed 0x9747b28c."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(key)
    whole = len(key) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if tail := key[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition_of(key, partitions):
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


@dataclass
class Wallet:
    balance: int = 0
    debt: int = 0
    ver: int = 1
    frozen: bool = False
    exists: bool = True
    recharged: int = 0
    spent: int = 0


@dataclass
class Row:
    """An expected trade row; `outcomes` holds one name, or those among which only the batch's borders decide."""

    outcomes: set
    user: int
    request_id: str
    kind: int
    amount: int = 0
    debt_delta: int = 0
    host: int = 0
    receiver: int = None  # of settled gifts
    balance_after: int = None  # of settled rows
    seq: int = None


@dataclass
class Model:
    partitions: int
    gifts: dict  # id -> (price, share_bp, max_quantity)
    credits: dict  # credit id -> (user, kind number, coins)
    wallets: dict = field(default_factory=dict)
    rows: dict = field(default_factory=dict)  # (partition, offset) -> Row
    dead: dict = field(default_factory=dict)  # (partition, offset) -> set of reasons; None among them: a plain repeat will do, too
    repeats: set = field(default_factory=set)  # (partition, offset) of records that leave nothing
    _seen: dict = field(default_factory=dict)  # (request id, user) -> content
    _used: set = field(default_factory=set)  # credits that are settled or refused
    _doubted: set = field(default_factory=set)  # credit records that were not believed

    def consume(self, partition, offset, key, value):
        at = (partition, offset)
        reason, command = self._read(partition, key, value)
        if reason:
            self._bury(at, reason, command)
        elif command["type"] == "gift":
            self._repeat(at, command) or self._gift(at, command)
        else:
            self._credit(at, command)

    def income(self):
        """What each receiver's account must come to: {receiver: (gross, host)}."""
        sums = {}
        for row in self.rows.values():
            if row.receiver is not None:
                gross, host = sums.get(row.receiver, (0, 0))
                sums[row.receiver] = (gross - row.amount, host + row.host)
        return sums

    # -- shape

    def _read(self, partition, key, value):
        if not value:
            return "empty_record", None
        try:
            pairs = json.loads(value, object_pairs_hook=list)
            assert isinstance(pairs, list) and value.lstrip().startswith("{")
        except (ValueError, AssertionError):
            return "not_json", None
        command = dict(pairs)
        names = [name for name, _ in pairs]
        reason = self._shape(command, {name for name in names if names.count(name) > 1})
        if not reason and key != str(command["user_id"]):
            reason = "foreign_key"
        if not reason and partition_of(key, self.partitions) != partition:
            reason = "foreign_partition"
        return reason, command

    @staticmethod
    def _shape(command, doubled):
        if "v" in doubled or command.get("v") != 1 or isinstance(command.get("v"), bool):
            return "unknown_version"
        if "type" in doubled or command.get("type") not in ("gift", "credit"):
            return "unknown_type"
        gift = command["type"] == "gift"
        if doubled or set(command) != (GIFT_FIELDS if gift else CREDIT_FIELDS):
            return "bad_field"
        for name, (low, high) in RANGES.items():
            number = command.get(name, low)
            if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
                return "bad_field"
        if not gift and command["kind"] not in list(KINDS)[1:]:
            return "bad_field"
        if not is_id(command["request_id"]):
            return "bad_field"
        return "bad_request_id" if (command["request_id"][14] == "8") == gift else None

    # -- judgement

    def _bury(self, at, reason, command):
        """A dead letter; where sender and id can be read and the id is new and a client's, with an outcome."""
        self.dead[at] = {reason}
        request_id, user = (command or {}).get("request_id"), (command or {}).get("user_id")
        if not (is_id(request_id) and isinstance(user, int) and 1 <= user <= ID_MAX):
            return
        pair = (request_id.lower(), user)
        if request_id[14] == "8" or pair in self._seen:
            return
        self._seen[pair] = ("dead", at)
        self.rows[at] = Row({"internal_error"}, user, pair[0], 1)

    def _repeat(self, at, command):
        pair = (command["request_id"].lower(), command["user_id"])
        content = tuple(command[name] for name in ("room_id", "receiver_id", "gift_id", "quantity", "gift_type"))
        if pair not in self._seen:
            self._seen[pair] = content
            return False
        if self._seen[pair] == content:
            self.repeats.add(at)
        else:
            self.dead[at] = {"id_reused"}
        return True

    def _gift(self, at, command):
        wallet = self.wallets.get(command["user_id"], Wallet(exists=False))
        row = self.rows[at] = Row(set(), command["user_id"], command["request_id"].lower(), 1)
        row.outcomes = {self._judge_gift(command, wallet)}
        if row.outcomes == {"wallet_not_found"}:  # a credit of the same batch, behind it, has opened the wallet before
            row.outcomes.add("insufficient_balance")
        if row.outcomes == {"settled"}:
            paid = command["price"] * command["quantity"]
            wallet.spent += paid
            self._move(row, wallet, -paid, 0)
            row.host = paid * self.gifts[command["gift_id"]][1] // 10000
            row.receiver = command["receiver_id"]

    def _judge_gift(self, command, wallet):
        if command["gift_id"] not in self.gifts:
            return "gift_not_found"
        price, _, most = self.gifts[command["gift_id"]]
        if command["price"] != price:
            return "price_mismatch"
        if not 1 <= command["quantity"] <= min(most, 9999):
            return "quantity_out_of_range"
        if price * command["quantity"] > ID_MAX:
            return "amount_out_of_range"
        if command["user_id"] == command["receiver_id"]:
            return "self_gift"
        if not wallet.exists:
            return "wallet_not_found"
        if wallet.frozen:
            return "wallet_frozen"
        return "settled" if wallet.balance >= price * command["quantity"] else "insufficient_balance"

    def _credit(self, at, command):
        credit_id, user, kind = command["request_id"].lower(), command["user_id"], KINDS[command["kind"]]
        row = self.credits.get(credit_id)
        if row is None or row[:2] != (user, kind):
            again = (credit_id, user, kind) in self._doubted  # in one batch with the first it is a repeat
            self._doubted.add((credit_id, user, kind))
            self.dead[at] = {"no_credit" if row is None else "bad_credit"} | ({None} if again else set())
        elif credit_id in self._used:
            self.repeats.add(at)
        else:
            self._used.add(credit_id)
            self._apply(at, credit_id, user, kind, row[2])

    def _apply(self, at, credit_id, user, kind, coins):
        wallet = self.wallets.setdefault(user, Wallet())
        row = self.rows[at] = Row({"settled"}, user, credit_id, kind)
        if kind == KINDS["chargeback"]:
            taken = min(coins, wallet.balance)
            self._move(row, wallet, -taken, coins - taken)
            wallet.frozen = True
        elif coins > 0:
            repaid = min(coins, wallet.debt)
            wallet.recharged += coins if kind == KINDS["recharge"] else 0
            self._move(row, wallet, coins - repaid, -repaid)
        elif wallet.frozen:
            row.outcomes = {"wallet_frozen"}
        elif wallet.balance + coins < 0:
            row.outcomes = {"insufficient_balance"}
        else:
            self._move(row, wallet, coins, 0)

    @staticmethod
    def _move(row, wallet, coins, debt):
        wallet.balance += coins
        wallet.debt += debt
        wallet.ver += 1
        assert 0 <= wallet.balance <= ID_MAX and 0 <= wallet.debt, "the model itself is broken"
        row.amount, row.debt_delta, row.balance_after, row.seq = coins, debt, wallet.balance, wallet.ver
