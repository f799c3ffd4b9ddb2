# SPDX-License-Identifier: Apache-2.0
"""Rules of the tree that a compiler does not check. Each failure names file:line and what to use instead.

Sizes (function, file, parameters, nesting) are a ratchet: tests/tidy/ratchet.json lists who is over the limit and by how
much. Nobody may join the list or grow on it by accident; `python3 tests/tidy/test_tidy.py --update` writes it anew, and the
diff of that file is what a reviewer looks at.
"""
import json
import os
import re
import subprocess
import sys

import source
from source import BUILD, ROOT, code, files, read

LIMITS = {"function_lines": 70, "file_lines": 700, "parameters": 5, "nesting": 3}
RATCHET = os.path.join(ROOT, "tests", "tidy", "ratchet.json")


def listing(problems):
    assert not problems, "%d found:\n  " % len(problems) + "\n  ".join(problems)


def matches(paths, pattern, advice, skip=()):
    found = []
    for path in paths:
        if path.startswith(tuple(skip)):
            continue
        text = code(read(path))
        for match in re.finditer(pattern, text):
            found.append("%s:%d: %s: %s" % (path, text.count("\n", 0, match.start()) + 1, match.group(0).strip(), advice))
    return found


# ---- banned words

BANNED = {
    "strcpy": "gf_copy", "strcat": "gf_buf", "sprintf": "snprintf", "vsprintf": "vsnprintf", "gets": "fgets",
    "atoi": "gf_num_parse_i64", "atol": "gf_num_parse_i64", "atoll": "gf_num_parse_i64", "strtok": "a loop",
    "strncpy": "gf_copy", "alloca": "an array with a named bound", "assert": "GF_ASSERT", "localtime": "unix milliseconds",
    "rand": "gf_random_bytes", "srand": "gf_random_bytes",
}


def test_banned_calls():
    listing([problem for name, instead in BANNED.items()
             for problem in matches(files(".c", ".h"), r"(?<![\w.>])%s\s*\(" % name, "use %s" % instead)])


def test_allocation_goes_through_the_functions_that_cannot_fail():
    listing(matches(files(".c", under=("src",)), r"(?<![\w.>])(?:malloc|calloc|realloc|strdup)\s*\(", "use gf_xmalloc and its kin",
                    skip=("src/base/",)))


def test_no_unfinished_marks():
    word = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X"))
    found = []
    for path in files(".c", ".h", ".py", ".sh", ".md", ".yaml", ".yml", ".json", ".txt", ".conf", ".sql", ".lua", ".tbl", ".html"):
        for number, line in enumerate(read(path).splitlines(), 1):
            if re.search(r"\b(?:%s)\b" % word, line):
                found.append("%s:%d: %s" % (path, number, line.strip()))
    listing(found)


def test_first_line_names_the_licence():
    found = []
    for path in files(".c", ".h", ".py", ".sh", ".cmake", ".lua", ".tbl"):
        head = read(path).splitlines()[:2]
        head = head[1:] if head and head[0].startswith("#!") else head[:1]
        if not head or "SPDX-License-Identifier: Apache-2.0" not in head[0]:
            found.append("%s:1: SPDX-License-Identifier: Apache-2.0 is missing" % path)
    listing(found)


# ---- who may include what

ROLES = ("ingest", "settle", "router", "gateway", "shared", "sweep", "tool")
VENDOR = {
    "uv.h": r"src/adapter/", "mysql.h": r"src/adapter/mysql/", "hiredis": r"src/adapter/redis/",
    "rdkafka.h": r"src/adapter/kafka/", "openssl/": r"src/adapter/crypto/", "jwt.h": r"src/adapter/crypto/",
    "llhttp.h": r"src/adapter/http/", "wslay": r"src/adapter/ws/", "jansson.h": r"src/(wire|adapter/crypto)/",
}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)


def includes(path):
    text = read(path)
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1) == "<", match.group(2)


def test_vendor_headers_stay_in_their_adapter():
    found = []
    for path in files(".c", ".h", under=("src", "include")):
        for line, _, name in includes(path):
            for vendor, folder in VENDOR.items():
                if (name.startswith(vendor) or os.path.basename(name) == vendor) and not re.match(folder, path):
                    found.append("%s:%d: %s belongs to %s" % (path, line, name, folder))
    listing(found)


def test_folders_do_not_reach_into_each_other():
    found = []
    for path in files(".c", ".h", under=("src",)):
        for line, system, name in includes(path):
            beside = os.path.exists(os.path.join(ROOT, os.path.dirname(path), name))
            if not system and not name.startswith("gf/") and not beside and not name.startswith("generated/"):
                found.append("%s:%d: \"%s\" is neither gf/ nor beside the file" % (path, line, name))
    listing(found)


