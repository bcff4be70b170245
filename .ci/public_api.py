#!/usr/bin/env python3
"""Compares the public API of the library with docs/public-api.txt, or writes that file with --update.

What is public comes from rustdoc's JSON, which is not stable: another version of Rust may need a change
here. Left out are traits that hold for every type, such as Any, and the guide, a module that is in the
documentation only.
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
# Not that of other commands: the variable that allows JSON would have them compile all again.
TARGET = ROOT / "target/public-api"

# The version of the JSON that this reads.
FORMAT = 57

# Others are unstable.
AUTO_TRAITS = {"RefUnwindSafe", "Send", "Sync", "Unpin", "UnwindSafe"}


class Crate:
    def __init__(self, path):
        crate = json.loads(path.read_text())
        if crate["format_version"] != FORMAT:
            print(f"rustdoc's format is {crate['format_version']}, not {FORMAT}", file=sys.stderr)
        self.index = crate["index"]
        self.root = self.item(crate["root"])

    def item(self, number):
        return self.index.get(str(number))

    def items(self, numbers):
        return [item for item in map(self.item, numbers) if item]

    def lines(self):
        """Each type or function, with its parts indented below."""
        entries = []
        for item in self.items(body(self.root)["items"]):
            if kind(item) == "use":
                target = self.item(body(item)["id"])
                entries.append(self.entry(target) if target else [f"use {body(item)['source']}"])
            elif item["name"] != "guide":
                entries.append(self.entry(item))
        return [line for entry in sorted(entries, key=last_word) for line in entry]

    def entry(self, item):
        if kind(item) == "function":
            return [function(item)]
        parts, traits = [], []
        if kind(item) == "struct":
            parts += self.fields(body(item)["kind"])
        if kind(item) == "enum":
            parts += map(self.variant, self.items(body(item)["variants"]))
        for implementation in self.items(body(item)["impls"]):
            if body(implementation)["trait"] is None:
                parts += map(member, self.public(body(implementation)["items"]))
            else:
                traits += self.trait(body(implementation))
        if traits:
            traits = ["impl " + ", ".join(sorted(traits))]
        exhaustive = "#[non_exhaustive] " if "non_exhaustive" in str(item["attrs"]) else ""
        heading = f"{exhaustive}{kind(item)} {item['name']}"
        return [heading] + ["    " + part for part in sorted(parts, key=name_in) + traits]

    def fields(self, shape):
        if shape == "unit":
            return []
        numbers = shape["plain"]["fields"] if "plain" in shape else shape["tuple"]
        return [field(item) for item in self.public(filter(None, numbers))]

    def variant(self, item):
        shape, name = body(item)["kind"], item["name"]
        if shape == "plain":
            return name
        if "tuple" in shape:
            types = [render(body(item)) for item in self.items(shape["tuple"])]
            return f"{name}({', '.join(types)})"
        return f"{name} {{ {', '.join(map(field, self.items(shape['struct']['fields'])))} }}"

    def public(self, numbers):
        return [item for item in self.items(numbers) if item["visibility"] == "public"]

    def trait(self, implementation):
        """The name of the trait with its types, if it belongs into the list."""
        name = path(implementation["trait"]).rpartition("::")[2]
        if implementation["is_synthetic"]:
            return [name] if name in AUTO_TRAITS and not implementation["is_negative"] else []
        if implementation["blanket_impl"] or name == "StructuralPartialEq":
            return []
        items = self.items(implementation["items"])
        types = [item for item in items if kind(item) == "assoc_type"]
        return [name + "".join(f" {{ {it['name']} = {render(body(it)['type'])} }}" for it in types)]


def kind(item):
    return next(iter(item["inner"]))


def body(item):
    return item["inner"][kind(item)]


def member(item):
    return constant(item) if kind(item) == "assoc_const" else function(item)


def field(item):
    return f"{item['name']}: {render(body(item))}"


def function(item):
    sig, header = body(item)["sig"], body(item)["header"]
    names = [parameter["name"] for parameter in body(item)["generics"]["params"]]
    if not all(name.startswith("impl ") for name in names):
        sys.exit(f"{item['name']}: generic parameters are not written yet: see {__file__}")
    inputs = ", ".join(f"{name}: {render(type)}" for name, type in sig["inputs"])
    inputs = re.sub(r"^self: (&?(?:mut )?)Self\b", r"\1self", inputs)
    output = f" -> {render(sig['output'])}" if sig["output"] else ""
    qualifiers = [word for word in ("const", "async", "unsafe") if header[f"is_{word}"]]
    return " ".join([*qualifiers, "fn", f"{item['name']}({inputs}){output}"])


def constant(item):
    """The value is that of the source: rustdoc has only the simplest ones."""
    span = item["span"]
    (first, _), (last, _) = span["begin"], span["end"]
    lines = (ROOT / span["filename"]).read_text().splitlines()[first - 1 : last]
    value = " ".join(line.strip() for line in lines).partition(" = ")[2].rstrip(";")
    return f"const {item['name']}: {render(body(item)['type'])} = {value}"


def render(type):
    """The type as Rust writes it. What the API does not have yet is an error."""
    name, content = next(iter(type.items()))
    match name:
        case "primitive" | "generic":
            return content
        case "resolved_path":
            return path(content)
        case "borrowed_ref":
            lifetime = f"{content['lifetime']} " if content["lifetime"] else ""
            return f"&{lifetime}{'mut ' * content['is_mutable']}{render(content['type'])}"
        case "slice":
            return f"[{render(content)}]"
        case "array":
            return f"[{render(content['type'])}; {content['len']}]"
        case "tuple":
            return f"({', '.join(map(render, content))})"
        case "impl_trait":
            return "impl " + " + ".join(path(bound["trait_bound"]["trait"]) for bound in content)
    sys.exit(f"types of the kind {name} are not written yet: see {__file__}")


def path(content):
    # rustdoc has some paths as the source has them, and others in full.
    name = re.sub(r"^(crate|mio|std)::(\w+::)*", "", content["path"])
    if not content["args"]:
        return name
    parts = content["args"]["angle_bracketed"]
    arguments = [it.get("lifetime") or render(it["type"]) for it in parts["args"]]
    for each in parts["constraints"]:
        arguments.append(f"{each['name']} = {render(each['binding']['equality']['type'])}")
    return f"{name}<{', '.join(arguments)}>" if arguments else name


def name_in(part):
    return re.sub(r"^((const|async|unsafe|fn) )+", "", part)


def last_word(entry):
    return entry[0].split()[-1]


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
        lines = difflib.unified_diff(
            before.splitlines(), text.splitlines(), LIST.name, "the source", lineterm=""
        )
        print(*lines, sep="\n", flush=True)
        sys.exit("the public API changes: if that is meant, run .ci/public_api.py --update")


if __name__ == "__main__":
    main()
