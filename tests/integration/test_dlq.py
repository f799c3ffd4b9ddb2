# SPDX-License-Identifier: Apache-2.0
"""giftflow dlq: what operators see of dead letters, and which of them may be produced again, once."""

import concurrent.futures
import contextlib
import json
import subprocess
import time
import uuid

import pytest
from conftest import finish
from stack import PATIENT, Stack, uuid7, wait_until

OPEN = (0, 1)
REPLAYED, DROPPED = 2, 3


@pytest.fixture(scope="module")
def post():
    """ingest for its admin API, settle, sweep; and a catalogue."""
    stack = Stack(roles={"router": 0, "gateway": 0}, partitions=4, settings={**PATIENT, "sweep.dlq": "50ms", "ingest.request_timeout": "60s", "ingest.lease": "70s"})
    try:
        stack.up()
        now = int(time.time() * 1000)
        stack.sql("INSERT INTO gift VALUES (22, 'Heart', '', '', 9999, 1, 1, %s)", now)
        stack.sql("INSERT INTO gift_price VALUES (22, %s, %s, 90, 5000)", now - 3600_000, 2**63 - 1)
        yield stack
        stack.drain()
        stack.verify()
    finally:
        finish(stack)


def dlq(stack, *args, status=0):
    """What `giftflow dlq` prints; with --json, parsed."""
    done = subprocess.run(
        [stack.env["GIFTFLOW_BIN"], "dlq", *map(str, args), "--config", stack.env["GIFTFLOW_CONFIG"]],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, env=stack.environ,
    )  # fmt: skip
    assert done.returncode == status, (args, done.returncode, done.stdout, done.stderr)
    if status == 2:
        return done.stderr
    return json.loads(done.stdout) if "--json" in args else done.stdout


def bury(stack, key, value, partition=None, count=1):
    """Produces a record that settlement buries; -> its name, LOG-OFFSET."""
    before = {(row["log"], row["off"]) for row in stack.sql("SELECT log, off FROM dead_letter")}
    stack.produce(str(key), value, partition)

    def look():
        rows = stack.sql("SELECT log, off FROM dead_letter ORDER BY log, off")
        return [f"{row['log']}-{row['off']}" for row in rows if (row["log"], row["off"]) not in before]

    new = wait_until(look, 60, "the dead letter")
    assert len(new) == count, new
    return new[0]


def letter(stack, name):
    log, off = name.split("-")
    return stack.sql("SELECT d.*, p.part FROM dead_letter d JOIN progress p ON p.log = d.log WHERE d.log = %s AND d.off = %s", log, off)[0]


def new_credit_id():
    """Ids of credits are of version 8 (F2)."""
    raw = bytearray(uuid.UUID(uuid7()).bytes)
    raw[6] = 0x80 | raw[6] & 0x0F
    return uuid.UUID(bytes=bytes(raw))


def open_credit(stack, credit, user, coins, kind=3):
    """due_ms NULL: sweep does not deliver it."""
    stack.sql(
        "INSERT INTO credit (credit_id, kind, user_id, coins, actor, reason, status, created_ms, due_ms) VALUES (%s, %s, %s, %s, 'test', 'dlq', 1, 0, NULL)",
        credit.bytes, kind, user, coins,
    )  # fmt: skip


def credit_command(credit, user, kind="adjust"):
    return {"v": 1, "type": "credit", "request_id": str(credit), "user_id": user, "kind": kind, "ts": int(time.time() * 1000)}


def foreign_partition(stack, user):
    """A partition that is not the user's: where a record of his has never been."""
    used = {row["part"] for row in stack.sql("SELECT p.part FROM trade t JOIN progress p ON p.log = t.log WHERE t.user_id = %s AND t.outcome = 0", user)}
    assert len(used) == 1
    return (used.pop() + 1) % 4


def results(answer):
    return {f"{one['log']}-{one['off']}": (one["result"], one["why"]) for one in answer["letters"]}