def test_roles_use_libc_and_our_interfaces_only():
    libc = re.compile(r"(?:std\w+|string|strings|ctype|errno|limits|math|time|unistd|fcntl|signal|inttypes|pthread|poll|dirent|getopt|"
                      r"locale|setjmp|netdb|sys/\w+|netinet/\w+|arpa/\w+)\.h$")
    found = []
    for role in ROLES:
        for path in files(".c", ".h", under=("src/" + role,)):
            for line, system, name in includes(path):
                if system and not libc.match(name):
                    found.append("%s:%d: <%s> in a role: put it behind an adapter" % (path, line, name))
    listing(found)


# ---- the core is pure

PURE = {"memcpy", "memset", "memcmp", "memmove", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}


def compile_objects(folder, out):
    """A plain build, whatever the tests' own build has of sanitizers."""
    objects = []
    for path in files(".c", under=(folder,)):
        target = os.path.join(str(out), path.replace("/", "_") + ".o")
        subprocess.run(["gcc", "-std=gnu11", "-O1", "-fstack-protector-strong", "-D_GNU_SOURCE", '-DGF_VERSION="tidy"',
                        "-I" + os.path.join(ROOT, "include"), "-I" + os.path.join(ROOT, folder), "-c", os.path.join(ROOT, path),
                        "-o", target], check=True)
        objects.append(target)
    return objects


def symbols(objects):
    text = subprocess.run(["nm", "--format=posix"] + objects, check=True, capture_output=True, text=True).stdout
    return [line.split()[:2] for line in text.splitlines() if len(line.split()) >= 2 and not line.endswith(":")]


def test_core_is_pure_by_its_symbol_table(tmp_path):
    base = {name for name, kind in symbols(compile_objects("src/base", tmp_path)) if kind in "TWRDB"}
    core = symbols(compile_objects("src/core", tmp_path))
    own = {name for name, kind in core if kind in "TR"}
    assert "gf_settle_plan" in own and "gf_assert_failed" in base
    listing(["libgf_core: needs %s" % name for name, kind in core if kind == "U" and name not in base | own | PURE])
    listing(["libgf_core: %s is a global that can change" % name for name, kind in core if kind in "DdBbCc"])


def test_core_calls_no_clock_log_or_memory_of_base():
    listing(matches(files(".c", ".h", under=("src/core",)), r"\bgf_(?:clock|log|x(?:m|c|re)alloc|xstrdup|metric|random|backoff)\w*\s*\(",
                    "the core has values only"))


def test_amounts_are_counted_with_checked_arithmetic():
    field = r"(?:->|\.)(?:amount|balance|price|coins|debt|debt_delta|host_coins|host|debit|credit|platform|total_recharged|total_spent)\b(?!\s*\()"
    after = field + r"\s*(?:\+\+|--|[-+*/%]=|[-+*/%](?!>))"
    before = r"(?:[\w\])]\s*[-+*/%]|[=(,?:]\s*-|[-+*/%]=)\s*\w+(?:\[\w+\])?(?:(?:->|\.)\w+)*?" + field
    paths = files(".c", under=("src/core",))
    listing(matches(paths, after, "use gf_money_*") + matches(paths, before, "use gf_money_*"))


# ---- where tests stop the program

def points():
    return re.findall(r"X\((\w+), \"([^\"]+)\"\)", read("include/gf/point.h"))


def test_every_point_is_passed_once_in_the_source_and_described():
    text = "\n".join(code(read(path)) for path in files(".c", under=("src",)))
    passed = re.findall(r"\bGF_POINT\((\w+)\)", text)
    assert len(points()) > 50
    listing(["include/gf/point.h: %s is passed %d times" % (name, passed.count(name)) for name, _ in points() if passed.count(name) != 1])
    assert giftflow("points").stdout.split("\n")[:-1] == ["%-30s %s" % point for point in points()]


def test_only_one_preset_can_leave_the_database_out():
    with open(os.path.join(ROOT, "CMakePresets.json"), encoding="utf-8") as file:
        presets = json.load(file)["configurePresets"]
    assert [preset["name"] for preset in presets if "GF_NULL_STORE" in preset.get("cacheVariables", {})] == ["nullstore"]
    assert re.search(r"^option\(GF_NULL_STORE .* OFF\)$", read("CMakeLists.txt"), re.M)
    refused = giftflow("settle", "--null-store")
    assert (refused.returncode, refused.stderr) == (2, "giftflow settle: unknown argument '--null-store'\n")


