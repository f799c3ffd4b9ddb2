# SPDX-License-Identifier: Apache-2.0
"""schemas/openapi.yaml against the running server: every documented answer of every operation is provoked once, and every
answer seen is a documented one whose body fits its schema."""

import re
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
import yaml

from stack import ROOT, answered, uuid7, wait_until

TOO_LARGE = b'{"x":"' + b"a" * 20000 + b'"}'


class Contract:
    def __init__(self):
        self.api = yaml.safe_load((ROOT / "schemas" / "openapi.yaml").read_text())
        self.seen = set()
        self.operations = []
        for path, item in self.api["paths"].items():
            pattern = re.compile("^" + re.sub(r"\{[^}]+\}", "[^/]+", path) + "$")
            self.operations += [(method.upper(), pattern, operation) for method, operation in item.items()]

    def operation(self, method, path):
        found = [o for m, pattern, o in self.operations if m == method and pattern.match(path.split("?")[0])]
        assert len(found) == 1, f"{method} {path} is not one documented operation"
        return found[0]

    def response(self, operation, status):
        response = operation["responses"].get(str(status))
        assert response, f"{operation['operationId']}: {status} is not documented"
        if "$ref" in response:
            response = self.api["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        return response

    def codes(self, response):
        """The problem codes of an answer; [None] for a success."""
        problem = response["content"].get("application/problem+json")
        return problem["schema"]["allOf"][1]["properties"]["code"]["enum"] if problem else [None]

    def documented(self):
        for _, _, operation in self.operations:
            for status in operation["responses"]:
                for code in self.codes(self.response(operation, status)):
                    yield operation["operationId"], int(status), code

    def validate(self, body, schema):
        resolver = jsonschema.RefResolver("", self.api)
        jsonschema.Draft202012Validator(schema, resolver=resolver).validate(body)

    def check(self, method, path, answer):
        """One answer of the server: documented, of the right type, fitting its schema. Returns the answer."""
        status, headers, body = answer
        operation = self.operation(method, path)
        response = self.response(operation, status)
        (content_type, content), = response["content"].items()
        assert headers["content-type"] == content_type
        self.validate(body, content["schema"])
        for name, about in response.get("headers", {}).items():
            if name == "Retry-After":
                assert int(headers["retry-after"]) >= about["schema"]["minimum"]
        self.seen.add((operation["operationId"], status, body["code"] if status >= 400 else None))
        return answer


class Caller:
    """Calls, checks against the contract and expects one status (and code)."""

    def __init__(self, contract, stack):
        self.contract, self.stack = contract, stack

    def expect(self, status, method, path, body=None, code=None, headers=None, user=None, admin=True):
        if path.startswith("/admin"):
            send = {"Authorization": f"Bearer {self.stack.env['GIFTFLOW_ADMIN_KEY'] if admin else 'wrong'}", **(headers or {})}
            call = lambda: self.stack.http(method, path, body, send, base=self.stack.admin_url())  # noqa: E731
        else:
            call = lambda: self.stack.http(method, path, body, headers, user=user)  # noqa: E731
        answer = call() if status == 503 else answered(call)
        self.contract.check(method, path, answer)
        assert answer[0] == status, answer
        assert code is None or answer[2]["code"] == code, answer
        return answer[2]

    def gift(self, user, status, code=None, key=None, **fields):
        body = {"room_id": 1001, "receiver_id": 20001, "gift_id": 22, "quantity": 1, "type": 0, **fields}
        return self.expect(status, "POST", "/v1/gifts", body, code, {"Idempotency-Key": key or uuid7()}, user)


@pytest.fixture(scope="module")
def contract():
    return Contract()


def any_example(operation_id, stack):
    """A well-formed call of each operation: (method, path, body, headers)."""
    user, dead = stack.new_id(), "/admin/v1/dead-letters/1/999999"
    key = {"Idempotency-Key": uuid7()}
    gift = {"room_id": 1, "receiver_id": 2, "gift_id": 22, "quantity": 1}
    return {
        "sendGift": ("POST", "/v1/gifts", gift, key),
        "listGifts": ("GET", "/v1/gifts", None, None),
        "getRequest": ("GET", f"/v1/requests/{uuid7()}", None, None),
        "getWallet": ("GET", "/v1/wallet", None, None),
        "listTrades": ("GET", "/v1/wallet/trades", None, None),
        "createGift": ("POST", "/admin/v1/gifts", {"gift_id": user, "name": "x", "price": 1}, None),
        "listAllGifts": ("GET", "/admin/v1/gifts", None, None),
        "getGift": ("GET", "/admin/v1/gifts/22", None, None),
        "changeGift": ("PUT", "/admin/v1/gifts/22", {"name": "Heart"}, None),
        "openWallet": ("POST", "/admin/v1/wallets", {"user_id": user}, None),
        "getUserWallet": ("GET", f"/admin/v1/wallets/{user}", None, None),
        "freezeWallet": ("POST", f"/admin/v1/wallets/{user}/freeze", None, None),
        "unfreezeWallet": ("POST", f"/admin/v1/wallets/{user}/unfreeze", None, None),
        "adjust": ("POST", "/admin/v1/adjustments", {"user_id": user, "coins": 1, "reason": "x"}, key),
        "getUserRequest": ("GET", f"/admin/v1/requests/{user}/{uuid7()}", None, None),
        "listDeadLetters": ("GET", "/admin/v1/dead-letters", None, None),
        "dropDeadLetter": ("POST", f"{dead}/drop", None, None),
        "replayDeadLetter": ("POST", f"{dead}/replay", None, None),
    }[operation_id]


def test_no_token_no_service(contract, stack):
    call = Caller(contract, stack)
    for _, _, operation in contract.operations:
        method, path, body, headers = any_example(operation["operationId"], stack)
        call.expect(401, method, path, body, headers=headers, admin=False)


def test_the_user_api(contract, stack):
    call = Caller(contract, stack)
    user, key = stack.new_user(100_000), uuid7()

    first = call.gift(user, 202, key=key)
    assert call.gift(user, 202, key=key) == first
    call.gift(user, 422, "idempotency_mismatch", key=key, quantity=2)
    call.gift(user, 422, "self_gift", receiver_id=user)
    call.gift(user, 422, "quantity_out_of_range", quantity=10_000)
    call.gift(user, 402, "insufficient_balance", gift_id=100, quantity=999)
    call.gift(user, 404, "gift_not_found", gift_id=404)
    call.gift(stack.new_id(), 404, "wallet_not_found")
    call.gift(user, 400, "malformed", key="not-a-uuid")
    call.gift(user, 400, "malformed", room_id="1")
    call.expect(413, "POST", "/v1/gifts", TOO_LARGE, user=user)

    assert stack.outcome(user, first["request_id"])["status"] == "settled"
    call.expect(200, "GET", f"/v1/requests/{first['request_id']}", user=user)
    call.expect(404, "GET", f"/v1/requests/{uuid7()}", user=user)
    call.expect(400, "GET", "/v1/requests/1", user=user)
    call.expect(200, "GET", "/v1/gifts", user=user)
    call.expect(200, "GET", "/v1/wallet", user=user)
    call.expect(404, "GET", "/v1/wallet", user=stack.new_id())
    call.expect(200, "GET", "/v1/wallet/trades?limit=1", user=user)
    call.expect(400, "GET", "/v1/wallet/trades?limit=101", user=user)
    call.expect(404, "GET", "/v1/wallet/trades", user=stack.new_id())


def test_refusals_that_need_a_state(contract, stack):
    call = Caller(contract, stack)
    frozen, hasty = stack.new_user(100), stack.new_user(1000)
    dear = stack.new_id()

    call.expect(200, "POST", f"/admin/v1/wallets/{frozen}/freeze")
    call.gift(frozen, 403, "wallet_frozen")
    call.expect(201, "POST", "/admin/v1/gifts", {"gift_id": dear, "name": "dear", "price": 2**53 - 1})
    wait_until(lambda: stack.gift(frozen, gift_id=dear, quantity=2)[0] == 422, what="the new gift")  # told "unknown" before, if it was cached
    call.gift(frozen, 422, "amount_out_of_range", gift_id=dear, quantity=2)

    def statuses(count, call):
        """Of calls that are made at once: a machine may be slow."""
        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(call, range(count)))
        return [contract.check("POST", "/v1/gifts", answer)[0] for answer in answers]

    def double_click():
        body = {"room_id": 1001, "receiver_id": 20001, "gift_id": 1, "quantity": 1, "type": 0}
        return 409 in statuses(2, lambda _: stack.http("POST", "/v1/gifts", body, user=hasty))

    wait_until(double_click, what="a double click")  # the two must fall within half a second

    def too_fast():
        key = uuid7()
        return 429 in statuses(60, lambda _: stack.gift(hasty, gift_id=100, quantity=9, key=key))

    wait_until(too_fast, what="the rate limit")  # more than 20 refused within one second


