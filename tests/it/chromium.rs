//! A headless Chromium that a test drives: tests/interop/browser, with axe-core beside it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::interop::node_folder;
use crate::launcher::{command, repository};

/// Most bytes of a picture of docs/pictures: they are in the repository.
const LARGEST_PICTURE: u64 = 50_000;

/// The Chromium of tests/interop/browser.
pub(crate) struct Chromium {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Chromium {
    pub(crate) fn start() -> Self {
        let mut node = command("node");
        node.arg(repository().join("tests/interop/browser/browser.mjs"))
            .current_dir(node_folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = node.spawn().expect("node is missing: run `make tools`");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Chromium { child, input, output }
    }

    /// Has it do one thing.
    pub(crate) fn act(&mut self, command: Value) -> Value {
        writeln!(self.input, "{command}").expect("it listens");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{command}: {line:?}"));
        assert!(answer["error"].is_null(), "{command}: {}", answer["error"]);
        answer["ok"].clone()
    }

    pub(crate) fn open(&mut self, look: &Value) {
        self.act(json!({ "open": look }));
    }

    pub(crate) fn go(&mut self, url: &str) {
        self.act(json!({ "go": url }));
    }

    pub(crate) fn click(&mut self, selector: &str) {
        self.act(json!({ "click": { "selector": selector } }));
    }

    /// Clicks what brings no page.
    pub(crate) fn touch(&mut self, selector: &str) {
        self.act(json!({ "click": { "selector": selector, "stays": true } }));
    }

    pub(crate) fn until(&mut self, words: &str) {
        self.act(json!({ "until": words }));
    }

    pub(crate) fn read(&mut self) -> Value {
        self.act(json!({ "read": true }))
    }

    /// Reads the page, after it was judged by axe and by its width on this screen.
    pub(crate) fn judged(&mut self) -> Value {
        let page = self.read();
        let found = self.act(json!({ "axe": true }));
        assert_eq!(found, json!([]), "{page}");
        assert_eq!(page["wide"], json!(false), "it can be scrolled sideways: {page}");
        page
    }

    /// Makes a picture of docs/pictures.
    pub(crate) fn picture(&mut self, name: &str) {
        let folder = repository().join("docs/pictures");
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("{name}.png"));
        self.act(json!({ "picture": path }));
        let bytes = std::fs::metadata(&path).expect("a picture").len();
        assert!(bytes < LARGEST_PICTURE, "{name}: {bytes} bytes");
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