def test_list_finds_by_reason_place_user_time_and_state(post):
    user = post.new_user(1000)
    start = int(time.time() * 1000)
    names = {
        bury(post, user, "no json"): "not_json",
        bury(post, user, '{"v":2,"type":"gift"}'): "unknown_version",
        bury(post, user, None): "empty_record",
        bury(post, user + 1, post.gift_command(user)): "foreign_key",
    }

    def listed(*filters):
        answer = dlq(post, "list", "--json", "--since", start, *filters)
        assert answer["next_cursor"] is None
        return {f"{one['log']}-{one['off']}": one["reason"] for one in answer["dead_letters"]}

    assert listed() == names
    for name, reason in names.items():
        assert listed("--reason", reason) == {name: reason}
        row = letter(post, name)
        assert listed("--log", row["log"], "--offsets", f"{row['off']}-{row['off']}") == {name: reason}
        assert name in listed("--partition", row["part"])
    assert listed("--user", user) == names  # by key, or by the user of the outcome row
    assert listed("--user", user + 1) == {name: reason for name, reason in names.items() if reason == "foreign_key"}
    assert listed("--until", start) == {}
    assert listed("--until", "2000-01-01T00:00:00Z") == {} and listed("--since", "1h") == names
    assert listed("--state", "replayed") == {} and listed("--state", "all") == names
    wait_until(lambda: listed("--state", "fed") == names, 60, "fed by sweep")

    text = dlq(post, "list", "--since", start)
    assert all(name in text and reason in text for name, reason in names.items()) and "4 dead letters" in text
    seen, after = {}, ()
    while after is not None:  # page by page
        page = dlq(post, "list", "--json", "--since", start, "--limit", 3, *after)
        seen.update({f"{one['log']}-{one['off']}": one["reason"] for one in page["dead_letters"]})
        after = ("--after", page["next_cursor"]) if page["next_cursor"] else None
    assert seen == names


def test_show_prints_everything_and_nothing_that_drives_a_terminal(post):
    user = post.new_user()
    plain = bury(post, user, "no json at all")
    row = letter(post, plain)
    text = dlq(post, "show", plain)
    for part in ("not_json", f"topic giftflow.commands, partition {row['part']}, offset {row['off']}, incarnation 1", f"    {user}\n", "    no json at all\n", "this version of giftflow would bury it again"):
        assert part in text, text
    odd = bury(post, user, b"\x1b[2J\x00\xff{")
    text = dlq(post, "show", odd)
    assert "1b 5b 32 4a 00 ff 7b" in text and "|.[2J..{|" in text and "\x1b" not in text, text
    shown = dlq(post, "show", plain, odd, "--json")["dead_letters"]
    assert [bytes.fromhex(one["payload_hex"]) for one in shown] == [b"no json at all", b"\x1b[2J\x00\xff{"]
    assert [one["replay"] for one in shown] == ["forced", "forced"] and shown[0]["partition"] == row["part"]
    dlq(post, "show", plain, "1-99999999", status=1)


@pytest.mark.parametrize(
    "args, says",
    [
        ((), "list, show, replay or drop"),
        (("delete",), "list, show, replay or drop"),
        (("list", "--reason", "rotten"), "--reason 'rotten'"),
        (("list", "--state", "sold"), "--state 'sold'"),
        (("list", "--user", "0"), "--user '0'"),
        (("list", "--offsets", "9-3"), "--offsets '9-3'"),
        (("list", "--since", "yesterday"), "--since 'yesterday'"),
        (("list", "--limit", "0"), "--limit '0'"),
        (("list", "--limit"), "--limit wants"),
        (("list", "--colour"), "--colour"),
        (("list", "3-7"), "show"),
        (("list", "--dry-run"), "--dry-run"),
        (("show",), "LOG-OFFSET"),
        (("show", "3:7"), "3:7"),
        (("replay",), "--all"),
        (("drop", "--json"), "--all"),
        (("replay", "3-7", "--user", "5"), "not both"),
        (("drop", "3-7", "--force"), "--force"),
    ],
)
def test_wrong_arguments_are_named(post, args, says):
    assert says in dlq(post, *args, status=2)