def test_a_release_build_has_no_points(tmp_path):
    """Compiled as the release preset does it: without GF_POINTS. Neither code nor names nor texts may be left."""
    with open(os.path.join(ROOT, "CMakePresets.json"), encoding="utf-8") as file:
        presets = {preset["name"]: preset.get("cacheVariables", {}) for preset in json.load(file)["configurePresets"]}
    assert "GF_POINTS" not in presets["base"] and "GF_POINTS" not in presets["release"]
    assert re.search(r"^option\(GF_POINTS .* OFF\)$", read("CMakeLists.txt"), re.M)
    assert all(presets[name]["GF_POINTS"] == "ON" for name in ("dev", "clang", "asan", "tsan"))
    users = [path for path in files(".c", under=("src",)) if "gf/point.h" in read(path) or "GF_POINTS" in read(path)]
    found = []
    for flags, wanted in ((), False), (("-DGF_POINTS",), True):
        for number, path in enumerate(users):
            target = str(tmp_path / ("%d.o" % number))
            subprocess.run(["gcc", "-std=gnu11", "-O2", "-D_GNU_SOURCE", '-DGF_VERSION="tidy"', *flags, "-I" + os.path.join(ROOT, "include"),
                            "-I" + os.path.join(ROOT, os.path.dirname(path)), "-c", os.path.join(ROOT, path), "-o", target], check=True)
            with open(target, "rb") as file:
                data = file.read()
            left = b"gf_point" in data or b"GIFTFLOW_POINT" in data or b"GIFTFLOW_CLOCK" in data or any(name.encode() in data or text.encode() in data for name, text in points())
            if left != wanted:
                found.append("%s: %s of a point with %s" % (path, "something is left" if left else "nothing", flags or "no flag"))
    listing(found)


# ---- sizes, with a ratchet

def sizes():
    over = {name: {} for name in LIMITS}
    for path in files(".c", ".h"):
        lines = read(path).count("\n")
        if lines > LIMITS["file_lines"]:
            over["file_lines"][path] = lines
        for name, _, length, parameters, nesting in source.functions(path):
            for rule, value in (("function_lines", length), ("parameters", parameters), ("nesting", nesting)):
                if value > LIMITS[rule]:
                    over[rule]["%s:%s" % (path, name)] = value
    return over


def test_sizes_do_not_grow():
    with open(RATCHET, encoding="utf-8") as file:
        known = json.load(file)
    listing(["%s: %s is %d, allowed %d" % (where, rule, value, known[rule].get(where, LIMITS[rule]))
             for rule, found in sizes().items() for where, value in sorted(found.items())
             if value > known[rule].get(where, LIMITS[rule])])


def test_the_size_counter_finds_functions():
    found = {name: (lines, parameters, nesting) for name, _, lines, parameters, nesting in source.functions("src/core/catalogue.c")}
    assert set(found) == {"gf_catalogue_find", "valid_at", "tolerated", "gf_gift_accepts", "gf_gift_on_sale", "gf_gift_price"}
    assert found["valid_at"] == (6, 2, 0)
    assert found["gf_gift_accepts"][1:] == (4, 1)


# ---- headers

def test_every_public_header_compiles_alone(tmp_path):
    found = []
    for path in files(".h", under=("include/gf",)):
        probe = tmp_path / "probe.c"
        probe.write_text('#include "%s"\n#include "%s"\ntypedef int probe;\n' % ((path[len("include/"):],) * 2))
        run = subprocess.run(["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wno-unused", "-Werror", "-fsyntax-only",
                              "-I" + os.path.join(ROOT, "include"), str(probe)], capture_output=True, text=True)
        if run.returncode != 0:
            found.append("%s: %s" % (path, run.stderr.strip()))
    listing(found)


def test_public_headers_include_only_our_own_and_libc():
    found = []
    for path in files(".h", under=("include/gf",)):
        for line, system, name in includes(path):
            if system == name.startswith("gf/") or "/" in name and not name.startswith(("gf/", "sys/")):
                found.append("%s:%d: %s" % (path, line, name))
    listing(found)


# ---- generated and documented things are fresh

def giftflow(*arguments):
    binary = os.path.join(BUILD, "giftflow")
    assert os.path.exists(binary), "%s is not built" % binary
    return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT,
                          env={k: v for k, v in os.environ.items() if not k.startswith("GIFTFLOW_")})


def test_config_reference_is_fresh():
    doc = giftflow("config", "doc")
    assert doc.returncode == 0, doc.stderr
    assert doc.stdout == read("config/reference.md"), "run: giftflow config doc > config/reference.md"


def test_example_configuration_is_accepted():
    run = giftflow("config", "check", "--config", "config/giftflow.conf")
    assert run.returncode == 0, run.stdout + run.stderr


