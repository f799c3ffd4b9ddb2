# SPDX-License-Identifier: Apache-2.0
"""The schemas and the code say the same: what we write validates, and the decoder takes what the schema takes."""
import copy
import json
import os
import random
import re
import subprocess

import jsonschema
import yaml

from source import BUILD, read

RECORDS = os.path.join(BUILD, "test_records")


def validator(name):
    schema = json.loads(read("schemas/%s.schema.json" % name))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def run(*arguments, text=""):
    done = subprocess.run([RECORDS, *arguments], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_schemas_are_schemas():
    for name in ("command", "notice", "catalogue", "dead_letter"):
        validator(name)


def test_what_is_encoded_is_valid():
    checks = {"command": validator("command"), "notice": validator("notice"), "frame": validator("notice")}
    seen = set()
    for line in run("--print"):
        what, key, value = line.split(" ", 2)
        record = json.loads(value)
        checks[what].validate(record)
        assert ("seq" in record) == (what == "frame")
        if what == "notice":
            assert key == ("r:%d" % record["room_id"] if record["ch"] == "room" else "u:%d" % record["user_id"])
            seen.add(record["code"])
    assert seen == {5556, 5557, 5558, 5559}


GIFT = {"v": 1, "type": "gift", "request_id": "018f6f2e-7b1c-7c3a-9d2e-0123456789ab", "user_id": 1, "receiver_id": 2, "room_id": 3,
        "gift_id": 22, "price": 90, "quantity": 1, "gift_type": 0, "ts": 5}
CREDIT = {"v": 1, "type": "credit", "request_id": "018f6f2e-7b1c-8c3a-9d2e-0123456789ab", "user_id": 1, "kind": "adjust", "ts": 5}
ODD = [0, 1, -1, 2, 127, 128, 2**31 - 1, 2**31, -2**31, -2**31 - 1, 2**53 - 1, 2**53, 2**63 - 1, 2**63, -2**63, -2**63 - 1, 10**30, 1.5, True,
       None, "", "1", "gift", "credit", "recharge", "adjust", "gift_refund", "chargeback", [], {}, [1],
       "018F6F2E-7B1C-7C3A-9D2E-0123456789AB", "018f6f2e-7b1c-8c3a-9d2e-0123456789ab", "018f6f2e-7b1c-4c3a-9d2e-0123456789ab",
       "00000000-0000-0000-0000-000000000000", "018f6f2e7b1c7c3a9d2e0123456789ab", "018f6f2e-7b1c-7c3a-9d2e-0123456789ab "]


def test_decoder_takes_what_the_schema_takes():
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    check = validator("command")
    records = []
    for base in (GIFT, CREDIT):
        records += [dict(base, **{field: value}) for field in base for value in ODD]
        records += [{k: v for k, v in base.items() if k != field} for field in base]
        for _ in range(500):
            record = copy.deepcopy(base)
            for _ in range(chance.randrange(4)):
                record[chance.choice(sorted(set(GIFT) | set(CREDIT) | {"coins", ""}))] = chance.choice(ODD)
            records.append(record)
    answers = run("--decode", text="".join(json.dumps(r) + "\n" for r in records))
    assert len(answers) == len(records)
    wrong = [(json.dumps(r), a) for r, a in zip(records, answers) if check.is_valid(r) != a.startswith("none ")]
    assert not wrong, wrong[:5]
    assert 100 < sum(a.startswith("none ") for a in answers) < len(answers) - 100


def test_dead_letter_schema_lists_every_reason():
    table = read("include/gf/outcome.h").split("GF_DEAD_MAP(X)")[1].split("#define")[0]
    reasons = re.findall(r'X\(\w+, \d+, "(\w+)"', table)
    assert json.loads(read("schemas/dead_letter.schema.json"))["properties"]["reason"]["enum"] == reasons


def test_openapi_names_every_problem_code():
    """Clients branch on them; which operation gives which one, test_openapi.py of the integration tests sees."""
    written = set(re.findall(r'X\([A-Z_]+, [45]\d\d, "([a-z_]+)"', read("src/ingest/ingest.h")))
    for name in ("parser.c", "server.c"):
        written |= set(re.findall(r'refuse\(\w+, [45]\d\d, "([a-z_]+)"', read("src/adapter/http/" + name)))
    assert {"internal_error", "unavailable", "headers_too_large", "request_timeout"} <= written
    documented = read("schemas/openapi.yaml")
    named = set(re.findall(r"[45]\d\d\s+`([a-z_]+)`", documented))
    for codes in re.findall(r"code: \{enum: \[([a-z_, ]+)\]", documented):
        named |= set(codes.split(", "))
    assert named == written


def test_asyncapi_refers_to_what_exists():
    document = yaml.safe_load(read("schemas/asyncapi.yaml"))
    assert document["asyncapi"] == "3.0.0"

    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    for ref in walk(document):
        path, _, pointer = ref.partition("#")
        target = document if not path else json.loads(read(os.path.join("schemas", path)))
        for part in pointer.strip("/").split("/") if pointer else ():
            assert part in target, "%s points at nothing" % ref
            target = target[part]
    check = validator("command")
    for name in ("gift", "credit"):
        for example in document["components"]["messages"][name]["examples"]:
            check.validate(example["payload"])
