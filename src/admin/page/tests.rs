use super::*;
use crate::{
    admin::Admin,
    pool::{Backend, Pool},
};

fn page(admin: &Admin) -> String {
    render(&admin.inner.status(), true, true)
}

#[test]
fn nothing_of_a_backend_is_taken_for_markup() {
    let hostile = "<img/src=x/onerror=alert(1)>&\"'";
    let pool = Pool::new([Backend::new(hostile, "http://a").unwrap()]).unwrap();
    let admin = Admin::new(pool).name(hostile);
    let page = page(&admin);
    assert!(!page.contains("<img"), "{page}");
    assert!(page.contains("&lt;img/src=x/onerror=alert(1)&gt;&amp;&quot;&#39;"));
    assert!(!page.contains("{{"), "every place is filled");
}

#[test]
fn the_policy_allows_what_the_page_has_and_nothing_inline() {
    let pool = Pool::new([Backend::new("a", "http://a").unwrap()]).unwrap();
    let page = page(&Admin::new(pool));
    for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
        let (_, after) = page.split_once(&format!("<{tag}>")).unwrap();
        let (text, rest) = after.split_once(&format!("</{tag}>")).unwrap();
        assert!(!rest.contains(&format!("<{tag}")), "one {tag} alone");
        let digest = STANDARD.encode(Sha256::digest(text));
        assert!(
            policy().contains(&format!("{directive} 'sha256-{digest}'")),
            "{tag}"
        );
    }
    let (markup, _) = page.split_once("<script>").unwrap();
    for refused in [" style=", " onclick=", " onload=", "javascript:", " src="] {
        assert!(!markup.contains(refused), "{refused}");
    }
}

#[test]
fn the_words_are_short_and_exact() {
    use std::time::Duration;
    for (value, text) in [
        (0.0, "0"),
        (0.004, "0"),
        (0.25, "0.25"),
        (1.0, "1"),
        (3.216, "3.22"),
        (12.34, "12.3"),
        (1234.5, "1234"),
    ] {
        assert_eq!(text::number(value), text, "{value}");
    }
    for (seconds, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (272, "4 min 32 s"),
        (7_200, "2 h"),
        (90_061, "1 d 1 h"),
    ] {
        assert_eq!(text::duration(Duration::from_secs(seconds)), text);
    }
    assert_eq!(text::millis(1_500.0), "1.5 s");
    assert_eq!(text::percent(0.333), "33.3 %");
    assert_eq!(text::line_path(&[]), "");
    assert_eq!(
        text::line_path(&[Some(1.0), None, Some(4.0), Some(2.0)]),
        "M112 18.5h0.1M116 2.0h0.1L118 13.0"
    );
}
