# SPDX-License-Identifier: Apache-2.0
"""POST /v1/gifts against running parts: bad input and its codes, tokens, idempotency on several connections and processes, limits."""

import base64
import json
import threading
import time
import uuid

import pytest
import cache
from stack import answered, b64url, jwt, uuid7, wait_until

GOOD = {"room_id": 1001, "receiver_id": 20001, "gift_id": 22, "quantity": 1, "type": 0}
NIL = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def rich(stack):
    return stack.new_user(coins=1_000_000)


def post(stack, user, body, key=None, n=1, **headers):
    headers = {"Idempotency-Key": key or uuid7(), **headers}
    return answered(lambda: stack.http("POST", "/v1/gifts", body, headers, user=user, base=stack.ingest_url(n)))


def refused(answer, status, code):
    """The answer is a problem of that status and code, with all its fields."""
    got, headers, problem = answer
    assert (got, problem["code"]) == (status, code), answer
    assert headers["content-type"] == "application/problem+json"
    assert problem["status"] == status and problem["title"] and problem["detail"] and problem["type"], problem
    return problem


def trades(stack, user, key):
    return stack.sql("SELECT outcome, amount, price, quantity FROM trade WHERE user_id = %s AND request_id = %s", user, uuid.UUID(key).bytes)


def at_once(*calls):
    """Runs the calls on threads of their own, started together; returns their results in order."""
    gate, results = threading.Barrier(len(calls)), [None] * len(calls)

    def run(i):
        gate.wait()
        results[i] = calls[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# ---- shape


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"gift please",
    "cut": b'{"room_id":1001,',
    "trailing bytes": json.dumps(GOOD).encode() + b" x",
    "an array": b"[1]",
    "a number": b"7",
    "deep": b"[" * 5000,
    "duplicate key": b'{"room_id":1001,"receiver_id":20001,"gift_id":22,"quantity":1,"quantity":2,"type":0}',
    "invalid UTF-8": b'{"room_id":1001,"receiver_id":20001,"gift_id":22,"quantity":1,"type":0,"\xff\xfe":1}',
    "NUL": b'{"room_id":1001,"receiver_id":20001,"gift_id":22,"quantity":1,"type":0}\x00',
    "escaped NUL": b'{"room_id":1001,"receiver_id":20001,"gift_id":22,"quantity":1,"type\\u0000":0}',
    "beyond int64": b'{"room_id":1001,"receiver_id":20001,"gift_id":22,"quantity":99999999999999999999,"type":0}',
    "a real": b'{"room_id":1001,"receiver_id":20001,"gift_id":22,"quantity":1.0,"type":0}',
    "an exponent": b'{"room_id":1001,"receiver_id":20001,"gift_id":22,"quantity":1e0,"type":0}',
    "text for a number": json.dumps({**GOOD, "quantity": "1"}).encode(),
    "true for a number": json.dumps({**GOOD, "gift_id": True}).encode(),
    "null": json.dumps({**GOOD, "room_id": None}).encode(),
    "missing": json.dumps({k: v for k, v in GOOD.items() if k != "receiver_id"}).encode(),
    "unknown field": json.dumps({**GOOD, "user_id": 7}).encode(),
    "room 0": json.dumps({**GOOD, "room_id": 0}).encode(),
    "negative receiver": json.dumps({**GOOD, "receiver_id": -1}).encode(),
    "room beyond 2^53": json.dumps({**GOOD, "room_id": 2**53}).encode(),
    "type out of range": json.dumps({**GOOD, "type": 128}).encode(),
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_body_is_malformed(stack, rich, body):
    refused(post(stack, rich, body), 400, "malformed")
    refused(stack.http("POST", "/v1/gifts", body), 400, "malformed")  # shape comes before the token


BAD_KEYS = ["", "x", NIL, "018f6f2e7b1c7c3a9d2e0123456789ab", "018f6f2e-7b1c-7c3a-9d2e-0123456789ag", "{018f6f2e-7b1c-7c3a-9d2e-0123456789ab}",
            '"018f6f2e-7b1c-7c3a-9d2e-0123456789ab', "018f6f2e-7b1c-8c3a-9d2e-0123456789ab"]  # fmt: skip


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_bad_key_is_refused(stack, rich, key):
    answer = stack.http("POST", "/v1/gifts", GOOD, {"Idempotency-Key": key}, user=rich)
    assert "Idempotency-Key" in refused(answer, 400, "malformed")["detail"]


def test_sizes_paths_and_methods(stack, rich):
    assert post(stack, rich, b'{"x":"' + b"y" * 20000 + b'"}')[0] == 413
    assert post(stack, rich, GOOD, **{"X-Long": "y" * 20000})[0] == 431
    refused(stack.http("GET", "/v1/nothing", user=rich), 404, "not_found")
    refused(stack.http("DELETE", "/v1/gifts", user=rich), 405, "method_not_allowed")


# ---- tokens


def forged(stack, user):
    now = int(time.time())
    claims = {"sub": str(user), "exp": now + 600}
    public_looking = jwt(claims, b"x" * 64)
    none_body = b64url(json.dumps({"alg": "none"}).encode()) + "." + b64url(json.dumps(claims).encode()) + "."
    good = jwt(claims, stack.secret)
    head, payload, signature = good.split(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    raw[0] ^= 1
    return {
        "expired": jwt({**claims, "exp": now - 60}, stack.secret),
        "unsigned": none_body,
        "unsigned with a signature": none_body + signature,
        "wrong key": public_looking,
        "wrong algorithm": jwt(claims, stack.secret, {"alg": "HS512", "typ": "JWT"}),
        "RS256 with the secret": jwt(claims, stack.secret, {"alg": "RS256", "typ": "JWT"}),
        "changed signature": f"{head}.{payload}.{b64url(bytes(raw))}",
        "cut signature": good[:-4],
        "no exp": jwt({"sub": str(user)}, stack.secret),
        "exp as text": jwt({**claims, "exp": str(now + 600)}, stack.secret),
        "no sub": jwt({"exp": now + 600}, stack.secret),
        "sub 0": jwt({**claims, "sub": "0"}, stack.secret),
        "sub as number": jwt({**claims, "sub": user}, stack.secret),
        "sub with a sign": jwt({**claims, "sub": f"+{user}"}, stack.secret),
        "not before": jwt({**claims, "nbf": now + 600}, stack.secret),
        "oversized": jwt({**claims, "more": "x" * 6000}, stack.secret),
        "no JWT": "abc",
        "empty": "",
    }


def test_only_a_good_token_is_taken(stack, rich):
    for name, token in forged(stack, rich).items():
        answer = stack.http("POST", "/v1/gifts", GOOD, {"Idempotency-Key": uuid7(), "Authorization": f"Bearer {token}"})
        assert answer[0] == 401, (name, answer)
        refused(answer, 401, "unauthorized")
        assert answer[1]["www-authenticate"].startswith("Bearer")
    for header in (None, f"Basic {stack.token(rich)}", stack.token(rich)):
        answer = stack.http("POST", "/v1/gifts", GOOD, {"Idempotency-Key": "not checked yet", **({"Authorization": header} if header else {})})
        refused(answer, 401, "unauthorized")


# ---- rules of business


def test_each_broken_rule_has_its_code(stack, rich):
    dear, gone = stack.new_id(), stack.new_id()
    for gift_id, price in ((dear, 2**53 - 1), (gone, 5)):
        assert stack.admin("POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": "g", "price": price})[0] == 201
    for n in (1, 2):
        wait_until(lambda n=n: post(stack, rich, {**GOOD, "gift_id": gone}, n=n)[0] == 202, what="the gift is on sale")
    for quantity in (0, -1, 10000, -(2**63), 2**63 - 1):
        refused(post(stack, rich, {**GOOD, "quantity": quantity}), 422, "quantity_out_of_range")
    for gift_id in (0, -1, 2**31 - 1, 2**40):
        refused(post(stack, rich, {**GOOD, "gift_id": gift_id}), 404, "gift_not_found")
    refused(post(stack, rich, {**GOOD, "gift_id": dear, "quantity": 2}), 422, "amount_out_of_range")
    refused(post(stack, rich, {**GOOD, "gift_id": dear, "quantity": 9999}), 422, "amount_out_of_range")
    refused(post(stack, rich, {**GOOD, "receiver_id": rich}), 422, "self_gift")
    refused(post(stack, rich, {**GOOD, "gift_id": 100, "quantity": 9000}), 402, "insufficient_balance")
    refused(post(stack, stack.new_id(), GOOD), 404, "wallet_not_found")
    assert stack.admin("PUT", f"/admin/v1/gifts/{gone}", {"status": 2})[0] == 200
    for n in (1, 2):
        wait_until(lambda n=n: post(stack, rich, {**GOOD, "gift_id": gone}, n=n)[0] == 404, what="the gift is off the shelf")


def test_the_order_of_checks(stack, rich):
    body = {**GOOD, "gift_id": 99, "quantity": 0, "receiver_id": rich}
    refused(post(stack, rich, {**body, "room_id": 0}, key=NIL), 400, "malformed")
    refused(stack.http("POST", "/v1/gifts", body, {"Idempotency-Key": NIL}), 401, "unauthorized")
    refused(post(stack, rich, body, key=NIL), 400, "malformed")
    refused(post(stack, rich, body), 404, "gift_not_found")
    refused(post(stack, rich, {**body, "gift_id": 22}), 422, "quantity_out_of_range")
    refused(post(stack, rich, {**body, "gift_id": 22, "quantity": 1}), 422, "self_gift")


def test_a_frozen_wallet_sends_nothing_until_it_is_thawed(stack):
    user = stack.new_user(coins=1000)
    assert post(stack, user, GOOD)[0] == 202
    assert stack.admin("POST", f"/admin/v1/wallets/{user}/freeze")[0] == 200
    answer = wait_until(lambda: (a := post(stack, user, GOOD))[0] != 202 and a, what="the freeze is seen")
    refused(answer, 403, "wallet_frozen")
    assert stack.admin("POST", f"/admin/v1/wallets/{user}/unfreeze")[0] == 200
    wait_until(lambda: post(stack, user, GOOD)[0] == 202, what="the thaw is seen")


def spend_what_arrives(stack, user, coins, body, key):
    """After a refusal. Redis hears of the coins behind their settlement, but a refusal is never older than a second, however the cache feels."""
    refused_at = time.monotonic()
    stack.outcome(user, stack.adjust(user, coins))

    def spent():
        old = time.monotonic() > refused_at + 1
        status, _, answer = post(stack, user, body, key=key)
        assert status == 202 or not old, answer
        return status == 202

    wait_until(spent, what="202", every=0.2)


def test_money_that_arrives_can_be_spent_at_once(stack):
    user, key = stack.new_user(), uuid7()
    refused(post(stack, user, GOOD), 402, "insufficient_balance")
    spend_what_arrives(stack, user, 90, GOOD, key)
    refused(post(stack, user, GOOD), 402, "insufficient_balance")


# ---- idempotency


def test_the_same_key_is_answered_the_same_and_takes_effect_once(stack):
    user, key = stack.new_user(coins=1000), uuid7()
    status, headers, first = post(stack, user, GOOD, key=key)
    assert status == 202 and "idempotency-replayed" not in headers
    assert first == {"request_id": key, "status": "accepted", "price": 90, "quantity": 1, "amount": 90}
    for again in (key, key.upper(), f'"{key}"'):
        for n in (1, 2):
            status, headers, answer = post(stack, user, GOOD, key=again, n=n)
            assert (status, answer, headers.get("idempotency-replayed")) == (202, first, "true")
    for other in ({"quantity": 2}, {"room_id": 1002}, {"receiver_id": 20002}, {"gift_id": 1}, {"type": 1}):
        refused(post(stack, user, {**GOOD, **other}, key=key), 422, "idempotency_mismatch")
    assert stack.outcome(user, key)["status"] == "settled"
    assert stack.outcome(user, key)["balance_after"] == 910
    assert len(trades(stack, user, key)) == 1


def test_a_refusal_leaves_the_key_unused(stack):
    user, key = stack.new_user(), uuid7()
    refused(post(stack, user, GOOD, key=key), 402, "insufficient_balance")
    spend_what_arrives(stack, user, 1000, {**GOOD, "quantity": 2}, key)


def test_one_key_at_once_on_many_connections_of_two_processes(stack):
    user = stack.new_user(coins=100_000)
    for _ in range(5):
        key = uuid7()
        answers = at_once(*(lambda n=n: post(stack, user, GOOD, key=key, n=n) for n in (1, 2) * 4))
        fresh = [a for a in answers if a[0] == 202 and "idempotency-replayed" not in a[1]]
        assert len(fresh) == 1, answers
        for status, headers, answer in answers:
            assert status in (202, 409), answer
            if status == 409:
                assert answer["code"] == "in_progress" and headers["retry-after"] == "1"
        again = wait_until(lambda: (a := post(stack, user, GOOD, key=key))[0] != 409 and a, what="no call under way")  # one process answers, the other asks Redis
        assert again[1]["idempotency-replayed"] == "true"
        assert stack.outcome(user, key)["status"] == "settled"
        assert len(trades(stack, user, key)) == 1


def test_one_key_at_once_with_two_bodies(stack):
    user = stack.new_user(coins=100_000)
    for _ in range(5):
        key = uuid7()
        answers = at_once(*(lambda n=n, q=q: post(stack, user, {**GOOD, "quantity": q}, key=key, n=n) for n in (1, 2) for q in (1, 2)))
        fresh = [a for a in answers if a[0] == 202 and "idempotency-replayed" not in a[1]]
        assert len(fresh) == 1, answers
        assert any(a[0] == 422 and a[2]["code"] == "idempotency_mismatch" for a in answers)
        assert stack.outcome(user, key)["amount"] == fresh[0][2]["amount"]
        assert len(trades(stack, user, key)) == 1


def test_one_key_of_two_users_is_two_requests(stack):
    (one, two), key = stack.new_users(2, coins=1000), uuid7()
    assert post(stack, one, GOOD, key=key)[0] == 202
    status, headers, _ = post(stack, two, {**GOOD, "quantity": 2}, key=key)
    assert status == 202 and "idempotency-replayed" not in headers
    assert stack.outcome(one, key)["balance_after"] == 910
    assert stack.outcome(two, key)["balance_after"] == 820


def test_a_late_repeat_without_marker_has_no_second_effect(stack):
    claims = lambda: stack.log_text("settle-1").count("event=partition_claimed")  # noqa: E731

    def repeat():
        """False: a claim came between, which releases what was settled just before it, the repeat's hold too."""
        user, key, before = stack.new_user(coins=1000), uuid7(), claims()
        assert post(stack, user, GOOD, key=key)[0] == 202
        assert stack.outcome(user, key)["balance_after"] == 910
        wait_until(lambda: cache.read(stack, user)["h"] == 0, what="the first hold is released")  # else it could take the repeat's along
        assert stack.redis("DEL", cache.marker_key(user, key)) == "1"
        assert post(stack, user, GOOD, key=key)[0] == 202
        assert stack.outcome(user, (last := post(stack, user, GOOD))[2]["request_id"])["balance_after"] == 820, last
        assert len(trades(stack, user, key)) == 1
        wait_until(lambda: cache.read(stack, user)["h"] == 0, what="the repeat's hold is released")
        return claims() == before

    assert any(repeat() for _ in range(5)), "the assignment never settles"


def test_a_key_older_than_its_marker_is_looked_up(stack):
    user = stack.new_user(coins=1000)
    raw = bytearray((int(time.time() * 1000) - 25 * 3600 * 1000).to_bytes(6, "big") + uuid.uuid4().bytes[:10])
    raw[6], raw[8] = 0x70 | raw[6] & 0x0F, 0x80 | raw[8] & 0x3F
    key = str(uuid.UUID(bytes=bytes(raw)))
    assert post(stack, user, GOOD, key=key)[0] == 202
    assert stack.outcome(user, key)["balance_after"] == 910
    assert stack.redis("DEL", cache.marker_key(user, key)) == "1"
    status, headers, answer = post(stack, user, GOOD, key=key)
    assert (status, headers.get("idempotency-replayed"), answer["price"]) == (202, "true", 90)
    refused(post(stack, user, {**GOOD, "quantity": 2}, key=key), 422, "idempotency_mismatch")


@pytest.mark.parametrize("marker", ["never learned of the 202", "gone"])
@pytest.mark.parametrize("trouble", ["spent", "frozen"])
def test_who_has_paid_is_not_refused_when_he_asks_again(stack, marker, trouble):
    """F15: a 402 or 403 would make him pay with a new key. The process that took the first call died before it could mark it as answered, or Redis
    has forgotten it; it is settled."""
    user, key = stack.new_user(coins=90), uuid7()
    assert post(stack, user, GOOD, key=key)[0] == 202
    assert stack.outcome(user, key)["balance_after"] == 0
    wait_until(lambda: cache.read(stack, user)["h"] == 0, what="the hold is released")
    value = wait_until(lambda: (v := cache.of_user(stack, user, "GET", cache.marker_key(user, key)))[:1] == b"A" and v, what="the marker is an answered one's")
    if marker == "gone":
        assert cache.of_user(stack, user, "DEL", cache.marker_key(user, key)) == 1
    else:
        overdue = b"P" + (1).to_bytes(8, "little") + value[9:]
        assert cache.of_user(stack, user, "SET", cache.marker_key(user, key), overdue, "PX", 900000) == b"OK"
    if trouble == "frozen":
        stack.outcome(user, stack.adjust(user, 1000))
        assert stack.admin("POST", f"/admin/v1/wallets/{user}/freeze")[0] == 200
        wait_until(lambda: post(stack, user, GOOD)[2].get("code") == "wallet_frozen", what="the freeze is seen")
    else:
        refused(post(stack, user, GOOD), 402, "insufficient_balance")
    status, headers, answer = post(stack, user, GOOD, key=key)
    assert (status, headers.get("idempotency-replayed"), answer) == (202, "true", {"request_id": key, "status": "accepted", "price": 90, "quantity": 1, "amount": 90})
    refused(post(stack, user, {**GOOD, "quantity": 2}, key=key), 422, "idempotency_mismatch")
    assert len(trades(stack, user, key)) == 1


def test_a_replay_survives_a_change_of_price_and_the_end_of_the_gift(stack):
    user, gift, key = stack.new_user(coins=1_000_000), stack.new_id(), uuid7()
    assert stack.admin("POST", "/admin/v1/gifts", {"gift_id": gift, "name": "g", "price": 70})[0] == 201
    body = {**GOOD, "gift_id": gift}
    wait_until(lambda: post(stack, user, body, key=key)[0] == 202, what="the gift is on sale")
    assert stack.admin("PUT", f"/admin/v1/gifts/{gift}", {"status": 2})[0] == 200
    wait_until(lambda: post(stack, user, body)[0] == 404, what="the gift is off the shelf")
    status, headers, answer = post(stack, user, body, key=key)
    assert (status, headers.get("idempotency-replayed"), answer["price"]) == (202, "true", 70)
    refused(post(stack, user, {**body, "quantity": 2}, key=key), 404, "gift_not_found")


def test_without_a_key_an_equal_request_is_a_double_click(stack):
    user = stack.new_user(coins=100_000)

    def click(n=1, **more):
        return stack.http("POST", "/v1/gifts", {**GOOD, **more}, user=user, base=stack.ingest_url(n))

    def clicked_twice():  # the window is half a second: a very slow machine may need another try
        time.sleep(0.6)
        answers = at_once(lambda: click(1), lambda: click(2))
        assert all(a[0] in (202, 409) for a in answers), answers
        return answers if sorted(a[0] for a in answers) == [202, 409] else None

    answers = wait_until(clicked_twice, what="a double click")
    made = next(a[2] for a in answers if a[0] == 202)
    assert uuid.UUID(made["request_id"]).version == 7
    assert stack.outcome(user, made["request_id"])["status"] == "settled"
    assert click(quantity=2)[0] == 202  # another gift is no double click


# ---- limits


def test_the_rate_of_a_user_is_limited_and_replays_are_free(stack):
    slow, other = stack.new_users(2, coins=1_000_000)
    key = uuid7()
    assert post(stack, slow, {**GOOD, "gift_id": 1}, key=key)[0] == 202

    def limited():
        answers = at_once(*(lambda n=n: post(stack, slow, {**GOOD, "gift_id": 1}, n=n) for n in (1, 2) * 20))
        return next((a for a in answers if a[0] == 429), None)

    answer = wait_until(limited, what="429")
    refused(answer, 429, "rate_limited")
    assert answer[1]["retry-after"] == "1"
    assert post(stack, slow, {**GOOD, "gift_id": 1}, key=key)[1]["idempotency-replayed"] == "true"
    assert post(stack, other, {**GOOD, "gift_id": 1})[0] == 202


def test_what_is_held_is_not_spent_twice(stack):
    """A hundred coins, eight gifts of 90 at once on two processes: one is taken, and the cache never lets more through."""
    user = stack.new_user(coins=100)
    answers = at_once(*(lambda n=n: post(stack, user, GOOD, n=n) for n in (1, 2) * 4))
    assert sorted(a[0] for a in answers) == [202] + [402] * 7, answers


def test_kafka_records_carry_key_and_headers(stack, rich):
    key, trace = uuid7(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert post(stack, rich, GOOD, key=key, traceparent=trace)[0] == 202
    other = uuid7()
    assert post(stack, rich, GOOD, key=other, traceparent="00-junk")[0] == 202
    by_id = {}
    for record in stack.records("giftflow.commands"):
        headers = dict(zip(record["headers"][::2], record["headers"][1::2])) if record.get("headers") else {}
        by_id[headers.get("ce_id")] = (record, headers)
    record, headers = by_id[key]
    assert record["key"] == str(rich)
    assert headers["ce_type"] == "giftflow.gift" and headers["traceparent"] == trace
    assert json.loads(record["payload"])["price"] == 90
    assert by_id[other][1]["traceparent"].startswith("00-") and len(by_id[other][1]["traceparent"]) == 55