def test_a_record_whose_request_has_an_outcome_needs_a_new_id(post):
    user = post.new_user(1000)
    foreign = bury(post, user + 1, post.gift_command(user))
    reused = post.gift_command(user)
    post.produce(str(user), reused)
    post.drain()
    other = bury(post, user, {**reused, "quantity": 2})  # id_reused: no outcome row of its own
    empty = bury(post, user, None)
    answer = results(dlq(post, "replay", foreign, other, empty, "--json", "--force"))
    assert [result for result, _ in answer.values()] == ["refused"] * 3
    assert "new id" in answer[foreign][1] and "new id" in answer[other][1] and "without a value" in answer[empty][1]
    assert all(letter(post, name)["state"] in OPEN for name in answer)
    for name in answer:
        log, off = name.split("-")
        assert post.admin("POST", f"/admin/v1/dead-letters/{log}/{off}/replay")[0] == 409


def test_what_would_only_be_buried_again_needs_force(post):
    user = post.new_user()
    name = bury(post, user, "still no json")
    result, why = results(dlq(post, "replay", name, "--json"))[name]
    assert result == "needs_force" and "not_json" in why and letter(post, name)["state"] in OPEN
    again = None
    before = {(row["log"], row["off"]) for row in post.sql("SELECT log, off FROM dead_letter")}
    answer = dlq(post, "replay", name, name, "--json", "--force")
    assert answer["replayed"] == 1 and results(answer)[name][0] == "replayed"  # named twice
    again = wait_until(lambda: [row for row in post.sql("SELECT log, off, payload FROM dead_letter") if (row["log"], row["off"]) not in before], 60, "buried again")
    assert [row["payload"] for row in again] == [b"still no json"] and letter(post, name)["state"] == REPLAYED


def test_what_is_buried_again_meanwhile_is_not_replayed_again(post):
    """More than a page of them: each comes back as a new letter, behind it, before the next page is looked for."""
    user, count = post.new_user(), 60
    post.produce_many([(user, f"never json {i}") for i in range(count)])
    mine = lambda: post.sql("SELECT state, payload FROM dead_letter WHERE rec_key = %s", str(user))  # noqa: E731
    wait_until(lambda: len(mine()) == count, 60, "all buried")
    answer = dlq(post, "replay", "--user", user, "--force", "--json", "--limit", 600)
    assert answer["replayed"] == count and len(results(answer)) == count
    wait_until(lambda: len(mine()) == 2 * count, 60, "all buried again")
    post.drain()
    assert sorted(row["payload"] for row in mine() if row["state"] in OPEN) == sorted(f'"never json {i}"'.encode() for i in range(count))
    assert dlq(post, "drop", "--user", user, "--json")["dropped"] == count


def test_more_letters_than_the_limit_are_told(post):
    user = post.new_user()
    names = [bury(post, user, f"some of many {i}") for i in range(3)]
    for limit, says in ((2, "there are more letters than --limit 2"), (3, "")):
        done = subprocess.run(
            [post.env["GIFTFLOW_BIN"], "dlq", "drop", "--user", str(user), "--dry-run", "--limit", str(limit), "--config", post.env["GIFTFLOW_CONFIG"]],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, env=post.environ,
        )  # fmt: skip
        assert done.returncode == 0 and [line.split()[0] for line in done.stdout.splitlines()[:-1]] == names[:limit], done
        assert says in done.stderr and (says or not done.stderr), done
    dlq(post, "drop", *names)


@pytest.mark.parametrize("kind, number", [("adjust", 3), ("recharge", 2)])
def test_a_credit_is_replayed_once_its_row_is_there(post, kind, number):
    user, credit = post.new_user(10), new_credit_id()
    name = bury(post, user, credit_command(credit, user, kind))
    assert letter(post, name)["reason"] == 9  # no_credit
    result, why = results(dlq(post, "replay", name, "--json"))[name]
    assert result == "needs_force" and "no credit" in why
    open_credit(post, credit, user, 70, number)
    assert results(dlq(post, "replay", name, "--json", "--dry-run"))[name][0] == "would_replay"
    assert letter(post, name)["state"] in OPEN
    assert "replayed" in dlq(post, "replay", name)
    wait_until(lambda: post.balance(user) == 80, 60, "the credit")
    assert letter(post, name)["state"] == REPLAYED
    assert results(dlq(post, "replay", name, "--json"))[name] == ("refused", "it was replayed before")
    post.drain()
    assert post.balance(user) == 80


