"""Reads the modules of a Rust crate well enough to say which file uses which: names, `use` trees and paths.

What macros make is not seen. What is compiled for tests alone (`#[cfg(test)]`, also as one of `any(…)`) is left out.
"""

import re
from pathlib import Path
from typing import NamedTuple

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
      | (?P<open>/\*)
      | (?P<raw>b?c?r(?P<hashes>\#*)")
      | (?P<text>[bc]?"(?:[^"\\]|\\.)*")
      | (?P<char>b?'(?:[^'\\\n]|\\(?:u\{[0-9a-fA-F_]*\}|x[0-9a-fA-F]{2}|.))')
      | (?P<life>'[A-Za-z_]\w*)
      | (?P<word>(?:r\#)?[A-Za-z_]\w*)
      | (?P<number>\d[\w.]*)
      | (?P<sign>::|->|=>|<=|>=|==|.)""",
    re.VERBOSE | re.DOTALL,
)
OPEN, CLOSE = {"{", "(", "["}, {"}", ")", "]"}
# An item that a name follows. `const` and `static` are found by what follows them.
NAMED = {"struct", "enum", "union", "trait", "fn", "type", "const", "static"}
ENDS_WITH_BRACES = set("fn impl struct enum union mod trait unsafe async extern macro_rules".split())
ENDS_WITH_SEMICOLON = {"use", "static", "const", "let", "type"}


class Token(NamedTuple):
    text: str
    line: int
    is_word: bool


def tokens_of(text):
    """Words and signs with their lines; comments are left out, a literal is the sign `""`."""
    found, at, line = [], 0, 1
    while at < len(text):
        match = TOKEN.match(text, at)
        kind, end = match.lastgroup, match.end()
        if kind == "hashes":
            kind = "raw"
        if match.group("open"):
            depth, end = 1, match.end()
            while depth:
                mark = re.compile(r"/\*|\*/").search(text, end)
                if mark is None:
                    raise ValueError(f"line {line}: a comment does not end")
                depth += 1 if mark.group() == "/*" else -1
                end = mark.end()
            kind = "skip"
        elif match.group("raw"):
            closing = '"' + match.group("hashes")
            end = text.index(closing, match.end()) + len(closing)
            kind = "text"
        if kind == "word":
            found.append(Token(match.group().removeprefix("r#"), line, True))
        elif kind == "sign":
            found.append(Token(match.group(), line, False))
        elif kind not in {"skip", "life"}:
            # A literal has a mark on each of its lines, so that lines of code can be counted.
            lines = text.count("\n", at, end)
            found.extend(Token('""', line + number, False) for number in range(lines + 1))
        line += text.count("\n", at, end)
        at = end
    return found


def closing(tokens, at):
    """The index of what closes the bracket at `at`."""
    depth = 0
    for index in range(at, len(tokens)):
        if tokens[index].text in OPEN and not tokens[index].is_word:
            depth += 1
        elif tokens[index].text in CLOSE and not tokens[index].is_word:
            depth -= 1
            if depth == 0:
                return index
    raise ValueError(f"line {tokens[at].line}: a bracket does not close")


def is_for_tests(attribute):
    """Whether these tokens between `[` and `]` are a `cfg` that a test build meets and a release does not."""
    words = [token.text for token in attribute]
    if words[:2] != ["cfg", "("]:
        return False
    return any(
        word == "test" and words[max(0, index - 2) : index] != ["not", "("] for index, word in enumerate(words)
    )


def end_of_item(tokens, at):
    """The index behind the item, field, arm or statement that begins at `at`."""
    while tokens[at].text == "#" and tokens[at + 1].text == "[":
        at = closing(tokens, at + 1) + 1
    first = at
    if tokens[first].text == "pub":
        first += 1
        if tokens[first].text == "(":
            first = closing(tokens, first) + 1
    keyword = tokens[first].text
    if keyword == "const" and tokens[first + 1].text in {"fn", "unsafe", "async"}:
        keyword = "fn"
    angles = 0
    index = first
    while index < len(tokens):
        text = tokens[index].text
        if tokens[index].is_word:
            pass
        elif text in OPEN:
            end = closing(tokens, index)
            if text == "{" and keyword in ENDS_WITH_BRACES:
                return end + 1
            if text == "{" and keyword not in ENDS_WITH_SEMICOLON:
                # An arm or a statement with a block.
                return end + 2 if end + 1 < len(tokens) and tokens[end + 1].text in {",", ";"} else end + 1
            index = end
        elif text in CLOSE:
            return index
        elif text == ";":
            return index + 1
        elif text == "<":
            angles += 1
        elif text == ">":
            angles -= 1
        elif text == "," and angles <= 0 and keyword not in ENDS_WITH_BRACES | ENDS_WITH_SEMICOLON:
            return index + 1
        index += 1
    return len(tokens)


def without_tests(tokens):
    """The tokens without what is compiled for tests alone."""
    kept, at = [], 0
    while at < len(tokens):
        if tokens[at].text == "#" and at + 1 < len(tokens):
            bang = tokens[at + 1].text == "!"
            opening = at + 2 if bang else at + 1
            if opening < len(tokens) and tokens[opening].text == "[":
                end = closing(tokens, opening)
                if is_for_tests(tokens[opening + 1 : end]):
                    if bang:
                        return []
                    at = end_of_item(tokens, end + 1)
                    continue
                kept.extend(tokens[at : end + 1])
                at = end + 1
                continue
        kept.append(tokens[at])
        at += 1
    return kept


class Use(NamedTuple):
    """One name that a `use` brings, `*` for all of a module's."""

    name: str
    path: tuple
    is_public: bool
    line: int


def use_tree(tokens, at, prefix, is_public, uses):
    """Reads the tree that begins at `at`; gives the index behind it."""
    path, alias = list(prefix), None
    while at < len(tokens):
        token = tokens[at]
        if token.text == "{":
            end = closing(tokens, at)
            at += 1
            while at < end:
                at = use_tree(tokens, at, path, is_public, uses)
                if tokens[at].text == ",":
                    at += 1
            return end + 1
        if token.text == "*":
            uses.append(Use("*", tuple(path), is_public, token.line))
            return at + 1
        if token.text == "as":
            alias = tokens[at + 1].text
            at += 2
            break
        if token.is_word:
            path.append(token.text)
        elif token.text != "::":
            break
        at += 1
    if path[-1] == "self" and len(path) > 1:
        path.pop()
    uses.append(Use(alias or path[-1], tuple(path), is_public, tokens[min(at, len(tokens)) - 1].line))
    return at


class Module:
    """One module: what it defines, what it brings in, and the paths in its code."""

    def __init__(self, name, file, parent):
        self.name, self.file, self.parent = name, file, parent
        self.children, self.defined, self.uses = {}, set(), []
        self.words, self.paths = set(), []

    def root(self):
        return self if self.parent is None else self.parent.root()


class Crate:
    """All modules below `src/lib.rs` that are part of a release."""

    def __init__(self, src):
        self.src = Path(src)
        self.modules, self.code = [], {}
        self.top = self._file(self.src / "lib.rs", "crate", None)

    def _file(self, path, name, parent):
        module = Module(name, path.relative_to(self.src.parent).as_posix(), parent)
        tokens = without_tests(tokens_of(path.read_text()))
        self.code[module.file] = len({token.line for token in tokens})
        folder = path.parent if path.name in {"lib.rs", "mod.rs"} else path.with_suffix("")
        self._read(module, tokens, folder)
        return module

    def _read(self, module, tokens, folder):
        self.modules.append(module)
        own, at, depth = [], 0, 0
        while at < len(tokens):
            token = tokens[at]
            following = tokens[at + 1] if at + 1 < len(tokens) else Token("", 0, False)
            if token.is_word and token.text == "mod" and following.is_word and depth == 0:
                name, after = following.text, tokens[at + 2].text
                if after == ";":
                    module.children[name] = self._child(module, name, tokens, at, folder)
                    at += 3
                    continue
                if after == "{":
                    end = closing(tokens, at + 2)
                    child = Module(name, module.file, module)
                    self._read(child, tokens[at + 3 : end], folder / name)
                    module.children[name] = child
                    at = end + 1
                    continue
            if token.is_word and token.text == "use" and not (own and own[-1].text in {"+", "->"}):
                is_public = any(before.text == "pub" for before in own[-4:] if before.text not in {";", "}"})
                is_public = is_public and _is_visibility(own)
                at = use_tree(tokens, at + 1, [], is_public, module.uses) + 1
                continue
            if depth == 0 and token.is_word and token.text in NAMED and following.is_word:
                if following.text not in NAMED | {"unsafe", "async", "extern"}:
                    module.defined.add(following.text)
            if not token.is_word:
                depth += (token.text in OPEN) - (token.text in CLOSE)
            own.append(token)
            at += 1
        _paths(module, own)

    def _child(self, module, name, tokens, at, folder):
        """A module in a file of its own, where an attribute may name it."""
        before = [token.text for token in tokens[max(0, at - 12) : at]]
        if "path" in before and "#" in before[-8:]:
            raise ValueError(f"{module.file}: `#[path]` outside of tests is not understood")
        for path in (folder / f"{name}.rs", folder / name / "mod.rs"):
            if path.exists():
                return self._file(path, name, module)
        raise ValueError(f"{module.file}: no file for `mod {name};`")

    def resolve(self, module, path, depth=0):
        """The modules or files that `path`, written in `module`, leads to: a set of (file, module or None)."""
        if depth > 12:
            return set()
        head, rest = path[0], path[1:]
        if head == "crate":
            return self._walk(self.top, rest, depth)
        if head == "self":
            return self._walk(module, rest, depth)
        if head == "super":
            # A module written in its parent's file has that parent; there is none above the crate.
            return self._walk(module.parent, rest, depth) if module.parent else set()
        if head in module.children or any(use.name == head for use in module.uses):
            return self._walk(module, path, depth, is_own=True)
        return set()

    def _walk(self, module, path, depth, is_own=False):
        if not path:
            return {(module.file, module)}
        head, rest = path[0], path[1:]
        if head == "super" and module.parent:
            return self._walk(module.parent, rest, depth)
        if head in module.children and (rest or head not in module.defined):
            return self._walk(module.children[head], rest, depth)
        if head in module.defined:
            return {(module.file, None)}
        for use in module.uses:
            if use.name == head:
                # A name that brings itself in: `use serde::Serialize` is no path of ours.
                if use.path[0] == head and head not in module.children:
                    return set()
                found = self._through(module, use, rest, depth)
                return found
        for use in module.uses:
            if use.name == "*":
                for _, target in self.resolve(module, use.path, depth + 1):
                    if target is not None and target is not module and self._has(target, head):
                        return self._walk(target, path, depth + 1)
        # Made by a macro, most likely in the file that names it.
        return set() if is_own else {(module.file, None)}

    def _through(self, module, use, rest, depth):
        found = set()
        for file, target in self.resolve(module, use.path, depth + 1):
            if target is None:
                found.add((file, None))
            else:
                found |= self._walk(target, rest, depth + 1)
        return found

    @staticmethod
    def _has(module, name):
        return name in module.defined or name in module.children or any(use.name == name for use in module.uses)

    def edges(self):
        """For each file and another that it uses: the line and the path by which it does.

        A file and those that declare it are one unit: that it uses what they define is left out.
        """
        found = {}

        def note(module, path, line):
            above, parent = {module.file}, module.parent
            while parent:
                above.add(parent.file)
                parent = parent.parent
            for file, _ in self.resolve(module, path):
                if file not in above:
                    found.setdefault(module.file, {}).setdefault(file, (line, "::".join(path)))

        for module in self.modules:
            for use in module.uses:
                targets = self.resolve(module, use.path)
                # What is only handed on is no use of it; what a module is imported for, its paths say.
                is_used = use.name == "*" or use.name in module.words
                is_module = use.name != "*" and all(target is not None for _, target in targets)
                heads = {path[0] for path, _ in module.paths}
                if use.is_public and (use.name == "*" or not is_used):
                    continue
                if is_module and use.name in heads:
                    continue
                note(module, use.path, use.line)
            for path, line in module.paths:
                note(module, path, line)
        return found


def _is_visibility(own):
    """Whether these tokens end in `pub` or `pub(…)`."""
    if own and own[-1].text == "pub":
        return True
    return bool(own) and own[-1].text == ")" and any(token.text == "pub" for token in own[-5:])


def _paths(module, own):
    """The words of a module's code, and its paths of at least two names."""
    at = 0
    while at < len(own):
        token = own[at]
        if not token.is_word or (at and own[at - 1].text in {"::", "."}):
            at += 1
            continue
        path, index = [token.text], at + 1
        while index + 1 < len(own) and own[index].text == "::" and own[index + 1].is_word:
            path.append(own[index + 1].text)
            index += 2
        module.words.add(path[0])
        if len(path) > 1:
            module.paths.append((tuple(path), token.line))
        at = index
