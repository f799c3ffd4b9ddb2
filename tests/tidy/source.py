# SPDX-License-Identifier: Apache-2.0
"""Reads the tree's C sources roughly: comments and literals blanked, functions found by counting braces."""
import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.path.join(ROOT, os.environ.get("GIFTFLOW_BUILD_DIR", "build/dev")))
TOP = ("src", "include", "bench", "tests", "schemas", "config", "k8s", ".ci")
CONTROL = {"if", "for", "while", "switch", "return", "sizeof", "do", "else"}


def files(*suffixes, under=TOP):
    """Paths relative to the root, sorted."""
    found = []
    for top in under:
        for folder, names, leaves in os.walk(os.path.join(ROOT, top)):
            names[:] = [n for n in names if n not in ("__pycache__", ".pytest_cache")]
            found += [os.path.relpath(os.path.join(folder, leaf), ROOT) for leaf in leaves if leaf.endswith(suffixes)]
    if tuple(under) == TOP:
        found += [leaf for leaf in os.listdir(ROOT) if leaf.endswith(suffixes) and os.path.isfile(os.path.join(ROOT, leaf))]
    return sorted(found)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8", errors="strict") as file:
        return file.read()


_LITERAL = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def code(text):
    """The text with comments and the contents of literals blanked; line numbers stay."""
    def blank(match):
        found = match.group(0)
        if found[0] in "\"'":
            return found[0] + " " * (len(found) - 2) + found[0]
        return re.sub(r"[^\n]", " ", found)
    return _LITERAL.sub(blank, text)


def without_directives(text):
    """Preprocessor lines and their continuations blanked: macros would upset the brace count."""
    return re.sub(r"(?m)^[ \t]*#(?:[^\n\\]|\\[^\n]|\\\n)*", lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def _parameters(text):
    """Number of parameters in the text between a function's parentheses."""
    if text.strip() in ("", "void"):
        return 0
    depth, commas = 0, 0
    for char in text:
        depth += char in "([{"
        depth -= char in ")]}"
        commas += char == "," and depth == 0
    return commas + 1


def functions(path):
    """Yields (name, first line, lines, parameters, deepest block nesting) of each function in a C file."""
    text = without_directives(code(read(path)))
    depth, start, deepest, head = 0, 0, 0, None
    for match in re.finditer(r"[{};]", text):
        at = match.start()
        if match.group(0) == "{":
            if depth == 0:
                signature = text[start:at]
                found = re.search(r"\b(\w+)\s*\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)\s*$", signature)
                inside = found and found.group(1) not in CONTROL and "=" not in signature
                head = (found.group(1), found.group(2), start + len(signature) - len(signature.lstrip())) if inside else None
                deepest = 0
            depth += 1
            deepest = max(deepest, depth)
        elif match.group(0) == "}":
            depth -= 1
            if depth == 0 and head:
                name, arguments, begin = head
                first, last = text.count("\n", 0, begin) + 1, text.count("\n", 0, at) + 1
                yield name, first, last - first + 1, _parameters(arguments), deepest - 1
                head = None
        if depth == 0:
            start = at + 1
