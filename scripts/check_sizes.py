#!/usr/bin/env python3
"""No file of `src` has more than 500 lines of code, but those that `LONG` names with their reason.

    scripts/check_sizes.py [SRC]

A line of code has more on it than a comment; tests do not count. A file in `LONG` that is not longer any more fails too.
"""

import sys
from pathlib import Path

from rust_source import Crate

MOST = 500
LONG = {
    "src/config/build.rs": "one function for each section of the file, all of one shape",
    "src/api/admin/table.rs": "the table of the admin API's routes: a row for each, nothing to follow",
    "src/config/spec.rs": "the table of configuration keys: a line for each, nothing to follow",
    "src/events.rs": "one function for each thing that happens, all of one shape",
}


def report(code, long):
    """The lines to print, and whether all is well."""
    failures = []
    for file, lines in sorted(code.items()):
        if lines > MOST and file not in long:
            failures.append(f"FAIL  {file} has {lines} lines of code, more than {MOST}: split it by its jobs")
    for file in sorted(long):
        if code.get(file, 0) <= MOST:
            failures.append(f"FAIL  {file} is not longer than {MOST}: strike it from LONG in scripts/check_sizes.py")
    by_length = sorted(long.keys() & code.keys(), key=lambda file: -code[file])
    named = [f"      {code[file]:>5} {file}: {long[file]}" for file in by_length]
    good = [f"ok    files above {MOST} lines of code, of {len(code)} in src:"]
    return (failures or good) + named, not failures


def main():
    src = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "src"
    lines, is_well = report(Crate(src).code, LONG)
    print("\n".join(lines))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
