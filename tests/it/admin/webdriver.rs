//! A browser, driven over WebDriver (W3C) through ChromeDriver.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{interval, timeout},
};

use super::{LIMIT, open, request};

/// A running Chromium with one window; killed when it is dropped.
pub(super) struct Browser {
    driver: SocketAddr,
    session: String,
    _child: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser; `None` where there is none, which the log of the test says.
    pub(super) async fn start() -> Option<Self> {
        let is_there = |program: &str| {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders).any(|folder| Path::new(&folder).join(program).exists())
        };
        if !["chromium", "chromedriver"]
            .iter()
            .all(|program| is_there(program))
        {
            crate::support::not_run(
                "chromium and chromedriver are needed, and one is not installed",
            );
            return None;
        }
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, port)) = line.split_once("successfully on port ") {
                    return port.trim_end_matches('.').parse::<u16>().unwrap();
                }
            }
            panic!("chromedriver ended");
        };
        let port = timeout(LIMIT, port).await.unwrap();
        // What it says later must not fill the pipe.
        tokio::spawn(
            async move { while lines.next_line().await.is_ok_and(|line| line.is_some()) {} },
        );
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            driver: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _child: child,
            _profile: profile,
        };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let mut arguments = FLAGS.to_vec();
        arguments.push(&profile);
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        }}});
        let session = browser.command("POST", "/session", &wanted).await;
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    pub(super) async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// Runs a script in the page, and returns its value.
    pub(super) async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []}))
            .await
    }

    /// Runs a script that calls its last argument with a value, and returns that.
    pub(super) async fn run_async(&self, script: &str) -> Value {
        self.post("/execute/async", json!({"script": script, "args": []}))
            .await
    }

    /// Runs a script until its value is `true`.
    pub(super) async fn until(&self, script: &str) {
        let asking = async {
            let mut again = interval(Duration::from_millis(20));
            while self.run(script).await != true {
                again.tick().await;
            }
        };
        if timeout(LIMIT, asking).await.is_err() {
            panic!(
                "never: {script}: {}",
                self.run("return document.body.innerText").await
            );
        }
    }

    /// Clicks as a person does: on what is visible, enabled and not covered.
    pub(super) async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.post(&format!("/element/{element}/click"), json!({}))
            .await;
    }

    /// Types into a field that is emptied first.
    pub(super) async fn enter(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.post(&format!("/element/{element}/clear"), json!({}))
            .await;
        self.post(&format!("/element/{element}/value"), json!({"text": text}))
            .await;
    }

    /// Sends a command of the DevTools protocol.
    pub(super) async fn devtools(&self, name: &str, parameters: Value) -> Value {
        let command = json!({"cmd": name, "params": parameters});
        self.post("/goog/cdp/execute", command).await
    }

    /// Returns what was written to the console since the last call.
    pub(super) async fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().unwrap().iter();
        entries
            .map(|entry| format!("{}: {}", entry["level"], entry["message"]))
            .collect()
    }

    /// Ends the browser: dropped alone, ChromeDriver would leave it running.
    pub(super) async fn quit(self) {
        self.command("DELETE", &self.session, &json!({})).await;
    }

    async fn find(&self, selector: &str) -> String {
        let by = json!({"using": "css selector", "value": selector});
        let element = self.post("/element", by).await;
        element[ELEMENT].as_str().unwrap().to_owned()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let path = format!("{}{path}", self.session);
        self.command("POST", &path, &body).await
    }

    async fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "DELETE" {
            String::new()
        } else {
            body.to_string()
        };
        let fields = [("content-type", "application/json")];
        let mut request = request(method, path, &fields, &body);
        let host = self.driver.to_string();
        request.headers_mut().insert("host", host.parse().unwrap());
        let (head, answer) = open(self.driver, request).await.into_parts();
        let answer = answer.collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(head.status, 200, "{method} {path} {body}: {answer}");
        answer["value"].clone()
    }
}

/// The key of an element's reference (WebDriver §11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Quiet, and as root in a container.
const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
