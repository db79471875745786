//! Two nodes, a balancer and a user.

use std::{
    env,
    io::{self, BufRead, BufReader},
    process::{Child, Command, ExitCode, Stdio},
};

use bytes::Bytes;
use evenkeel::{
    Backend, BoxError, LoadBalancer, Pool,
    failover::FailoverLayer,
    health::HealthLayer,
    sticky::{Keys, StickyLayer},
};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};

use crate::say;

/// A node in a process of its own; killed when dropped.
struct Node {
    name: &'static str,
    process: Child,
    url: String,
}

impl Node {
    fn start(name: &'static str, redis: &str) -> Result<Self, BoxError> {
        let mut process = Command::new(env::current_exe()?)
            .args(["node", name, "127.0.0.1:0", redis])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let Some((_, url)) = line.trim().split_once(": ") else {
            // The process has said why.
            return Err(format!("node {name} did not start: is there a Redis at {redis}?").into());
        };
        Ok(Self {
            name,
            process,
            url: url.to_owned(),
        })
    }

    /// Ends it without a warning.
    fn kill(&mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.kill());
    }
}

/// A browser of one user: it keeps cookies.
struct Browser {
    balancer: LoadBalancer,
    cookies: Vec<(String, String)>,
}

/// What the browser shows.
struct Page {
    status: StatusCode,
    node: String,
    text: String,
}

impl Browser {
    async fn open(&mut self, method: &str, path: &str) -> Result<Page, BoxError> {
        let cookies = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let cookies: Vec<String> = cookies.collect();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "shop.example")
            .header(header::COOKIE, cookies.join("; "))
            .body(Empty::<Bytes>::new())?;
        let response = self.balancer.send(request).await;
        let (head, body) = response.into_parts();
        for cookie in head.headers.get_all(header::SET_COOKIE) {
            let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.retain(|(own, _)| own != name);
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let node = head.headers.get("x-backend");
        let node = node.and_then(|node| node.to_str().ok()).unwrap_or("none");
        let body = body
            .collect()
            .await
            .map_err(Into::<BoxError>::into)?
            .to_bytes();
        Ok(Page {
            status: head.status,
            node: node.to_owned(),
            text: String::from_utf8_lossy(&body).trim().to_owned(),
        })
    }
}

/// Logs a user in, kills the user's node, and looks whether the user is still logged in.
pub(crate) async fn run(redis: &str) -> Result<ExitCode, BoxError> {
    let mut nodes = [Node::start("a", redis)?, Node::start("b", redis)?];
    let backends = nodes.iter().map(|node| Backend::new(node.name, &node.url));
    let pool = Pool::new(backends.collect::<Result<Vec<_>, _>>()?)?;
    let keys = Keys::new(std::array::from_fn(|_| fastrand::u8(..)));
    let balancer = LoadBalancer::builder(pool.clone())
        .sticky(StickyLayer::new(pool.clone(), keys).insecure()?)?
        .failover(FailoverLayer::new().retry_statuses([503])?)
        .health(HealthLayer::new(pool))?
        .build();
    let mut browser = Browser {
        balancer,
        cookies: Vec::new(),
    };

    let page = browser.open("POST", "/login?user=ada").await?;
    say(&format!(
        "log-in: {} from node {}: {}",
        page.status, page.node, page.text
    ));
    let home = browser.open("GET", "/whoami").await?;
    say(&format!(
        "before: {} from node {}: {}",
        home.status, home.node, home.text
    ));

    for node in nodes.iter_mut().filter(|node| node.name == home.node) {
        node.kill()?;
        say(&format!("node {} is killed", node.name));
    }
    let page = browser.open("GET", "/whoami").await?;
    say(&format!(
        "after:  {} from node {}: {}",
        page.status, page.node, page.text
    ));
    Ok(match page.text == "ada" && page.node != home.node {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
