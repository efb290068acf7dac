#!/usr/bin/env python3
"""No line of Rust in `src` is longer than 110 characters, and no line of Markdown longer than 120.

    scripts/check_lines.py [ROOT]

What cannot be broken does not count: a raw string on a line (such as a stored record in a test), an address, a cited
test, a table or a block of code in Markdown. A file in `LONG`, or a folder there, is left out with its reason; an
entry fails once it has no long line.
"""

import re
import sys
from pathlib import Path

RUST, MARKDOWN = 110, 120
LONG = {
    "src/api/examples.rs": "a sentence of an answer, in a raw string of several lines",
    "src/public/page.rs": "a template: a line break would be sent to browsers",
}
RAW = re.compile(r"""\bb?r(#*)".*?"\1(?!#)""")
# An address, or a test that is cited by its file and name.
ADDRESS = re.compile(r"\S*(://|\.rs::)\S*")


def long_rust(text):
    """The numbers of lines that are too long."""
    return [
        number
        for number, line in enumerate(text.splitlines(), 1)
        if len(ADDRESS.sub("", RAW.sub("", line))) > RUST
    ]


def long_markdown(text):
    found, is_code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        is_fence = line.lstrip().startswith("```")
        is_code ^= is_fence
        is_free = is_code or is_fence or line.lstrip().startswith("|")
        if not is_free and len(ADDRESS.sub("", line)) > MARKDOWN:
            found.append(number)
    return found


def sources(root):
    """Each file to check: its name and its lines that are too long."""
    for path in sorted((root / "src").rglob("*.rs")):
        yield path.relative_to(root).as_posix(), long_rust(path.read_text())
    for path in sorted(root.rglob("*.md")):
        parts = path.relative_to(root).parts
        if not any(part in {"target", "node_modules"} or part.startswith(".") for part in parts):
            yield "/".join(parts), long_markdown(path.read_text())


def report(found, long):
    """The lines to print, and whether all is well. `found` has the long lines of each file."""

    def entry(file):
        return next((name for name in long if file == name or (name.endswith("/") and file.startswith(name))), None)

    failures = [
        f"FAIL  {file}:{number} is longer than {MARKDOWN if file.endswith('.md') else RUST} characters"
        for file, numbers in found.items()
        if entry(file) is None
        for number in numbers
    ]
    used = {entry(file) for file, numbers in found.items() if numbers}
    for name in sorted(long):
        if name not in used:
            failures.append(f"FAIL  {name} has no long line: strike it from LONG in scripts/check_lines.py")
    named = [f"      {file}: {long[file]}" for file in sorted(long)]
    return (failures or [f"ok    lines, in {len(found)} files, but for:"]) + named, not failures


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    lines, is_well = report(dict(sources(root)), LONG)
    print("\n".join(lines))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
