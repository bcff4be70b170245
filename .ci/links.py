"""The links in the documents: each leads to a file that exists, and to a heading in it.

usage: .ci/links.py

A document that is packed for crates.io must link to packed files only. Packages of their own, such as
benches, are not packed: links to them lead to the repository, if Cargo.toml names it. Links to other
hosts are not followed. Needs git and cargo.
"""

import pathlib
import re
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[1]
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def lines_of(*command):
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return output.splitlines()


def without_code(text):
    """Blank, so that the numbers of lines stay."""
    return CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)


def anchors(document):
    """As GitHub makes them of the headings: repeated ones are numbered."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    seen = {}
    for heading in HEADING.findall(text):
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        number = seen[anchor] = seen.get(anchor, -1) + 1
        yield f"{anchor}-{number}" if number else anchor


def problem(document, link, packed):
    """What is wrong with a link, if anything is."""
    url = urllib.parse.urlsplit(link)
    if url.scheme:
        return None
    target = (document.parent / urllib.parse.unquote(url.path)).resolve() if url.path else document
    if not target.exists():
        return "no such file"
    if url.fragment and url.fragment not in anchors(target):
        return "no such heading"
    if document in packed and not (is_packed(target, packed) or is_in_other_package(target)):
        return "not packed"
    return None


def is_packed(target, packed):
    return any(path == target or target in path.parents for path in packed)


def is_in_other_package(target):
    folders = [target, *target.parents]
    below = folders[: folders.index(ROOT)] if ROOT in folders else []
    return any((folder / "Cargo.toml").exists() for folder in below)


def main():
    documents = [ROOT / name for name in lines_of("git", "ls-files", "*.md")]
    packed = {ROOT / name for name in lines_of("cargo", "package", "--list", "--allow-dirty")}
    links = problems = 0
    for document in documents:
        text = without_code(document.read_text(encoding="utf-8"))
        for link in LINK.finditer(text):
            links += 1
            if found := problem(document, link[1], packed):
                problems += 1
                line = text.count("\n", 0, link.start()) + 1
                print(f"{document.relative_to(ROOT)}:{line}: {link[1]}: {found}")
    print(f"{links} links in {len(documents)} documents, {problems} broken")
    # A script that has checked nothing must not look as if it had.
    return 0 if links and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
