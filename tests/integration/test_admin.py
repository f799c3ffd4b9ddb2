# SPDX-License-Identifier: Apache-2.0
"""Gifts and wallets through the admin API, as the rest of the system sees them; statements by cursor."""

import concurrent.futures
import contextlib
import json
import string
import time

from stack import uuid7, wait_until
from test_faults import Foreign


def offers(stack, n):
    status, _, body = stack.http("GET", "/v1/gifts", user=1, base=stack.ingest_url(n))
    assert status == 200, body
    return {gift["gift_id"]: gift["price"] for gift in body["gifts"]}


def test_a_change_reaches_every_ingest(stack):
    """New, dearer, off the shelf, back: in both processes, and the topic tells everybody else."""
    gift_id, user = stack.new_id(), stack.new_user(1_000_000)

    def sells(n):
        return stack.gift(user, gift_id=gift_id, n=n)[0] == 202

    def has_none(n):
        return stack.gift(user, gift_id=gift_id, n=n)[2].get("code") == "gift_not_found"

    assert stack.gift(user, gift_id=gift_id, n=1)[2]["code"] == "gift_not_found"  # now the ids are cached as unknown
    assert stack.gift(user, gift_id=gift_id, n=2)[2]["code"] == "gift_not_found"
    assert stack.admin("POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": "new", "price": 3})[0] == 201
    for n in (1, 2):
        wait_until(lambda: sells(n), what=f"ingest {n} sells the new gift")
        assert offers(stack, n)[gift_id] == 3
    assert stack.admin("PUT", f"/admin/v1/gifts/{gift_id}", {"price": 4}, n=2)[0] == 200
    for n in (1, 2):
        wait_until(lambda: stack.gift(user, gift_id=gift_id, n=n)[2].get("price") == 4, what="the new price")
    assert stack.admin("PUT", f"/admin/v1/gifts/{gift_id}", {"status": 2})[0] == 200
    for n in (1, 2):
        wait_until(lambda: has_none(n), what="off the shelf")
        assert gift_id not in offers(stack, n)
    assert stack.admin("PUT", f"/admin/v1/gifts/{gift_id}", {"status": 1}, n=2)[0] == 200
    for n in (1, 2):
        wait_until(lambda: sells(n), what="back on the shelf")

    def versions():
        told = [json.loads(record["payload"]) for record in stack.records("giftflow.catalogue")]
        return [record["ver"] for record in told if record["gift_id"] == gift_id]

    wait_until(lambda: len(versions()) == 4, what="a record of each change")  # they leave behind the answers
    assert versions() == sorted(set(versions()))


def test_price_intervals_never_overlap(stack):
    gift_id = stack.new_id()
    stack.admin("POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": "x", "price": 1})
    for change in ({"price": 2}, {"price": 3}, {"price": 3}, {"share_bp": 1}, {"status": 2}, {"status": 1}, {"price": 9, "status": 1}):
        status, _, answer = stack.admin("PUT", f"/admin/v1/gifts/{gift_id}", change)
        assert status == 200, answer
        prices = list(reversed(answer["prices"]))
        for earlier, later in zip(prices, prices[1:]):
            assert earlier["valid_to_ms"] is not None and earlier["valid_to_ms"] <= later["valid_from_ms"]
        assert (prices[-1]["valid_to_ms"] is None) == (answer["status"] == 1)


def test_a_price_that_has_begun_is_not_taken_for_one_that_never_did(stack):
    """The gift goes off the shelf, which has to wait for another change of the catalogue; meanwhile a new price begins, and may be paid."""
    gift_id = stack.new_id()
    assert stack.admin("POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": "x", "price": 1})[0] == 201
    new = stack.admin("PUT", f"/admin/v1/gifts/{gift_id}", {"price": 2})[2]["prices"][0]
    assert new["price"] == 2
    with contextlib.closing(stack.connect_db()) as other, concurrent.futures.ThreadPoolExecutor() as pool:
        other.begin()
        with other.cursor() as cursor:
            cursor.execute("SELECT MAX(ver) FROM gift FOR UPDATE")
        put = pool.submit(stack.admin, "PUT", f"/admin/v1/gifts/{gift_id}", {"status": 2})
        wait_until(lambda: put.done() or time.time() * 1000 > new["valid_from_ms"] + 100, what="the price has begun")
        assert not put.done()
        other.rollback()
        status, _, answer = put.result()
    assert status == 200, answer
    begun = [price for price in answer["prices"] if price["valid_from_ms"] == new["valid_from_ms"]]
    assert begun and begun[0]["valid_to_ms"] > new["valid_from_ms"], answer


