#!/usr/bin/env python3
"""No file of `src` uses another that uses it, directly or through others.

    scripts/check_circles.py [SRC]

A `use` and a path in the code count for the file that defines what they name, through re-exports. Not counted: that a
module declares another or hands on its names; that it uses what a module above it defines; code for tests. Prints each
circle, and fails on one that `KNOWN` does not name.
"""

import sys
from pathlib import Path

from rust_source import Crate

# Circles that are still there. The list may only get shorter: a file in it that is in no circle any more fails.
KNOWN = []


def circles(edges):
    """The sets of files that can reach each other (Tarjan), sorted."""
    order, low, stack, found = {}, {}, [], []

    def visit(file):
        order[file] = low[file] = len(order)
        stack.append(file)
        for other in sorted(edges.get(file, ())):
            if other not in order:
                visit(other)
                low[file] = min(low[file], low[other])
            elif other in stack:
                low[file] = min(low[file], order[other])
        if low[file] == order[file]:
            at = stack.index(file)
            members = stack[at:]
            del stack[at:]
            if len(members) > 1:
                found.append(sorted(members))

    sys.setrecursionlimit(10_000)
    for file in sorted(edges):
        if file not in order:
            visit(file)
    return sorted(found)


def shortest(edges, members):
    """The files of a shortest circle within `members`."""
    best = None
    for start in members:
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop(0)
            nexts = [file for file in sorted(edges.get(way[-1], ())) if file in members]
            if start in nexts:
                if best is None or len(way) < len(best):
                    best = way
                break
            for file in nexts:
                if file not in seen:
                    seen.add(file)
                    ways.append([*way, file])
    return best


def report(edges, known):
    """The lines to print, and whether all is well."""
    lines, is_well = [], True
    found = circles(edges)
    for members in found:
        is_known = any(set(members) <= set(files) for files in known)
        is_well = is_well and is_known
        lines.append(f"{'known' if is_known else 'FAIL '} a circle of {len(members)} files: {', '.join(members)}")
        way = shortest(edges, members)
        for file, other in zip(way, way[1:] + way[:1]):
            line, path = edges[file][other]
            lines.append(f"        {file}:{line} uses {path} of {other}")
    for files in known:
        for file in sorted(set(files) - {file for members in found for file in members}):
            is_well = False
            lines.append(f"FAIL  {file} is in no circle any more: strike it from KNOWN in scripts/check_circles.py")
    if not found:
        lines.append("ok    no circle among the files of src")
    return lines, is_well


def main():
    src = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "src"
    lines, is_well = report(Crate(src).edges(), KNOWN)
    print("\n".join(lines))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
