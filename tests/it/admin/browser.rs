//! The page in Chromium. Where it is not installed, these tests say so and pass.

use std::time::Duration;

use evenkeel::{
    Backend, Pool,
    admin::Admin,
    health::{Checks, Prober},
    pool::{HealthStatus, Locality, Measurement, Mode, Reason},
    stats::Stats,
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{LIMIT, Served, TOKEN, certificates, get, webdriver::Browser};
use crate::support::Origin;

/// Checks every 500 ms.
fn checked(pool: &Pool) -> Prober {
    let checks = Checks::new().interval(Duration::from_millis(500));
    let checks = checks.timeout(Duration::from_millis(400));
    Prober::start(pool, checks).unwrap()
}

fn cell(id: &str, name: &str) -> String {
    format!("document.querySelector('tr[data-id=\"{id}\"] [data-f=\"{name}\"]').textContent")
}

fn has_class(id: &str, class: &str) -> String {
    format!(
        "return document.querySelector('#backends tr[data-id=\"{id}\"]')?.className === '{class}'"
    )
}

const IS_LIVE: &str = "return document.getElementById('link').dataset.link === 'live'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backend_turns_within_two_seconds_without_a_reload() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let backends = [("a", &a), ("b", &b)].map(|(id, at)| Backend::new(id, &at.url()).unwrap());
    let pool = Pool::new(backends).unwrap();
    let _prober = checked(&pool);
    let served = Served::start(Admin::new(pool.clone())).await;
    browser
        .open(&format!("http://{}/status", served.address))
        .await;
    browser.until(&has_class("a", "up")).await;
    browser.until(&has_class("b", "up")).await;
    browser.until(IS_LIVE).await;
    browser.run("window.notReloaded = true").await;

    let killed = Instant::now();
    drop(b);
    browser.until(&has_class("b", "down")).await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(browser.run("return window.notReloaded").await, true);
    let reason = browser
        .run(&format!("return {}", cell("b", "reason")))
        .await;
    assert!(reason.as_str().unwrap().starts_with("L4CON"), "{reason}");
    let news = browser
        .run("return document.getElementById('news').textContent")
        .await;
    assert!(
        news.as_str().unwrap().contains("b is down: L4CON"),
        "{news}"
    );
    let title = browser.run("return document.title").await;
    assert!(title.as_str().unwrap().starts_with("1/2 usable"), "{title}");

    // Backends come and go.
    pool.upsert(Backend::new("c<b>", &a.url()).unwrap());
    browser.until(&has_class("c<b>", "up")).await;
    pool.remove("c<b>").unwrap();
    browser
        .until("return document.querySelectorAll('#backends tr').length === 2")
        .await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_holds_against_what_gets_into_the_page() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let other = Origin::named("other").await;
    let served = Served::start(Admin::new(super::pool(&["a"]))).await;
    browser
        .open(&format!("http://{}/status", served.address))
        .await;
    browser.until(IS_LIVE).await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    let injected = browser
        .run_async(&format!(
            "const done = arguments[arguments.length - 1];
             const refused = [];
             const attempt = (name, act) => {{ try {{ act(); }} catch {{ refused.push(name); }} }};
             attempt('markup', () => {{ document.getElementById('news').innerHTML = '<b>x</b>'; }});
             attempt('script', () => {{
                 const script = document.createElement('script');
                 script.textContent = 'window.injected = true';
                 document.body.append(script);
             }});
             const style = document.createElement('style');
             style.textContent = 'body {{ display: none }}';
             document.head.append(style);
             const image = new Image();
             image.src = '{url}/image';
             fetch('{url}/stolen').then(() => 'sent', () => 'refused').then((fetched) => done({{
                 refused, fetched,
                 injected: window.injected === true,
                 display: getComputedStyle(document.body).display,
             }}));",
            url = other.url()
        ))
        .await;
    let wanted = json!({
        "refused": ["markup", "script"], "fetched": "refused", "injected": false, "display": "block",
    });
    assert_eq!(injected, wanted);
    assert_eq!(other.connections(), 0, "nothing is sent to another origin");
    browser.quit().await;
}