def test_the_admin_api(contract, stack):
    call = Caller(contract, stack)
    gift_id, user, key = stack.new_id(), stack.new_id(), {"Idempotency-Key": uuid7()}
    gift = f"/admin/v1/gifts/{gift_id}"

    call.expect(201, "POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": 'quo"te\\ \u00e9', "price": 5})
    call.expect(409, "POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": "again", "price": 5})
    call.expect(400, "POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": "free", "price": 0})
    call.expect(413, "POST", "/admin/v1/gifts", TOO_LARGE)
    call.expect(200, "GET", "/admin/v1/gifts")
    assert call.expect(200, "GET", gift)["name"] == 'quo"te\\ \u00e9'
    call.expect(400, "GET", "/admin/v1/gifts/x")
    call.expect(404, "GET", "/admin/v1/gifts/2147483647")
    call.expect(200, "PUT", gift, {"cover_url": "https://cdn.test/x'y.png"})
    call.expect(400, "PUT", gift, {"gift_id": gift_id + 1})
    call.expect(404, "PUT", "/admin/v1/gifts/2147483647", {"name": "x"})
    call.expect(413, "PUT", gift, TOO_LARGE)

    def too_many_changes():
        answers = [contract.check("PUT", gift, stack.admin("PUT", gift, {"price": 10 + i})) for i in range(12)]
        return 409 in [status for status, _, _ in answers]

    wait_until(too_many_changes, what="too many price changes that wait")

    call.expect(201, "POST", "/admin/v1/wallets", {"user_id": user})
    call.expect(200, "POST", "/admin/v1/wallets", {"user_id": user})
    call.expect(400, "POST", "/admin/v1/wallets", {"user_id": "7"})
    call.expect(413, "POST", "/admin/v1/wallets", TOO_LARGE)
    call.expect(200, "GET", f"/admin/v1/wallets/{user}")
    for path in ("", "/freeze", "/unfreeze"):
        method = "POST" if path else "GET"
        call.expect(200, method, f"/admin/v1/wallets/{user}{path}")
        call.expect(400, method, f"/admin/v1/wallets/-1{path}")
        call.expect(404, method, f"/admin/v1/wallets/{stack.new_id()}{path}")

    body = {"user_id": user, "coins": 10, "reason": "it's fair"}
    request_id = call.expect(202, "POST", "/admin/v1/adjustments", body, headers=key)["request_id"]
    assert call.expect(202, "POST", "/admin/v1/adjustments", body, headers=key)["request_id"] == request_id
    call.expect(422, "POST", "/admin/v1/adjustments", {**body, "coins": 11}, headers=key)
    call.expect(400, "POST", "/admin/v1/adjustments", {**body, "coins": 0}, headers=key)
    call.expect(400, "POST", "/admin/v1/adjustments", body)  # no key
    call.expect(413, "POST", "/admin/v1/adjustments", TOO_LARGE, headers=key)
    path = f"/admin/v1/requests/{user}/{request_id}"
    wait_until(lambda: stack.admin("GET", path)[2].get("status") == "settled", what="the adjustment")
    call.expect(200, "GET", path)
    call.expect(404, "GET", f"/admin/v1/requests/{user}/{uuid7()}")
    call.expect(400, "GET", f"/admin/v1/requests/{user}/x")
    assert stack.balance(user) == 10


