#!/usr/bin/env python3
"""Makes the documentation site from the pages of docs/SUMMARY.md with mdBook, and checks every link of it.

    scripts/site.py [MDBOOK]         the site is target/site/index.html

The pages keep their places in the repository, so that their links work there. For the site they are copied side by side into
target/site-source and their links are changed: to a page, to a file of the repository that goes along, or, of a folder or of
Rust sources, to no link at all.
"""

import html.parser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path.cwd()
SUMMARY = ROOT / "docs/SUMMARY.md"
SOURCE, SITE = ROOT / "target/site-source", ROOT / "target/site"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
# A picture in HTML, which a page has where there is one for dark pages.
PICTURE = re.compile(r'\b(src|srcset)="([^":]+)"')
# Not copied: they are read in the repository.
STAYS = {".rs", ".lock"}


def page_names() -> dict[pathlib.Path, str]:
    """Each page of the summary with its name on the site."""
    names = {}
    for _, _, target in LINK.findall(SUMMARY.read_text()):
        page = (SUMMARY.parent / target).resolve()
        inside = page.relative_to(ROOT).parts
        is_deep = page.name == "README.md" and len(inside) > 1
        name = f"{inside[-2]}.md" if is_deep else {"README.md": "index.md"}.get(page.name, page.name)
        if name in names.values():
            sys.exit(f"two pages are called {name}")
        names[page] = name
    return names


def main() -> int:
    mdbook = sys.argv[1] if len(sys.argv) > 1 else "mdbook"
    names = page_names()
    left_out = sorted(page.name for page in (ROOT / "docs").glob("*.md") if page not in names and page != SUMMARY)
    if left_out:
        sys.exit(f"docs/SUMMARY.md leaves out {', '.join(left_out)}")
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    (SOURCE / "src").mkdir(parents=True)

    def moved(page: pathlib.Path, text: str) -> str:
        def placed(target: str) -> str | None:
            """What a link leads to on the site; None where it has nothing to lead to."""
            file, hash_mark, anchor = target.partition("#")
            found = (page.parent / file).resolve()
            if found in names:
                return f"{names[found]}{hash_mark}{anchor}"
            if not found.exists():
                sys.exit(f"{page.relative_to(ROOT)}: {target} does not exist")
            if found.is_dir() or found.suffix in STAYS or found.name in {"Dockerfile", "LICENSE"}:
                return None
            inside = pathlib.Path("files") / found.relative_to(ROOT)
            if found.suffix == ".md":
                inside = inside.with_suffix(".txt")
            (SOURCE / "src" / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, SOURCE / "src" / inside)
            return str(inside)

        def link(match: re.Match) -> str:
            mark, words, target = match.groups()
            if "://" in target or target.startswith(("#", "mailto:")):
                return match.group()
            place = placed(target)
            return words if place is None else f"{mark}[{words}]({place})"

        def picture(match: re.Match) -> str:
            return f'{match[1]}="{placed(match[2])}"'

        def changed(part: str) -> str:
            return part if part.lstrip().startswith("```") else PICTURE.sub(picture, LINK.sub(link, part))

        # Blocks of code have none.
        parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.DOTALL | re.MULTILINE)
        return "".join(changed(part) for part in parts)

    for page, name in names.items():
        (SOURCE / "src" / name).write_text(moved(page, page.read_text()))
    (SOURCE / "src/SUMMARY.md").write_text(moved(SUMMARY, SUMMARY.read_text()))
    shutil.copy(ROOT / "book.toml", SOURCE / "book.toml")
    done = subprocess.run([mdbook, "build", str(SOURCE), "--dest-dir", str(SITE)], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode != 0 or "ERROR" in said or "WARN" in said:
        print(said)
        return 1
    problems = check_links()
    for problem in problems:
        print(problem)
    print(f"{len(names)} pages in {os.path.relpath(SITE)}, {'a link leads nowhere' if problems else 'every link leads somewhere'}")
    return 1 if problems else 0


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page of the site."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := attributes.get(key)))
        self.links += [value for key in ("href", "src") if (value := attributes.get(key))]


def check_links() -> list[str]:
    pages = {}
    for file in SITE.rglob("*.html"):
        pages[file] = page = Page()
        page.feed(file.read_text())
    problems = []
    for file, page in pages.items():
        if file.name in {"print.html", "toc.html", "404.html"}:
            continue
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else file
            if target.is_dir():
                target /= "index.html"
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.exists():
                problems.append(f"{file.name}: {link}: no such page")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                problems.append(f"{file.name}: {link}: no such heading")
    return sorted(set(problems))


if __name__ == "__main__":
    sys.exit(main())
