#!/usr/bin/env python3
"""Compares the public API of the library with docs/public-api.txt, or writes that file with --update.

rustdoc's JSON says what is public; the signatures are the text of the source. Traits that hold for each
type, such as Any, are left out, and so is the guide, which is a module in the documentation only.
"""

import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = ROOT / "docs/public-api.txt"
# Not the target directory of other commands: the variable that allows JSON would rebuild all there.
TARGET = ROOT / "target/public-api"

# Others are unstable.
AUTO_TRAITS = {"RefUnwindSafe", "Send", "Sync", "Unpin", "UnwindSafe"}


class Crate:
    def __init__(self, path):
        crate = json.loads(path.read_text())
        self.index = crate["index"]
        self.root = self.item(crate["root"])

    def item(self, number):
        return self.index.get(str(number))

    def items(self, numbers):
        return [item for item in map(self.item, numbers) if item]

    def lines(self):
        """The lines of the list: each type or function, with its parts indented below."""
        entries = []
        for item in self.items(body(self.root)["items"]):
            if kind(item) == "use":
                target = self.item(body(item)["id"])
                entries.append(self.entry(target) if target else [f"pub use {body(item)['source']}"])
            elif item["name"] != "guide":
                entries.append(self.entry(item))
        return [line for entry in sorted(entries, key=by_name) for line in entry]

    def entry(self, item):
        parts = []
        if kind(item) == "struct":
            parts += self.fields(body(item)["kind"])
        elif kind(item) == "enum":
            for variant in self.items(body(item)["variants"]):
                parts.append(variant["name"] + self.variant_fields(variant))
        traits = []
        for implementation in self.items(body(item).get("impls", [])):
            if body(implementation)["trait"] is None:
                parts += self.public(body(implementation)["items"])
            elif name := self.trait(implementation):
                traits.append(name)
        if traits:
            parts.append("impl " + ", ".join(sorted(traits)))
        exhaustive = "#[non_exhaustive] " if "non_exhaustive" in str(item["attrs"]) else ""
        return [exhaustive + signature(item)] + ["    " + part for part in sorted(parts, key=name_of)]

    def fields(self, shape):
        if shape == "unit":
            return []
        numbers = shape["plain"]["fields"] if "plain" in shape else shape["tuple"]
        return self.public(number for number in numbers if number is not None)

    def variant_fields(self, variant):
        shape = body(variant)["kind"]
        if shape == "plain":
            return ""
        if "tuple" in shape:
            types = [signature(field) for field in self.items(shape["tuple"])]
            return f"({', '.join(types)})"
        fields = [signature(field) for field in self.items(shape["struct"]["fields"])]
        return f" {{ {', '.join(fields)} }}"

    def public(self, numbers):
        return [signature(item) for item in self.items(numbers) if item["visibility"] == "public"]

    def trait(self, item):
        """The trait of an implementation, or None if it does not belong into the list."""
        implementation = body(item)
        name = implementation["trait"]["path"].rpartition("::")[2]
        if implementation["blanket_impl"] or name == "StructuralPartialEq":
            return None
        if implementation["is_synthetic"]:
            is_listed = name in AUTO_TRAITS and not implementation["is_negative"]
            return name if is_listed else None
        text = signature(item)
        if not text.startswith("impl"):
            return name  # Derived.
        items = self.items(implementation["items"])
        types = [f" {{ {signature(each)} }}" for each in items if kind(each) == "assoc_type"]
        arguments = text.partition(" for ")[0].partition(name)[2]
        return name + arguments + "".join(types)


def kind(item):
    return next(iter(item["inner"]))


def body(item):
    return item["inner"][kind(item)]


def signature(item):
    """The text of an item up to its body, on one line."""
    text = source(item)
    if kind(item) == "function" and not re.search(rf"\bfn {item['name']}\b", text):
        text = in_macro(item)
    if kind(item) == "struct":
        text = re.match(r"[^({;]*", text)[0]
    elif kind(item) != "assoc_const":
        text = text.partition("{")[0]
    text = " ".join(text.split())
    return re.sub(r"(?<=\() |,? (?=\))", "", text).rstrip(" ,;")


def source(item):
    span = item["span"]
    lines = (ROOT / span["filename"]).read_text().splitlines()
    (first, start), (last, end) = span["begin"], span["end"]
    lines = lines[first - 1 : last]
    lines[-1] = lines[-1][: end - 1]
    lines[0] = lines[0][start - 1 :]
    return "\n".join(lines)


def in_macro(item):
    """A function that a macro makes: its span is the call of the macro, in the same file."""
    text = (ROOT / item["span"]["filename"]).read_text()
    return re.search(rf"pub (const )?fn {item['name']}\b[^{{]*", text)[0]


def name_of(line):
    """Sorts members by their names, and traits last."""
    words = line.replace("(", " ").split()
    return (words[0] == "impl", [word for word in words if word not in ("pub", "const", "fn")])


def by_name(entry):
    return re.sub(r"^(#\S+ )?(pub )?(struct|enum|fn|use|trait|type) ", "", entry[0])


def document():
    """Runs rustdoc, and returns the path of its output."""
    command = ["cargo", "rustdoc", "--quiet", "--locked", "--lib", "--no-default-features"]
    command += ["--", "-Zunstable-options", "--output-format=json"]
    environment = dict(os.environ, RUSTC_BOOTSTRAP="1", CARGO_TARGET_DIR=str(TARGET))
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return TARGET / "doc/mio_echo.json"


def main():
    text = "".join(line + "\n" for line in Crate(document()).lines())
    if sys.argv[1:] == ["--update"]:
        LIST.write_text(text)
        return
    before = LIST.read_text()
    if text != before:
        names = ("docs/public-api.txt", "the source")
        lines = difflib.unified_diff(before.splitlines(), text.splitlines(), *names, lineterm="")
        print("\n".join(lines))
        sys.exit("the public API changes: if that is meant, run .ci/public_api.py --update")


if __name__ == "__main__":
    main()