def test_dead_letters(contract, stack):
    call = Caller(contract, stack)
    marks = [f"no json {uuid7()}" for _ in range(2)]
    for mark in marks:
        stack.produce(str(stack.new_id()), mark)

    def find(mark):
        """Its path, once settlement has recorded it."""

        def look():
            cursor = ""
            while cursor is not None:
                page = call.expect(200, "GET", f"/admin/v1/dead-letters?limit=100{cursor}")
                for letter in page["dead_letters"]:
                    if letter["payload_hex"] == mark.encode().hex():
                        return f"/admin/v1/dead-letters/{letter['log']}/{letter['off']}"
                cursor = f"&cursor={page['next_cursor']}" if page["next_cursor"] else None
            return None

        return wait_until(look, what="the dead letter")

    first, second = find(marks[0]), find(marks[1])
    call.expect(200, "POST", f"{first}/drop")
    call.expect(200, "POST", f"{first}/drop")
    call.expect(409, "POST", f"{first}/replay")
    call.expect(202, "POST", f"{second}/replay")
    call.expect(409, "POST", f"{second}/drop")
    assert find(marks[1]) != second  # it came back as a dead letter of its own
    for what in ("drop", "replay"):
        call.expect(404, "POST", f"/admin/v1/dead-letters/1/999999/{what}")
        call.expect(400, "POST", f"/admin/v1/dead-letters/1/x/{what}")
    call.expect(400, "GET", "/admin/v1/dead-letters?state=sold")


