#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Are the tests worth anything? Each patch here is a bug that systems of this kind really have. This applies one after the other in a
scratch copy of HEAD, builds it, runs the tests and says which one caught it. A mutant that survives is a missing test.

    tests/mutants/run.py [--list] [--quick] [NAME...]      the results go to build/mutants/results.md, too

A patch begins with "Bug:" (one line) and "Try:" (tests that ought to catch it, run first: unit:NAME for a program of ctest, else a file of
tests/integration with pytest's ::selectors). They must pass without the patch. Where none of them fails with it, everything else is run.
--quick leaves both out: for a HEAD that has just passed. Needs what ./dev test has set up."""

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "build" / "mutants"
TREE = WORK / "tree"
PYTEST = ["/usr/bin/python3", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]


class Mutant:
    def __init__(self, path):
        self.path, self.name = path, path.stem
        head = dict(re.findall(r"^(Bug|Try): (.+)$", path.read_text(), re.M))
        self.bug, self.tests = head["Bug"], head["Try"].split()


def run(command, cwd=TREE, timeout=1800, **kwargs):
    """-> (status, output); a process that hangs is a caught one."""
    with open(WORK / "last.log", "w+", encoding="utf-8", errors="replace") as log:
        try:
            status = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, timeout=timeout, **kwargs).returncode
        except subprocess.TimeoutExpired:
            status = "time-out"
        log.seek(0)
        return status, log.read()


def prepare():
    WORK.mkdir(parents=True, exist_ok=True)
    if not TREE.exists():
        subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(TREE)], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["git", "fetch", "-q", "origin", head], cwd=TREE, check=True)
    subprocess.run(["git", "checkout", "-q", "-f", "--detach", head], cwd=TREE, check=True)
    kafka = TREE / "build" / "kafka"
    if not kafka.exists() and (ROOT / "build" / "kafka").exists():
        kafka.parent.mkdir(exist_ok=True)
        kafka.symlink_to(ROOT / "build" / "kafka")
    return head


def build():
    status, output = run(["./dev", "build", "dev"])
    return None if status == 0 else output[-2000:]


def unit_tests(*select):
    """None, or what failed."""
    status, output = run(["ctest", "--test-dir", "build/dev", "--output-on-failure", "--stop-on-failure", "--timeout", "300", *select])
    if status == 0:
        return None
    failed = re.findall(r"^\s*\d+ - (\S+) \(", output, re.M) or [str(status)]
    line = re.search(r"\[  FAILED  \] \S+: .*|\[  FAILED  \] (\w+)$|does not hold.*|assertion.*|not ok.*", output)
    return f"unit:{failed[0]}" + (f" ({line.group(0).strip()[:80]})" if line else "")


def integration_tests(*select):
    env = {**os.environ, "GIFTFLOW_BUILD": "dev", "TMPDIR": str(WORK / "tmp")}
    (WORK / "tmp").mkdir(exist_ok=True)
    status, output = run([*PYTEST, *select], cwd=TREE / "tests" / "integration", env=env)
    for directory in (WORK / "tmp").iterdir():  # what a hanging one has left
        if (directory / "ports").exists():
            run(["./dev", "down", "--dir", str(directory), "--purge"])
    shutil.rmtree(WORK / "tmp", ignore_errors=True)
    if status == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    return failed.group(1) if failed else f"pytest: {status}"


def hunt(mutant, quick):
    """Which test catches it; None: no test does."""
    for test in mutant.tests:
        caught = unit_tests("-R", f"^{test[5:]}$") if test.startswith("unit:") else integration_tests(test)
        if caught:
            return caught
    return None if quick else unit_tests("-LE", "tidy") or integration_tests(".")


def judge(mutant, quick):
    subprocess.run(["git", "checkout", "-q", "-f", "."], cwd=TREE, check=True)
    applied = subprocess.run(["git", "apply", str(mutant.path)], cwd=TREE, capture_output=True, text=True)
    if applied.returncode != 0:
        return "does not apply: " + applied.stderr.strip().splitlines()[0], False
    try:
        broken = build()
        if broken:
            return "does not build: " + broken.strip().splitlines()[-1], False
        caught = hunt(mutant, quick)
        return caught or "SURVIVES", caught is not None
    finally:
        subprocess.run(["git", "checkout", "-q", "-f", "."], cwd=TREE, check=True)


def check_unchanged(mutants):
    """The tests named must pass without a bug, or they would prove nothing."""
    broken = build()
    if broken:
        sys.exit(f"HEAD does not build:\n{broken}")
    names = sorted({test for mutant in mutants for test in mutant.tests})
    units = [name[5:] for name in names if name.startswith("unit:")]
    failed = unit_tests("-R", f"^({'|'.join(units)})$") if units else None
    files = [name for name in names if not name.startswith("unit:")]
    failed = failed or (integration_tests(*files) if files else None)
    if failed:
        sys.exit(f"without any mutant {failed} fails")


def main():
    parser = argparse.ArgumentParser(usage="tests/mutants/run.py [--list] [--quick] [NAME...]")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    mutants = [Mutant(path) for path in sorted(HERE.glob("*.patch"))]
    unknown = set(options.names) - {mutant.name for mutant in mutants}
    if unknown:
        parser.error("no such mutant: " + ", ".join(sorted(unknown)))
    mutants = [mutant for mutant in mutants if not options.names or mutant.name in options.names]
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name:40} {mutant.bug}")
        return 0
    head = prepare()
    if not options.quick:
        check_unchanged(mutants)
    lines, survived = [], 0
    for mutant in mutants:
        began = time.monotonic()
        said, caught = judge(mutant, options.quick)
        survived += not caught
        print(f"{'caught' if caught else 'NOT CAUGHT':10} {mutant.name:40} {said} ({time.monotonic() - began:.0f} s)", flush=True)
        lines.append(f"| {mutant.name} | {mutant.bug} | {said} |")
    with open(WORK / "results.md", "w", encoding="utf-8") as results:
        results.write(f"{datetime.date.today()}, {head[:10]}\n\n| mutant | bug | caught by |\n|---|---|---|\n" + "\n".join(lines) + "\n")
    print(f"{len(mutants) - survived} caught, {survived} not")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
