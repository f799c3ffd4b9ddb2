# SPDX-License-Identifier: Apache-2.0
"""What must be true of a stack's books, judged from outside: the commands topic is read back, the model (ledger_model.py) says what each of its
records must have become, and tables, notices and Redis are compared with that. Nothing here is the program's own code but its last word, `giftflow verify`.

    judge(stack, gifts, credits)     all of it; for a stack on which nothing is on its way
    told_too_early(stack)            at any moment, the moment of a crash included: notices of outcomes that are not committed

`stack` may be a Stack or a World (world.py)."""

import json
import re
from collections import defaultdict

import cache
from ledger_model import Model
from stack import wait_until

OUTCOMES = "settled internal_error gift_not_found price_mismatch quantity_out_of_range amount_out_of_range self_gift wallet_not_found wallet_frozen insufficient_balance credit_refused".split()
DEAD = [None] + "empty_record not_json unknown_version unknown_type bad_field foreign_key foreign_partition bad_request_id no_credit bad_credit id_reused sql_refused crash_loop too_large".split()
NOTICE_ID = re.compile(r"(\d+)-(\d+):(\d+)")
GOOD_NOTICE = {1: 5556}  # by kind; every other kind is a credit
BAD_NOTICE = {1: 5557}


def predict(stack, gifts, credits):
    """The model after all that is in the commands topic. gifts: {id: (price, share_bp, max_quantity)}; credits: {id: (user, kind number, coins)}."""
    model = Model(stack.partitions, gifts, credits)
    for record in sorted(stack.records("giftflow.commands"), key=lambda record: (record["partition"], record["offset"])):
        model.consume(record["partition"], record["offset"], record["key"], record["payload"])
    return model


def live_logs(stack):
    """{log number: partition}"""
    return {row["log"]: row["part"] for row in stack.sql("SELECT log, part FROM progress WHERE live = 1")}


def same_rows(stack, model):
    """Every record of the topic has the one outcome that it must have: a trade row, a dead letter, or nothing for a repeat."""
    logs = live_logs(stack)
    rows = {(logs[row["log"]], row["off"]): row for row in stack.sql("SELECT * FROM trade")}
    assert set(rows) == set(model.rows), ("outcomes", sorted(set(rows) ^ set(model.rows)))
    for at, want in model.rows.items():
        row = rows[at]
        assert OUTCOMES[row["outcome"]] in want.outcomes, (at, OUTCOMES[row["outcome"]], want)
        assert (row["user_id"], row["request_id"].hex()) == (want.user, want.request_id.replace("-", "")), at
        assert (row["amount"], row["debt_delta"], row["host_coins"]) == (want.amount, want.debt_delta, want.host), (at, want)
        if row["outcome"] == 0:
            assert (row["kind"], row["balance_after"], row["seq"]) == (want.kind, want.balance_after, want.seq), (at, want)
    assert len({(row["request_id"], row["user_id"]) for row in rows.values()}) == len(rows), "a request has two outcomes"
    dead = {(logs[row["log"]], row["off"]): DEAD[row["reason"]] for row in stack.sql("SELECT log, off, reason FROM dead_letter")}
    for at in set(dead) | set(model.dead):
        assert dead.get(at) in model.dead.get(at, {None}), ("dead letter", at, dead.get(at), model.dead.get(at))
    return rows


def same_wallets(stack, model):
    """Every wallet is what the model says, which is its start (nothing) and the sum of its trades."""
    sums = {row["user_id"]: row for row in stack.sql("SELECT user_id, SUM(amount) coins, SUM(debt_delta) debt FROM trade GROUP BY user_id")}
    wallets = {row["user_id"]: row for row in stack.sql("SELECT * FROM wallet")}
    for user, wallet in wallets.items():
        want, total = model.wallets.get(user), sums.get(user, {"coins": 0, "debt": 0})
        assert (wallet["balance"], wallet["debt"]) == (total["coins"], total["debt"]), ("wallet is not the sum of its trades", user, wallet, total)
        if want is None:
            assert wallet["balance"] == 0 and wallet["ver"] == 1, ("coins from nowhere", wallet)
        else:
            assert (wallet["balance"], wallet["debt"], wallet["ver"], wallet["status"] == 2) == (want.balance, want.debt, want.ver, want.frozen), (user, wallet, want)
    assert set(model.wallets) <= set(wallets)
    return wallets


def notices(stack):
    """{(partition, offset) of the outcome: the notices of it, as they stand in the topic}"""
    logs = live_logs(stack)
    told = defaultdict(list)
    for record in stack.records("giftflow.notices"):
        notice = json.loads(record["payload"])
        headers = dict(zip(record["headers"][::2], record["headers"][1::2]))
        assert headers["ce_id"] == notice["id"], record
        log, off, code = map(int, NOTICE_ID.fullmatch(notice["id"]).groups())
        assert code == notice["code"], notice
        told[logs[log], off].append(notice)
    return told


def missing_notices(stack, model):
    return set(model.rows) - set(notices(stack))


def same_notices(stack, rows):
    """A notice of every outcome and of nothing else; a repeat is the same to the last byte."""
    told = notices(stack)
    assert set(told) == set(rows), ("notices", sorted(set(told) ^ set(rows)))
    for at, repeats in told.items():
        row = rows[at]
        code = GOOD_NOTICE.get(row["kind"], 5558) if row["outcome"] == 0 else BAD_NOTICE.get(row["kind"], 5559)
        assert repeats[0]["code"] == code, (at, repeats[0], row)
        assert repeats[0]["data"]["request_id"].replace("-", "") == row["request_id"].hex(), (at, repeats[0])
        assert all(notice == repeats[0] for notice in repeats), ("repeats differ", at, repeats)


def told_too_early(stack):
    """Notices of outcomes that MySQL does not know as committed. The topic is read first: what commits meanwhile is no excuse for anybody."""
    told = notices(stack)
    logs = live_logs(stack)
    return sorted(set(told) - {(logs[row["log"]], row["off"]) for row in stack.sql("SELECT log, off FROM trade")})


def redis_converges(stack, wallets, deadline=60):
    """Redis says what MySQL says or nothing, and no hold is left: what a viewer may spend is what the wallet has."""
    balances = {user: wallet["balance"] for user, wallet in wallets.items()}

    def behind():
        return [(user, value, balances[user]) for user, value in cache.balances(stack, balances).items() if value not in (None, balances[user])]

    wait_until(lambda: not behind(), deadline, f"Redis converges: {behind()}")
    if not stack.env["GIFTFLOW_INGEST_URL"]:
        return

    def held():
        answers = {user: stack.http("GET", "/v1/wallet", user=user)[2] for user in balances}
        return {user: answer for user, answer in answers.items() if (answer.get("balance"), answer.get("available")) != (balances[user], balances[user])}

    wait_until(lambda: not held(), deadline, f"holds are released: {held()}")


def judge(stack, gifts, credits, accepted=()):
    """accepted: (request id, user) of every 202."""
    model = predict(stack, gifts, credits)
    wait_until(lambda: not missing_notices(stack, model), 60, "a notice of every outcome", every=0.2)
    rows = same_rows(stack, model)
    found = {(row["request_id"].hex(), row["user_id"]) for row in rows.values()}
    lost = [pair for pair in accepted if (pair[0].replace("-", ""), pair[1]) not in found]
    assert not lost, ("accepted and without an outcome", lost)
    wallets = same_wallets(stack, model)
    same_notices(stack, rows)
    redis_converges(stack, wallets)
    stack.verify()
    return model