def test_defaults_are_a_configuration(tmp_path):
    defaults = giftflow("config", "defaults")
    assert defaults.returncode == 0, defaults.stderr
    path = tmp_path / "defaults.conf"
    path.write_text(defaults.stdout)
    run = giftflow("config", "check", "--config", str(path))
    assert run.returncode == 0, run.stdout + run.stderr


def metric_families():
    text = read("include/gf/metrics.h")
    string = r'"((?:[^"\\]|\\.)*)"'
    rows = [(m[2], m[1].lower(), m[4]) for m in re.finditer(r'X\(\w+, (COUNTER|GAUGE), %s, %s, %s\)' % (string, string, string), text)]
    rows += [(m[1], "histogram", m[2]) for m in re.finditer(r'H\(\w+, %s, %s\)' % (string, string), text)]
    return list(dict.fromkeys(rows))


def metrics_reference():
    lines = ["# Metrics", "", "Generated from include/gf/metrics.h by `python3 tests/tidy/test_tidy.py --update`. Every role serves all",
             "families at /metrics of its operations port; those of other roles stay 0. Histograms whose name ends in _seconds are in seconds, others count.", "",
             "| family | kind | meaning |", "|---|---|---|"]
    lines += ["| %s | %s | %s |" % row for row in metric_families()]
    return "\n".join(lines) + "\n"


def test_metrics_are_documented():
    families = metric_families()
    assert len(families) > 20
    listing(["%s: %d HELP texts" % (name, sum(1 for row in families if row[0] == name)) for name in {row[0] for row in families}
             if sum(1 for row in families if row[0] == name) > 1])
    listing(["%s: a counter ends in _total" % name for name, kind, _ in families if (kind == "counter") != name.endswith("_total")])
    assert read("config/metrics.md") == metrics_reference(), "run: python3 tests/tidy/test_tidy.py --update"


def test_every_metric_and_config_key_is_used():
    text = "\n".join(code(read(path)) for path in files(".c", under=("src",)))
    ids = re.findall(r"[XH]\((\w+), (?:COUNTER|GAUGE|\")", read("include/gf/metrics.h"))
    listing(["include/gf/metrics.h: %s is never counted" % name for name in ids if not re.search(r"\bGF_[MH]_%s\b" % name, text)])
    keys = re.findall(r"X\((\w+), (\w+), (?:INT|BOOL|MS|BYTES|TEXT),", read("include/gf/config.h"))
    listing(["include/gf/config.h: %s.%s is never read" % key for key in keys if not re.search(r"\b%s_%s\b" % key, text)])


# ---- the tree talks about itself only

def test_nothing_points_outside_the_tree():
    word = re.compile("|".join(("/wo" + "rk/", "/tmp/pl" + "an", "shared/(?:design|protocols|schedules|style)")))
    found = []
    for path in files(".c", ".h", ".py", ".sh", ".md", ".yaml", ".yml", ".json", ".txt", ".conf", ".sql", ".lua", ".html", ".tbl"):
        for number, line in enumerate(read(path).splitlines(), 1):
            if word.search(line):
                found.append("%s:%d: %s" % (path, number, line.strip()))
    listing(found)


# ---- schedules

SCHEDULES = ["F%d" % n for n in range(1, 21) if n != 14]


def test_every_schedule_has_a_test_that_exists():
    """tests/SCHEDULES.md: a row for each number; PATH::NAME is a function there, or a case of a table."""
    text, wrong, numbered = read("tests/SCHEDULES.md"), [], set()
    for line in text.splitlines():
        tests = re.findall(r"`([\w/]+\.\w+)::(\w+)`", line)
        row = re.match(r"\| (F\d+) \|", line)
        if row and tests:
            numbered.add(row.group(1))
        for path, name in tests:
            body = read("tests/" + path) if os.path.exists(os.path.join(ROOT, "tests", path)) else ""
            found = {".py": r"^def %s\(", ".c": r"^static void %s\(", ".tbl": r"^case %s "}[os.path.splitext(path)[1]]
            if not re.search(found % re.escape(name), body, re.M):
                wrong.append("tests/SCHEDULES.md: there is no %s::%s" % (path, name))
    listing(wrong + ["tests/SCHEDULES.md: no test of %s" % number for number in SCHEDULES if number not in numbered])


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        sys.exit("usage: test_tidy.py --update   (the tests run under pytest)")
    with open(RATCHET, "w", encoding="utf-8") as out:
        json.dump(sizes(), out, indent=2, sort_keys=True)
        out.write("\n")
    with open(os.path.join(ROOT, "config", "metrics.md"), "w", encoding="utf-8") as out:
        out.write(metrics_reference())
