#!/usr/bin/env python3
"""The checks of the source see what they are for: a small crate with a fault is planted for each."""

import tempfile
import unittest
from pathlib import Path

import check_alerts
import check_circles
import check_lines
import check_sizes
from alert_faults import ROWS, Row
from rust_source import Crate, tokens_of
from scaled_rules import scaled

GOOD = {
    "lib.rs": "pub mod one;\npub mod two;\n",
    "one/mod.rs": "mod inner;\npub use inner::Inner;\n\npub struct Limit;\n",
    "one/inner.rs": "use super::Limit;\n\npub struct Inner(Limit);\n",
    "two.rs": "use crate::one::{Inner, Limit};\n\npub fn two(_: Inner, _: Limit) {}\n",
}


def crate(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, "src", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Crate(Path(folder, "src"))


def circles(**changed):
    """The circles of the good crate with these files changed; `one__inner` is `one/inner.rs`."""
    files = GOOD | {name.replace("__", "/") + ".rs": text for name, text in changed.items()}
    return check_circles.circles(crate(files).edges())


BOTH = [["src/one/inner.rs", "src/two.rs"]]


INNER = "pub struct Inner;\n"
CALLS_TWO = "fn f() { crate::two::two() }\n"


class Circles(unittest.TestCase):
    def test_none(self):
        self.assertEqual(circles(), [])
        uses = {
            "src/one/inner.rs": (1, "crate::one::Inner"),
            "src/one/mod.rs": (1, "crate::one::Limit"),
        }
        self.assertEqual(crate(GOOD).edges(), {"src/two.rs": uses})

    def test_each_way_to_name_another_file(self):
        for way in (
            "use crate::two::two;\nfn f() { two() }\n",
            "use super::{Limit, super::two::{self}};\nfn f() { two::two() }\n",
            "use crate::two as other;\nfn f() { other::two() }\n",
            "use crate::two::*;\n",
            "#[cfg(not(test))]\nuse crate::two::two;\n",
            CALLS_TWO,
        ):
            self.assertEqual(circles(one__inner=INNER + way), BOTH, way)

    def test_a_parent_that_uses_its_child(self):
        # By a path, and by a name that it also hands on.
        for parent in ("fn f() { inner::g() }\n", "fn f(_: Inner) {}\n"):
            found = circles(
                one__mod="mod inner;\npub use inner::Inner;\npub struct Limit;\n" + parent,
                one__inner=INNER + "pub fn g() { crate::two::two() }\n",
                two="use crate::one::Limit;\npub fn two(_: Limit) {}\n",
            )
            self.assertEqual(found, [["src/one/inner.rs", "src/one/mod.rs", "src/two.rs"]], parent)

    def test_what_is_for_tests_does_not_count(self):
        for attribute in (
            "#[cfg(test)]",
            '#[cfg(any(test, feature = "testkit"))]',
            "#[cfg(test)]\n#[expect(unused)]",
        ):
            text = f"""pub struct Inner;
                {attribute} mod tests {{ use crate::two::two; }}
                {attribute} use crate::two::{{self, two}};
                struct S<A, B> {{ {attribute} a: Map<A, crate::two::B>, b: u8 }}
                fn f<A, B>() {{ {attribute} let x = {{ crate::two::two() }}; {attribute} crate::two::two(); }}
                {attribute} const fn g<A, B>() {{ crate::two::two() }}
                {attribute} const C: u8 = {{ crate::two::two() }};
            """
            self.assertEqual(circles(one__inner=text), [], attribute)
            self.assertEqual(circles(one__inner=text + CALLS_TWO), BOTH, attribute)

    def test_what_is_no_code_does_not_count(self):
        text = """/* crate::two::two /* */ crate::two::two */ pub struct Inner; // crate::two::two
            const A: &str = r#"" crate::two::two"#; const B: &str = "\\" crate::two::two"; const C: char = '"';
            fn f<'a>(_: &'a u8) {}
        """
        self.assertEqual(circles(one__inner=text), [])
        self.assertEqual(circles(one__inner=text + CALLS_TWO), BOTH)

    def test_known_ones_may_only_shrink(self):
        planted = crate(GOOD | {"one/inner.rs": INNER + CALLS_TWO}).edges()
        lines, is_well = check_circles.report(planted, [])
        self.assertFalse(is_well)
        self.assertIn("        src/one/inner.rs:2 uses crate::two::two of src/two.rs", lines)
        self.assertTrue(check_circles.report(planted, BOTH)[1])
        self.assertFalse(check_circles.report(planted, [BOTH[0] + ["src/lib.rs"]])[1])
        self.assertFalse(check_circles.report(crate(GOOD).edges(), BOTH)[1])
        self.assertTrue(check_circles.report(crate(GOOD).edges(), [])[1])


class Sizes(unittest.TestCase):
    def test_lines_of_code(self):
        text = "//! What it is.\n\nfn f() {\n    // Why.\n    g(\"one\n        two\");\n}\n\n"
        text += "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n"
        self.assertEqual(crate({"lib.rs": text}).code, {"src/lib.rs": 4})

    def test_a_long_file_is_named_and_a_short_one_is_not(self):
        self.assertTrue(check_sizes.report({"a": 500, "b": 501}, {"b": "why"})[1])
        self.assertFalse(check_sizes.report({"a": 501, "b": 501}, {"b": "why"})[1])
        self.assertFalse(check_sizes.report({"a": 500, "b": 500}, {"b": "why"})[1])
        self.assertFalse(check_sizes.report({"a": 500}, {"b": "why"})[1])


class Lines(unittest.TestCase):
    def test_rust(self):
        self.assertEqual(check_lines.long_rust("a" * 110 + "\n" + "ä" * 111 + "\n"), [2])
        self.assertEqual(check_lines.long_rust('const A: &str = r#"' + "a" * 200 + '"#;'), [])
        self.assertEqual(check_lines.long_rust('const A: &str = "' + "a" * 200 + '";'), [1])
        self.assertEqual(check_lines.long_rust("// https://" + "a" * 200), [])

    def test_markdown(self):
        self.assertEqual(check_lines.long_markdown("a" * 120 + "\n" + "a" * 121 + "\n"), [2])
        self.assertEqual(check_lines.long_markdown("| " + "a" * 200), [])
        text = "```\n" + "a" * 200 + "\n```\n" + "a" * 200
        self.assertEqual(check_lines.long_markdown(text), [4])

    def test_files_and_exceptions(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("src/a.rs", "src/b/c.rs", "README.md", "docs/d.md", "target/e.md", ".f/g.md"):
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("short\n" + "a" * 121)
            found = dict(check_lines.sources(Path(folder)))
        self.assertEqual(found, {name: [2] for name in ("src/a.rs", "src/b/c.rs", "README.md", "docs/d.md")})
        documents = {"README.md": "why", "docs/": "why"}
        lines, is_well = check_lines.report(found, documents)
        self.assertFalse(is_well)
        self.assertIn("FAIL  src/a.rs:2 is longer than 110 characters", lines)
        self.assertTrue(check_lines.report(found, documents | {"src/a.rs": "why", "src/b/": "why"})[1])
        self.assertFalse(check_lines.report({"src/a.rs": []}, {"src/a.rs": "why"})[1])


class Alerts(unittest.TestCase):
    def row(self, alert, **more):
        return Row(alert, "it breaks", "it is mended", lambda world: iter(()), **more)

    def test_each_alert_has_one_fault(self):
        one, two = self.row("One"), self.row("Two", beside=frozenset({"One"}), why="it follows")
        self.assertEqual(check_alerts.unmatched(["One", "Two"], [one, two]), [])
        for alerts, rows, said in (
            (["One", "Two", "Three"], [one, two], "Three: no row"),
            (["One", "Two"], [one, two, self.row("Four")], "Four: a row"),
            (["One", "Two"], [one, two, one], "One: 2 rows"),
            (["Two"], [two], "Two: One may fire beside it"),
            (["One", "Two"], [one, self.row("Two", beside=frozenset({"One"}))], "Two: what may fire beside it"),
        ):
            found = check_alerts.unmatched(alerts, rows)
            self.assertEqual(len(found), 1, found)
            self.assertTrue(found[0].startswith(said), found)

    def test_rows_are_faults_then_repairs(self):
        for row in ROWS:
            self.assertTrue(row.fault and row.repair, row.alert)
            self.assertNotIn("|", row.fault + row.repair + row.why, row.alert)

    def test_rules_with_shorter_times(self):
        rules = 'for: 5m\nexpr: rate(a{b="[1h]"}[15m] offset 1d) > 30 * 86400 # {{ $x }} for 5m'
        self.assertEqual(
            scaled(rules, 100),
            'for: 3000ms\nexpr: rate(a{b="[36000ms]"}[9000ms] offset 864000ms) > 30 * 86400 # {{ $x }} for 5m')
        text = Path(__file__).parent.parent.joinpath("deploy/prometheus/tokenward.rules.yml").read_text()
        self.assertEqual(scaled(text, 1).count("ms"), scaled(text, 100).count("ms"))
        self.assertNotRegex(scaled(text), r"(for:|offset) +[0-9]+[smhdwy]\b|\[[0-9]+[smhdwy]\]|\[[0-9a-z]+:")


class Tokens(unittest.TestCase):
    def test_lines(self):
        found = [(token.text, token.line) for token in tokens_of("a\n/* b\n */ c::d 'x' 'y")]
        self.assertEqual(found, [("a", 1), ("c", 3), ("::", 3), ("d", 3), ('""', 3)])


if __name__ == "__main__":
    unittest.main()