/// Waits until the pool is as wanted; its events say when to look.
async fn until(pool: &Pool, is_wanted: impl Fn(&Backend) -> bool) {
    let mut events = pool.subscribe();
    let waiting = async {
        while !is_wanted(pool.snapshot().get("a").unwrap()) {
            events.next().await.unwrap();
        }
    };
    timeout(LIMIT, waiting).await.unwrap();
}

fn button(action: &str) -> String {
    format!("tr[data-id=a] button[data-action={action}]")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_by_button_need_the_token() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let pool = super::pool(&["a"]);
    let admin = Admin::new(pool.clone()).token("ops", TOKEN).unwrap();
    let served = Served::start(admin).await;
    browser
        .open(&format!("http://{}/status", served.address))
        .await;
    browser.until(IS_LIVE).await;
    let is_disabled = format!(
        "return document.querySelector('{}').disabled",
        button("drain")
    );
    assert_eq!(
        browser.run(&is_disabled).await,
        true,
        "no token is given yet"
    );

    let notice = "document.getElementById('notice').textContent";
    browser.enter("#token", "another-token-of-16").await;
    browser.click("#token-form button").await;
    browser.click(&button("drain")).await;
    browser.click("#confirm-ok").await;
    browser
        .until(&format!(
            "return {notice}.includes('drain was refused (401)')"
        ))
        .await;
    assert_eq!(pool.snapshot().get("a").unwrap().mode(), Mode::Ready);
    let refusals = browser.console().await;
    assert!(
        refusals.iter().all(|line| line.contains("401")),
        "{refusals:?}"
    );

    browser.enter("#token", TOKEN).await;
    browser.click("#token-form button").await;
    browser.click(&button("drain")).await;
    browser.enter("#deadline", "10m").await;
    browser.click("#confirm-ok").await;
    until(&pool, |a| matches!(a.mode(), Mode::Draining { .. })).await;
    browser.until(&has_class("a", "draining")).await;
    let order = format!(
        "return {}.startsWith('no request left, sessions stay 9 min')",
        cell("a", "order")
    );
    browser.until(&order).await;
    browser
        .until(&format!("return {notice} === 'a: drain was carried out'"))
        .await;

    browser.click(&button("ready")).await;
    until(&pool, |a| a.mode() == Mode::Ready).await;
    browser.until(&has_class("a", "up")).await;
    browser.enter("tr[data-id=a] form input", "7").await;
    browser.click("tr[data-id=a] form button").await;
    until(&pool, |a| a.configured_weight() == 7).await;
    browser
        .until(&format!("return {} === '7'", cell("a", "weight")))
        .await;

    // It is the last usable one: maintenance asks first.
    browser.click(&button("maintenance")).await;
    browser
        .until("return document.getElementById('confirm').open")
        .await;
    browser.click("#confirm-form button[value=cancel]").await;
    assert_eq!(pool.snapshot().get("a").unwrap().mode(), Mode::Ready);
    browser.click(&button("maintenance")).await;
    browser.click("#confirm-ok").await;
    until(&pool, |a| a.mode() == Mode::Maintenance).await;
    browser.until(&has_class("a", "maintenance")).await;
    assert_eq!(
        browser
            .run("return sessionStorage.length + localStorage.length")
            .await,
        0
    );
    assert_eq!(browser.run("return document.cookie").await, "");
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.quit().await;
}