def test_a_record_from_a_foreign_partition_or_with_a_foreign_key_comes_home(post):
    user = post.new_user(10)
    letters = {}
    for partition, key in ((foreign_partition(post, user), user), (None, user + 1)):
        credit = new_credit_id()
        open_credit(post, credit, user, 5)
        letters[bury(post, key, credit_command(credit, user), partition)] = credit
    assert sorted(letter(post, name)["reason"] for name in letters) == [6, 7]  # foreign_key, foreign_partition
    answer = results(dlq(post, "replay", *letters, "--json"))
    assert [result for result, _ in answer.values()] == ["replayed"] * 2
    wait_until(lambda: post.balance(user) == 20, 60, "both credits")


def test_a_crash_between_producing_and_marking_has_no_second_effect(post):
    """Settlement is away, so that the second replay cannot know of the first one's outcome."""
    user, credit = post.new_user(10), new_credit_id()
    name = bury(post, user, credit_command(credit, user))
    open_credit(post, credit, user, 30)
    post.stop("settle-1")
    assert results(dlq(post, "replay", name, "--json"))[name][0] == "replayed"
    post.sql("UPDATE dead_letter SET state = 1 WHERE log = %s AND off = %s", *name.split("-"))  # the mark is lost
    assert results(dlq(post, "replay", "--user", user, "--json"))[name][0] == "replayed"
    post.start("settle-1")
    post.drain()
    assert post.balance(user) == 40
    assert len(post.sql("SELECT 1 FROM trade WHERE user_id = %s AND request_id = %s", user, credit.bytes)) == 1
    post.sql("UPDATE dead_letter SET state = 1 WHERE log = %s AND off = %s", *name.split("-"))
    result, why = results(dlq(post, "replay", name, "--json", "--force"))[name]
    assert result == "refused" and "settled" in why  # now it can
    dlq(post, "drop", name)


@contextlib.contextmanager
def dropped_by_another(stack, names):
    """Letters that another operator is dropping: his transaction has their rows. -> (commit, wait until so many replays wait for him to mark theirs)"""
    rows = [name.split("-") for name in names]
    wait_until(lambda: all(letter(stack, name)["state"] == 1 for name in names), 60, "fed: sweep wants these rows no more")
    with contextlib.closing(stack.connect_db(user="root")) as his, contextlib.closing(stack.connect_db(user="root")) as look:
        his.begin()
        with his.cursor() as cursor:
            for row in rows:
                assert cursor.execute("UPDATE dead_letter SET state = 3 WHERE log = %s AND off = %s", row) == 1

        def waiting():
            with look.cursor() as cursor:
                cursor.execute("SELECT COUNT(*) AS n FROM information_schema.processlist WHERE info LIKE 'UPDATE dead_letter SET state = 2%'")
                return cursor.fetchone()["n"]

        yield his.commit, lambda count: wait_until(lambda: waiting() == count, 60, "replays that want to mark")


def bury_credits(stack, count=2):
    """Letters that may be replayed -> {name: user}; each gives its user, who has 10 coins, 5 more."""
    letters = {}
    for _ in range(count):
        user, credit = stack.new_user(10), new_credit_id()
        letters[bury(stack, user, credit_command(credit, user))] = user
        open_credit(stack, credit, user, 5)
    return letters


def test_a_replay_that_meets_a_drop_says_what_is_true(post):
    letters = bury_credits(post)
    names = list(letters)
    with dropped_by_another(post, names) as (commit, wait_for), concurrent.futures.ThreadPoolExecutor() as pool:
        by_api = pool.submit(post.admin, "POST", "/admin/v1/dead-letters/{}/{}/replay".format(*names[0].split("-")))
        by_tool = pool.submit(dlq, post, "replay", names[1], "--json")
        wait_for(2)
        commit()
        status, _, answer = by_api.result()
        assert (status, answer["state"]) == (202, "dropped"), answer
        result, why = results(by_tool.result())[names[1]]
        assert result == "replayed" and "dropped the letter meanwhile" in why
    assert [letter(post, name)["state"] for name in names] == [DROPPED] * 2
    for user in letters.values():
        wait_until(lambda: post.balance(user) == 15, 60, "the credit: it is in the log again")


