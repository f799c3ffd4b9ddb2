# SPDX-License-Identifier: Apache-2.0
"""The live page: the gateway serves it, and its browser lets it call ingest; pages of other origins get no such leave."""

import pytest

from stack import uuid7


def page_origin(stack):
    return stack.gateway_url().replace("ws://", "http://")


def preflight(stack, origin, base=None):
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type,idempotency-key"}
    return stack.http("OPTIONS", "/v1/gifts", headers=asks, base=base)


def test_the_gateway_serves_the_page(stack):
    status, headers, text = stack.http("GET", "/", base=page_origin(stack))
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert "<title>giftflow live room</title>" in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text, "nothing is loaded from elsewhere"


def test_who_offers_http2_gets_the_page_too(stack):
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA"}
    status, _, text = stack.http("GET", "/", headers=offer, base=page_origin(stack))
    assert status == 200 and text.startswith("<!doctype html>")


def test_the_page_may_send_a_gift(stack):
    origin = page_origin(stack)
    status, headers, _ = preflight(stack, origin)
    assert status == 204 and headers["access-control-allow-origin"] == origin
    assert {"authorization", "content-type", "idempotency-key"} <= set(headers["access-control-allow-headers"].split(", "))
    user = stack.new_user(100)
    body = {"room_id": stack.new_id(), "receiver_id": stack.new_id(), "gift_id": 1, "quantity": 1, "type": 0}
    status, headers, _ = stack.http("POST", "/v1/gifts", body, {"Origin": origin, "Idempotency-Key": uuid7()}, user=user)
    assert status == 202 and headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("origin", ["http://evil.test", "null", "http://127.0.0.1", "*"])
def test_other_pages_may_not(stack, origin):
    status, headers, _ = preflight(stack, origin)
    assert status != 204 and "access-control-allow-origin" not in headers
    _, headers, _ = stack.http("GET", "/v1/gifts", headers={"Origin": origin})
    assert "access-control-allow-origin" not in headers


def test_no_page_may_call_the_admin_api(stack):
    status, headers, _ = preflight(stack, page_origin(stack), base=stack.admin_url())
    assert status != 204 and "access-control-allow-origin" not in headers