/// A pool whose page shows every kind of cell.
fn varied() -> Pool {
    let backend = |id: &str| Backend::new(id, "http://10.0.0.1:8080/shop").unwrap();
    let pool = Pool::new([
        backend("a")
            .tier(1)
            .locality(Locality::new("eu-central-1/eu-central-1a").unwrap()),
        backend("b").weight(0).unwrap(),
        backend("c").max_in_flight(500).unwrap(),
        backend("d"),
        backend("e"),
        backend(&"a-long-name-of-a-backend.with-a-domain.internal.example:8443".repeat(2)),
    ])
    .unwrap();
    let backends = pool.snapshot().backends().to_vec();
    let down = Reason::new(
        "L7STS",
        "GET /health answered 503 with a text that is somewhat long",
    );
    let down = Measurement::new(HealthStatus::Unhealthy, down);
    pool.measure(&backends[3], down);
    let slow = Measurement::new(HealthStatus::Healthy, Reason::new("L7OK", "")).capacity(0.3);
    pool.measure(&backends[4], slow);
    pool.start_maintenance("c").unwrap();
    pool
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_writes_what_the_server_wrote() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let admin = Admin::new(varied())
        .name("lb-1")
        .token("ops", TOKEN)
        .unwrap();
    let served = Served::start(admin).await;
    browser
        .open(&format!("http://{}/status", served.address))
        .await;
    browser.until(IS_LIVE).await;
    // The script makes a new row where there is none.
    browser
        .run("document.getElementById('backends').replaceChildren()")
        .await;
    browser
        .until("return document.querySelectorAll('#backends tr').length === 6")
        .await;
    let cells = browser
        .run(
            "return [...document.querySelectorAll('#backends [data-f], #pool [data-v], #pool [data-n]')]
                 .map((cell) => [cell.dataset.f || 'tile', cell.textContent])",
        )
        .await;
    let shown: Vec<(String, String)> = serde_json::from_value(cells).unwrap();
    let page = get(served.address, "/status").await.text;
    let rendered = rendered(&page);
    let stable = |(name, _): &&(String, String)| !["since", "line"].contains(&name.as_str());
    let sorted = |all: &[(String, String)]| {
        let mut all: Vec<_> = all.iter().filter(stable).cloned().collect();
        all.sort();
        all
    };
    assert!(rendered.len() > 100, "{}", rendered.len());
    assert_eq!(sorted(&shown), sorted(&rendered));
    let classes = browser
        .run("return [...document.querySelectorAll('#backends tr')].map((r) => r.className)")
        .await;
    assert_eq!(
        classes,
        json!(["up", "weightless", "maintenance", "down", "degraded", "up"])
    );
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_a_row_that_changes_with_it() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let pool = super::pool(&["a"]);
    let stats = Stats::new(pool.clone());
    let certificates = certificates(&[("old.test", 3), ("good.test", 60)]);
    certificates.show_in(&stats.certificates(), "127.0.0.1:443");
    let served = Served::start(Admin::new(pool).stats(stats).unwrap()).await;
    let url = format!("http://{}/status", served.address);
    browser.open(&url).await;
    // Before the script has an update, the rows are the server's.
    let rows = "[...document.querySelectorAll('#certificates tr')]";
    let shown = format!(
        "return {rows}.map((row) => [row.className, ...[...row.querySelectorAll('[data-c]')]
             .map((cell) => `${{cell.className}} ${{cell.dataset.c}} ${{cell.textContent}}`)])"
    );
    let rendered = browser.run(&shown).await;
    assert_eq!(rendered.as_array().unwrap().len(), 2, "{rendered}");
    assert_eq!(rendered[0][0], "error", "{rendered}");
    browser.until(IS_LIVE).await;
    // The script makes the rows again from an update, and they read the same.
    let remake = "const body = document.getElementById('certificates');
                  body.replaceChildren(); delete body.dataset.key;";
    browser.run(remake).await;
    browser.until(&format!("return {rows}.length === 2")).await;
    assert_eq!(browser.run(&shown).await, rendered);
    let colour =
        |n: usize| format!("return getComputedStyle({rows}[{n}].querySelector('.badge')).color");
    let (bad, good) = (browser.run(&colour(0)).await, browser.run(&colour(1)).await);
    assert_ne!(bad, good, "a warning has a colour of its own");

    // One that is removed leaves the page; without any, the section is hidden.
    assert!(certificates.remove("old.test"));
    browser.until(&format!("return {rows}.length === 1")).await;
    drop(certificates);
    let is_hidden = "return document.getElementById('certificates-section').hidden";
    browser.until(is_hidden).await;
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.quit().await;
}