def test_a_price_that_is_about_to_begin_is_not_taken_from_who_pays_it(stack):
    """Off the shelf just before a new price begins: a process that has not heard of it will sell at that price, and settlement takes it."""
    gift_id, user, never = stack.new_id(), stack.new_user(1000), int(time.time() * 1000) + 3_600_000
    assert stack.admin("POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": "x", "price": 1})[0] == 201
    new = stack.admin("PUT", f"/admin/v1/gifts/{gift_id}", {"price": 2})[2]["prices"][0]
    stack.sql("UPDATE gift_price SET valid_to_ms = %s WHERE gift_id = %s AND valid_to_ms > %s", never, gift_id, never)
    stack.sql("INSERT INTO gift_price (gift_id, valid_from_ms, valid_to_ms, price, share_bp) VALUES (%s, %s, %s, 3, 0)", gift_id, never, 2**63 - 1)
    for _ in range(2):  # once more changes nothing
        status, _, answer = stack.admin("PUT", f"/admin/v1/gifts/{gift_id}", {"status": 2})
        assert status == 200 and [price["price"] for price in answer["prices"]] == [2, 1], answer
        about, old = answer["prices"]
        assert new["valid_from_ms"] == about["valid_from_ms"] < about["valid_to_ms"] <= max(about["valid_from_ms"] + 1, answer["updated_ms"])
        assert old["valid_to_ms"] <= about["valid_from_ms"]
    command = stack.gift_command(user, gift_id=gift_id, price=2)
    stack.produce(str(user), command)
    assert stack.outcome(user, command["request_id"])["status"] == "settled"
    answer = stack.admin("PUT", f"/admin/v1/gifts/{gift_id}", {"status": 1})[2]
    assert answer["prices"][0]["valid_from_ms"] >= about["valid_to_ms"] and answer["prices"][0]["price"] == 2


def test_freeze_stops_what_is_queued_and_unfreeze_lets_go(stack):
    user = stack.new_user(1000)
    with Foreign(stack) as foreign:
        foreign.run("SELECT * FROM progress FOR UPDATE")  # settlement waits
        status, _, queued = stack.gift(user)
        assert status == 202
        debit, credit = stack.adjust(user, -1), stack.adjust(user, 5)
        assert stack.admin("POST", f"/admin/v1/wallets/{user}/freeze")[2]["status"] == "frozen"
        assert stack.gift(user)[2]["code"] == "wallet_frozen"  # Redis knows at once
        assert stack.balance(user) == 1000
    assert stack.outcome(user, queued["request_id"])["code"] == "wallet_frozen"
    wait_until(lambda: stack.admin("GET", f"/admin/v1/requests/{user}/{debit}")[2].get("code") == "wallet_frozen", what="the refused debit")
    wait_until(lambda: stack.admin("GET", f"/admin/v1/requests/{user}/{credit}")[2].get("status") == "settled", what="the credit, which passes")
    assert stack.balance(user) == 1005
    assert stack.admin("POST", f"/admin/v1/wallets/{user}/unfreeze")[2]["status"] == "normal"
    status, _, answer = stack.gift(user)
    assert status == 202 and stack.outcome(user, answer["request_id"])["balance_after"] == 915


def test_an_adjustment_is_made_once(stack):
    user, key = stack.new_id(), uuid7()
    ids = {stack.adjust(user, 70, key=key) for _ in range(5)}
    assert len(ids) == 1
    stack.drain()
    assert stack.adjust(user, 70, key=key) in ids  # a repeat after it was settled
    stack.drain()
    assert stack.balance(user) == 70
    rows = stack.sql("SELECT status, due_ms FROM credit WHERE user_id = %s", user)
    assert rows == [{"status": 2, "due_ms": None}]


def test_a_lost_adjustment_command_is_produced_again_by_sweep(stack):
    """The row is there, its command is not: as if ingest died in between."""
    user = stack.new_id()
    stack.sql(
        "INSERT INTO credit (credit_id, kind, user_id, coins, part, actor, reason, status, created_ms, due_ms) VALUES (UNHEX(%s), 3, %s, 55, -1, 'admin', 'lost', 1, %s, %s)",
        uuid7().replace("-", "")[:12] + "8" + uuid7().replace("-", "")[13:], user, int(time.time() * 1000), int(time.time() * 1000),
    )  # fmt: skip
    wait_until(lambda: stack.balance(user) == 55, deadline=60, what="the credit")


def test_a_statement_is_read_page_by_page(stack):
    user, other = stack.new_user(1000), stack.new_user(10)
    sent = [stack.gift(user, gift_id=1, quantity=i + 1)[2]["request_id"] for i in range(7)]
    rejected = stack.gift_command(user, price=89)
    stack.produce(str(user), rejected)  # rejected: has a trade row, is not in the statement
    assert stack.outcome(user, rejected["request_id"])["code"] == "price_mismatch"
    for request_id in sent:
        stack.outcome(user, request_id)

    seen, cursor = [], ""
    while cursor is not None:
        status, _, page = stack.http("GET", f"/v1/wallet/trades?limit=3{cursor}", user=user)
        assert status == 200, page
        assert len(page["trades"]) <= 3
        seen += page["trades"]
        cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else None
        if cursor:
            assert stack.http("GET", f"/v1/wallet/trades?{cursor}", user=other)[0] == 400  # not yours
            digits = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
            respelt = cursor[:-1] + digits[digits.index(cursor[-1]) + 1]  # the same row, were its last bits not looked at
            assert stack.http("GET", f"/v1/wallet/trades?{respelt}", user=user)[0] == 400
    assert [trade["request_id"] for trade in seen[:7]] == sent[::-1]
    assert seen[7]["kind"] == "adjust" and len(seen) == 8
    balance = stack.balance(user)
    for trade in seen:
        assert trade["balance_after"] == balance
        balance -= trade["amount"]
    assert balance == 0