def test_overload_and_outage(contract, make_stack):
    """Too many unsettled gifts while settlement stands still; then MySQL is gone and every operation says so."""
    stack = make_stack(settings={"ingest.rate_per_second": 100000, "ingest.lag_max": "1h", "redis.timeout": "60s"})
    call = Caller(contract, stack)
    user = stack.new_user(10_000)

    stack.kill("settle-1")
    last = None
    for _ in range(512):
        status, _, last = stack.gift(user, gift_id=1)
        assert status == 202, last
    call.gift(user, 429, "too_many_in_flight", gift_id=1)
    assert call.expect(200, "GET", f"/v1/requests/{last['request_id']}", user=user)["status"] == "accepted"
    wallet = call.expect(200, "GET", "/v1/wallet", user=user)
    assert (wallet["balance"], wallet["available"]) == (10_000, 10_000 - 512)

    stack.kill("mysql")
    for _, _, operation in contract.operations:
        method, path, body, headers = any_example(operation["operationId"], stack)
        call.expect(503, method, path, body, headers=headers, user=user)
    wait_until(lambda: not stack.is_ready("ingest-1"), what="ingest says that it is not ready")

    stack.start("mysql")
    wait_until(lambda: stack.is_ready("ingest-1"), what="ingest is ready again")
    stack.start("settle")
    stack.drain()
    assert stack.balance(user) == 10_000 - 512
    stack.verify()


def test_every_documented_answer_was_seen(contract):
    """Runs last in this file; alone it has nothing to say."""
    if not contract.seen:
        pytest.skip("the tests above did not run")
    missing = sorted(set(contract.documented()) - contract.seen, key=str)
    assert not missing, f"documented, but never seen: {missing}"