def test_drop_marks_and_never_deletes(post):
    user = post.new_user()
    names = [bury(post, user, f"drop me {i}") for i in range(3)]
    answer = dlq(post, "drop", "--user", user, "--dry-run", "--json")
    assert [result for result, _ in results(answer).values()] == ["would_drop"] * 3
    answer = dlq(post, "drop", "--user", user, "--limit", 2, "--json")
    assert results(answer) == {name: ("dropped", "") for name in names[:2]} and answer["dropped"] == 2
    assert "1 dropped" in dlq(post, "drop", "--user", user)
    assert "0 dropped" in dlq(post, "drop", "--user", user)  # none is open
    assert results(dlq(post, "drop", *names, "--json")) == {name: ("refused", "it was dropped before") for name in names}
    assert results(dlq(post, "replay", names[0], "--json", "--force"))[names[0]] == ("refused", "it was dropped before")
    rows = post.sql("SELECT state, payload FROM dead_letter WHERE rec_key = %s ORDER BY payload", str(user))
    assert rows == [{"state": DROPPED, "payload": f"drop me {i}".encode()} for i in range(3)]
    dlq(post, "drop", "1-99999999", status=1)


def test_large_letters_are_fed_all_the_same(post):
    """More bytes than one feed takes at once; none may be a command again."""
    user, size = post.new_user(), 900_000
    for i in range(11):
        post.produce(str(user), bytes([i]) * size)
    rows = wait_until(lambda: (r := post.sql("SELECT log, off FROM dead_letter WHERE rec_key = %s AND state = 1", str(user))) and len(r) == 11 and r, 120, "all fed")
    names = {f"{row['log']}:{row['off']}" for row in rows}
    fed = {}
    for record in post.records("giftflow.dlq"):
        headers = dict(zip(record["headers"][::2], record["headers"][1::2]))
        fed[headers["ce_id"]] = headers["reason"]
    assert names <= set(fed) and {fed[name] for name in names} == {"too_large"}
    answer = dlq(post, "replay", "--user", user, "--reason", "too_large", "--force", "--json")
    assert answer["refused"] == 11 and answer["replayed"] == 0


def test_kafka_away_leaves_the_letter_open(post):
    user, credit = post.new_user(10), new_credit_id()
    name = bury(post, user, credit_command(credit, user))
    open_credit(post, credit, user, 1)
    post.kill("kafka")
    dlq(post, "replay", name, status=1)
    assert letter(post, name)["state"] in OPEN
    post.start("kafka")

    def replayed():
        try:
            result, why = results(dlq(post, "replay", name, "--json"))[name]
        except AssertionError:  # it gives up after kafka.message_timeout, which a broker that wakes may need
            return False
        return result == "replayed" or "settled" in why  # by an earlier try, that Kafka took and did not answer

    wait_until(replayed, 240, "Kafka is back")
    wait_until(lambda: post.balance(user) == 11, 60, "the credit")


def test_a_replay_that_cannot_be_marked_says_that_it_was_made(post):
    """Last in this file: a thread of ingest may still hold a connection that died here, and its next request finds that out."""
    letters = bury_credits(post)
    names = list(letters)
    with dropped_by_another(post, names) as (_, wait_for), concurrent.futures.ThreadPoolExecutor() as pool:
        by_api = pool.submit(post.admin, "POST", "/admin/v1/dead-letters/{}/{}/replay".format(*names[0].split("-")))
        by_tool = pool.submit(dlq, post, "replay", names[1], "--json", status=1)
        wait_for(2)
        post.close_db()
        post.kill("mysql")
        status, _, answer = by_api.result()
        assert status == 503 and "in the log again" in answer["detail"], answer
        result, why = results(by_tool.result())[names[1]]
        assert result == "failed" and "in the log again" in why
    post.start("mysql")
    for name in ("ingest-1", "settle-1", "sweep-1"):
        wait_until(lambda: post.is_ready(name), 60, f"{name} is ready")
    for user in letters.values():
        wait_until(lambda: post.balance(user) == 15, 60, "the credit")
    assert [letter(post, name)["state"] for name in names] == [1, 1]
