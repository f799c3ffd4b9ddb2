# SPDX-License-Identifier: Apache-2.0
"""Fixtures: one stack that all tests share, and private ones for tests that break things."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stack import BROKERS, ENGINE, GALERA, PATIENT, Stack  # noqa: E402

# What needs more than ./dev test gives it: ./dev test --brokers=3, --mysql, --galera, --nemesis.
THERE = {"test_brokers.py": BROKERS == 3, "test_group.py": ENGINE == "mysql", "test_galera.py": GALERA, "test_nemesis.py": "GIFTFLOW_NEMESIS_SECONDS" in os.environ}
collect_ignore = [name for name, there in THERE.items() if not there]

# No answer of ingest comes without Redis or Kafka, or before they have said theirs: it would be another one.
UNHURRIED = {**PATIENT, "kafka.message_timeout": "40s", "ingest.request_timeout": "50s", "ingest.lease": "60s", "ingest.lag_max": "10m"}
GIFTS = ((1, "Rose", 1), (22, "Heart", 90), (100, "Rocket", 5000))


def add_gifts(stack):
    """The catalogue that tests know: 1 Rose for 1 coin, 22 Heart for 90, 100 Rocket for 5000; half is the host's."""
    for gift_id, name, price in GIFTS:
        status, _, answer = stack.admin(
            "POST", "/admin/v1/gifts", {"gift_id": gift_id, "name": name, "price": price, "share_bp": 5000, "cover_url": "", "effect_url": f"https://cdn.test/{gift_id}.webp"}
        )  # fmt: skip
        assert status in (200, 201), answer


def finish(stack):
    """Every stack ends the same way: all roles drain, and no log holds a failed assertion or a sanitizer's report."""
    try:
        stack.down(purge=False)
        found = stack.bad_log_lines()
    finally:
        stack.dev("down", "--purge", check=False)
    assert not found, "\n".join(found)


@contextlib.contextmanager
def running(stack):
    """A stack with the catalogue for as long as its tests need it; at the end all is settled and its books are proved."""
    try:
        stack.up()
        add_gifts(stack)
        yield stack
        stack.drain()
        stack.verify()
    finally:
        finish(stack)


@pytest.fixture(scope="session")
def stack():
    """Shared, with two ingests; tests leave its processes alone and use ids of their own (stack.new_user, stack.new_id). Its books are proved at the end."""
    with running(Stack(roles={"ingest": 2}, settings=UNHURRIED)) as shared:
        yield shared


@pytest.fixture
def make_stack():
    """make_stack(roles={...}, partitions=4, settings={...}, gifts=True): a stack of the test's own, to kill and starve."""
    made = []

    def make(gifts=True, **options):
        private = Stack(**options)
        made.append(private)
        private.up()
        if gifts:
            add_gifts(private)
        return private

    yield make
    errors = []
    for private in made:
        try:
            finish(private)
        except Exception as error:  # the others must be stopped too
            errors.append(error)
    if errors:
        raise errors[0]