/// The texts of the cells and the tiles of the page as the server sends it.
fn rendered(page: &str) -> Vec<(String, String)> {
    let (body, _) = page.split_once("<template").unwrap();
    let mut found = Vec::new();
    for part in body
        .split("<span")
        .skip(1)
        .chain(body.split("<small").skip(1))
    {
        let (tag, rest) = part.split_once('>').unwrap();
        let text = rest.split('<').next().unwrap();
        let text = text
            .replace("&#39;", "'")
            .replace("&quot;", "\"")
            .replace("&amp;", "&");
        match tag.split_once("data-f=\"") {
            Some((_, name)) => found.push((name.trim_end_matches('"').to_owned(), text)),
            None if tag.contains("data-v") || tag.contains("data-n") => {
                found.push(("tile".into(), text));
            }
            None => {}
        }
    }
    // Bars and lines are no spans.
    for name in ["share", "session_share"] {
        let times = body.matches(&format!("data-f=\"{name}\"")).count();
        found.extend(std::iter::repeat_n((name.to_owned(), String::new()), times));
    }
    found
}

/// The least contrast of the texts in the page (WCAG 2 §1.4.3), with the text that has it.
const LEAST_CONTRAST: &str = "
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => channels(color).slice(0, 3)
        .map((c) => c / 255)
        .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const background = (node) => {
        for (; node; node = node.parentElement) {
            const color = getComputedStyle(node).backgroundColor;
            const alpha = channels(color)[3];
            if (alpha === undefined || alpha > 0) return color;
        }
    };
    let least = [99, ''];
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
        const off = node.disabled || !node.checkVisibility();
        if (!own.length || off || ['SCRIPT', 'NOSCRIPT', 'TEMPLATE', 'STYLE'].includes(node.tagName)) continue;
        const [a, b] = [luminance(getComputedStyle(node).color), luminance(background(node))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < least[0]) least = [contrast, `${node.className}: ${own[0].data}`];
    }
    return least";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_fits_wide_and_narrow_windows_and_reads_in_dark_and_light() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let pool = varied();
    let stats = Stats::new(pool.clone());
    let long = "a-long-name.of-a-host.in-a-domain-of-its-own.internal.example";
    let certificates = certificates(&[(long, 3), ("b.test", 20), ("c.test", 60)]);
    certificates.show_in(&stats.certificates(), "[2001:db8::1234:5678]:8443");
    let admin = Admin::new(pool)
        .stats(stats)
        .unwrap()
        .name("lb-1")
        .token("ops", TOKEN)
        .unwrap();
    let served = Served::start(admin).await;
    browser
        .open(&format!("http://{}/status", served.address))
        .await;
    browser.until(IS_LIVE).await;
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser
            .devtools("Emulation.setEmulatedMedia", features)
            .await;
        let query = format!("return matchMedia('(prefers-color-scheme: {scheme})').matches");
        browser.until(&query).await;
        backgrounds.push(
            browser
                .run("return getComputedStyle(document.body).backgroundColor")
                .await,
        );
        let least = browser.run(LEAST_CONTRAST).await;
        assert!(least[0].as_f64() >= Some(4.5), "{scheme}: {least}");
        for width in [360, 768, 1_441, 1_600] {
            let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
            browser
                .devtools("Emulation.setDeviceMetricsOverride", size)
                .await;
            browser
                .until(&format!("return innerWidth === {width}"))
                .await;
            let over = browser
                .run(
                    "return [...document.querySelectorAll('body *')]
                         .filter((node) => node.checkVisibility() && node.getBoundingClientRect().right > innerWidth + 1)
                         .map((node) => `${node.tagName} ${node.className}`)",
                )
                .await;
            assert_eq!(over, json!([]), "{scheme} at {width}");
            let scrolls = "return document.documentElement.scrollWidth > document.documentElement.clientWidth";
            assert_eq!(browser.run(scrolls).await, false, "{scheme} at {width}");
        }
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
    assert_eq!(browser.console().await, Vec::<String>::new());
    browser.quit().await;
}
