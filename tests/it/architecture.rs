//! The import table: a file imports from lower floors only, and rooms never import one another.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Floors from the ground up; rooms on one floor do not know each other.
const FLOORS: [&[&str]; 5] = [
    &[
        "default_table",
        "calendar",
        "error",
        "log_limit",
        "mutation",
        "slots",
        "tcp_timeout",
        "timer",
        "wire",
    ],
    &["local_fault", "pool", "store", "tcp_listener"],
    &["context", "connect", "stats"],
    &[
        "access_log",
        "admin",
        "balance",
        "chaos",
        "discover",
        "endpoints",
        "failover",
        "fleet",
        "forwarded",
        "health",
        "metrics",
        "proxy",
        "proxy_protocol",
        "respond",
        "server",
        "sticky",
        "tls",
        "trace",
    ],
    &["settings", "load_balancer", "simulation", "lib"],
];

/// On one floor, these may be used by these.
const WITHIN_A_FLOOR: [(&str, &str); 4] = [
    ("connect", "context"),
    ("settings", "load_balancer"),
    ("stats", "context"),
    ("tcp_timeout", "error"),
];

/// What `lib.rs` re-exports, and the room where it is.
const ROOT: [(&str, &str); 7] = [
    ("Backend", "pool"),
    ("BoxError", "error"),
    ("ConfigError", "error"),
    ("Error", "error"),
    ("ErrorKind", "error"),
    ("LoadBalancer", "load_balancer"),
    ("Pool", "pool"),
];

pub(crate) fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

pub(crate) fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    files(&source(), &mut paths);
    assert!(paths.len() > 30, "the sources must be found");
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

fn room(path: &Path) -> String {
    let relative = path.strip_prefix(source()).unwrap();
    let first = relative.components().next().unwrap();
    let name = first.as_os_str().to_str().unwrap();
    name.trim_end_matches(".rs").to_owned()
}

fn floor(room: &str) -> usize {
    FLOORS
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("{room} stands on no floor: say in FLOORS where it belongs"))
}

/// The first names after each `crate::`, comments left out.
fn imports(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push(first_name(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut begins = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        c if begins && !c.is_whitespace() => {
                            found.push(first_name(&group[i..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn first_name(text: &str) -> String {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    text[..end.unwrap_or(text.len())].to_owned()
}

#[test]
fn a_file_imports_from_lower_floors_only() {
    for (path, text) in sources() {
        let from = room(&path);
        for name in imports(&text) {
            let root = ROOT.iter().find(|(export, _)| *export == name);
            let to = root.map_or(name.as_str(), |(_, room)| room);
            let allowed = to == from
                || floor(to) < floor(&from)
                || WITHIN_A_FLOOR.contains(&(from.as_str(), to));
            assert!(allowed, "{}: {from} must not import {to}", path.display());
        }
    }
}

#[test]
fn the_import_reader_sees_what_is_there() {
    let text = "use crate::{\n    a::{b, c},\n    d,\n};\nuse crate::e::f;\n// crate::g\nlet x = crate::h();";
    assert_eq!(imports(text), ["a", "d", "e", "h"]);
}

/// The features that the lower floors may name: those of a dependency, and those that change what a
/// connection is. A feature of a room above would let that room reach into what all rooms share.
const LOWER_FEATURES: [&str; 7] = [
    "__file_store",
    "__serde",
    "__sockets",
    "__tls",
    "aws-lc-rs",
    "axum",
    "http2",
];

/// The names in each `feature = "…"`, comments left out.
fn features(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("feature = \"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

/// Returns the features of `text` that a file of this room must not name.
fn refused_features<'a>(room: &str, text: &'a str) -> Vec<&'a str> {
    let mut found = features(text);
    found.retain(|name| floor(room) <= 2 && !LOWER_FEATURES.contains(name));
    found
}

#[test]
fn the_lower_floors_name_no_feature_of_a_room_above() {
    let mut seen = 0;
    for (path, text) in sources() {
        seen += features(&text).len();
        let refused = refused_features(&room(&path), &text);
        assert!(
            refused.is_empty(),
            "{}: {refused:?} are features of rooms above",
            path.display()
        );
    }
    assert!(seen > 30, "the features must be found");
}

#[test]
fn a_feature_of_a_room_above_is_refused() {
    let text = "#[cfg(all(test, feature = \"proxy\", feature = \"http2\"))]\n// feature = \"a\"";
    assert_eq!(features(text), ["proxy", "http2"]);
    for room in ["context", "connect", "pool", "slots", "wire"] {
        assert_eq!(refused_features(room, text), ["proxy"], "{room}");
    }
    assert!(refused_features("proxy", text).is_empty());
}

/// Words that name no subject, and riddles that the glossary replaced; in any case.
const REFUSED_WORDS: [&str; 16] = [
    "anew",
    "anybody",
    "drainer",
    "everybody",
    "everyone",
    "fate",
    "keepers",
    "nobody",
    "somebody",
    "stranger",
    "told",
    "unasked",
    "unheard",
    "who",
    "whoever",
    "whom",
];

/// Identifiers that the glossary replaced.
const REFUSED_NAMES: [&str; 23] = [
    "asked_to_wait",
    "because_of",
    "lend_head",
    "want_head",
    "Alarm",
    "Bell",
    "BuildQuick",
    "CommonFate",
    "Course",
    "Elsewhere",
    "Emit",
    "Fare",
    "Gather",
    "Intro",
    "LentHead",
    "Noted",
    "Patience",
    "Pen",
    "Rare",
    "Survey",
    "Told",
    "no_shared_fate",
    "shared_fate",
];

/// Files that may no longer be: their names said nothing of what they hold.
const REFUSED_FILES: [&str; 22] = [
    "alarm.rs",
    "course.rs",
    "deadline.rs",
    "early.rs",
    "elsewhere.rs",
    "fare.rs",
    "fate.rs",
    "gather.rs",
    "keepers.rs",
    "known.rs",
    "look.rs",
    "maybe.rs",
    "orders.rs",
    "patience.rs",
    "pen.rs",
    "quick.rs",
    "ramp.rs",
    "reach.rs",
    "recent.rs",
    "spare.rs",
    "vanish.rs",
    "words.rs",
];

/// The refused words and names that stand in a text as whole words.
fn refused_words(text: &str) -> Vec<&'static str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let words: BTreeSet<&str> = text.split(|c| !is_part(c)).collect();
    let lower: BTreeSet<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let refused = REFUSED_WORDS.iter().filter(|word| lower.contains(**word));
    let names = REFUSED_NAMES.iter().filter(|name| words.contains(**name));
    refused.chain(names).copied().collect()
}

/// The sources, the tests, the benchmarks, the examples and the README: all that a reader opens.
fn texts() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md")];
    for folder in ["benches", "examples", "tests"] {
        files(&root.join(folder), &mut paths);
    }
    // It has the lists.
    paths.retain(|path| !path.ends_with("tests/it/architecture.rs"));
    let texts = paths.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    });
    sources().into_iter().chain(texts).collect()
}

#[test]
fn names_and_sentences_say_what_they_mean() {
    let mut refused = Vec::new();
    for (path, text) in texts() {
        let name = path.file_name().unwrap().to_str().unwrap();
        if REFUSED_FILES.contains(&name) {
            refused.push(format!("{}: the name of the file", path.display()));
        }
        // A published vector of the hash.
        let text = text.replace("Nobody inspects the spammish repetition", "");
        let words = refused_words(&text);
        if !words.is_empty() {
            refused.push(format!("{}: {words:?}", path.display()));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn a_refused_word_is_found_as_a_whole_word_only() {
    assert_eq!(
        refused_words("// Whoever asks is told."),
        ["told", "whoever"]
    );
    assert!(refused_words("a whole, NoBody2 and untold").is_empty());
}

/// What a second reader of RFC 9112 would be known by: blanks left out, each with what it is.
const TELL_TALES: [(&str, &str); 12] = [
    ("httparse", "a parser of heads"),
    ("b\"chunked\"", "a reader of Transfer-Encoding"),
    ("\"chunked\"", "a reader of Transfer-Encoding"),
    ("chunk_size", "a reader of chunks"),
    ("case(b\"close\")", "a reader of Connection"),
    ("case(\"close\")", "a reader of Connection"),
    ("case(b\"keep-alive\")", "a reader of Connection"),
    ("\"proxy-connection\"", "a list of hop-by-hop fields"),
    ("get(header::CONTENT_LENGTH)", "a reader of Content-Length"),
    (
        "get_all(header::CONTENT_LENGTH)",
        "a reader of Content-Length",
    ),
    ("get(header::RETRY_AFTER)", "a reader of Retry-After"),
    ("split(|&b|b==b';')", "a reader of Cookie"),
];

#[test]
fn only_wire_reads_http1() {
    for (path, text) in sources() {
        let Some(code) = code_of(&path, &text).filter(|_| room(&path) != "wire") else {
            continue;
        };
        let code: String = code
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("//"))
            .flat_map(str::chars)
            .filter(|c| !c.is_whitespace())
            .collect();
        for (tell_tale, what) in TELL_TALES {
            assert!(
                !code.contains(tell_tale),
                "{}: {tell_tale} is {what}: only wire reads HTTP/1.1",
                path.display()
            );
        }
    }
}

/// The lines of a file up to its tests, docs and comments included.
const MAX_FILE_LINES: usize = 400;

/// What a longer file must say, with its reason behind it.
const LONG_FILE: &str = "// Longer than 400 lines, because ";

/// Returns the code up to the tests; `None` for a file of tests, which are lists. The simulation is
/// one.
fn code_of<'a>(path: &Path, text: &'a str) -> Option<&'a str> {
    let is_test = |part: &std::ffi::OsStr| part == "tests" || part == "simulation";
    if path.ends_with("tests.rs") || path.iter().any(is_test) {
        return None;
    }
    text.split("#[cfg(test)]\nmod tests {").next()
}

/// Returns the number of lines if they are too many, and the file does not say why.
fn too_long(code: &str) -> Option<usize> {
    let lines = code.lines().count();
    let has_reason = code.lines().any(|line| line.starts_with(LONG_FILE));
    (lines > MAX_FILE_LINES && !has_reason).then_some(lines)
}

#[test]
fn a_file_stays_within_its_walls() {
    let mut seen = 0;
    for (path, text) in sources() {
        let Some(code) = code_of(&path, &text) else {
            continue;
        };
        seen += 1;
        let lines = too_long(code);
        assert!(
            lines.is_none(),
            "{}: {lines:?} lines are two files, or want a reason: {LONG_FILE}…",
            path.display()
        );
    }
    assert!(seen > 200, "the files must be found");
}

#[test]
fn a_long_file_is_refused_unless_it_has_a_reason() {
    let long = "/// Docs count as well.\n".repeat(MAX_FILE_LINES + 1);
    assert_eq!(too_long(&long), Some(MAX_FILE_LINES + 1));
    assert_eq!(
        too_long(&format!("{LONG_FILE}it is a table.\n{long}")),
        None
    );
    assert_eq!(too_long(&long[long.find('\n').unwrap() + 1..]), None);
    let tests = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}");
    let code = code_of(Path::new("src/a.rs"), &tests).unwrap();
    assert_eq!(code.lines().count(), 1);
    assert!(code_of(Path::new("src/a/tests/b.rs"), &tests).is_none());
}

/// The lines of a function's body.
const MAX_FUNCTION_LINES: usize = 60;

/// Longer functions: the file, the name, and why it is one.
const LONG_FUNCTIONS: [(&str, &str, &str); 3] = [
    (
        "server/http1/mod.rs",
        "serve",
        "each part that awaits would be a future of its own, and be moved once more a request",
    ),
    (
        "server/http2/stream.rs",
        "send",
        "one loop over the frames of a body; its parts share seven variables",
    ),
    (
        "proxy/http2/mod.rs",
        "send",
        "each part that awaits would be a future of its own, and be moved once more a request",
    ),
];

/// The functions of formatted code: the name, and the lines of the body.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let words: Vec<&str> = trimmed.split(' ').collect();
        let is_qualifier =
            |word: &&str| word.starts_with("pub") || ["async", "const", "in", "fn"].contains(word);
        let Some(nth) = words.iter().position(|word| *word == "fn") else {
            continue;
        };
        // Paths of `pub(in crate::a)` end in a bracket.
        let leads = words[..nth].iter();
        let mut leads = leads.filter(|word| !word.ends_with(')'));
        if trimmed.starts_with("//") || !leads.all(is_qualifier) || nth + 1 == words.len() {
            continue;
        }
        let indent = line.len() - trimmed.len();
        let closes = format!("{}}}", " ".repeat(indent));
        let opens = lines[at..].iter().position(|line| line.ends_with('{'));
        let ends = lines[at..].iter().position(|line| *line == closes);
        let declared = lines[at..].iter().position(|line| line.ends_with(';'));
        if let (Some(opens), Some(ends)) = (opens, ends)
            && declared.is_none_or(|declared| opens < declared)
            && opens < ends
        {
            found.push((first(words[nth + 1]), ends - opens - 1));
        }
    }
    found
}

/// Returns the name at the beginning.
fn first(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

#[test]
fn a_function_fits_on_a_page() {
    let (mut seen, mut long) = (0, BTreeSet::new());
    for (path, text) in sources() {
        let Some(code) = code_of(&path, &text) else {
            continue;
        };
        for (name, lines) in functions(code) {
            seen += 1;
            if lines <= MAX_FUNCTION_LINES {
                continue;
            }
            let excused = LONG_FUNCTIONS
                .iter()
                .find(|(file, function, _)| path.ends_with(file) && *function == name);
            assert!(
                excused.is_some(),
                "{}: {name} has {lines} lines: divide it, or say in LONG_FUNCTIONS why not",
                path.display()
            );
            long.extend(excused.map(|(file, _, _)| *file));
        }
    }
    assert!(seen > 1_000, "the functions must be found: {seen}");
    assert_eq!(
        long.len(),
        LONG_FUNCTIONS.len(),
        "excused and short: {long:?}"
    );
}

#[test]
fn the_function_reader_sees_what_is_there() {
    let text = "pub(in crate::a) async fn one<T>(\n    t: T,\n) -> T\nwhere\n    T: A,\n{\n    t\n}\n\
                trait A {\n    fn two();\n    fn three(self) {\n        a();\n        b();\n    }\n}\n\
                // fn four() {\nlet f: fn() = one;\nfn five() {}\n";
    assert_eq!(functions(text), [("one", 1), ("three", 2)]);
}

/// The second part of a version, such as 88 of `1.88.0`.
fn minor(version: &str) -> u32 {
    version.split('.').nth(1).unwrap().parse().unwrap()
}

/// clippy (`incompatible_msrv`) refuses what the standard library did not have; the dependencies must
/// agree as well.
#[test]
fn the_oldest_supported_compiler_can_read_the_dependencies() {
    let cargo = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO"));
        command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let metadata = cargo(&["metadata", "--format-version=1", "--offline"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours = packages.iter().find(|p| p["name"] == "evenkeel").unwrap();
    let oldest = minor(ours["rust_version"].as_str().unwrap());
    let tree = ["tree", "--offline", "--features=full,ring"];
    let tree = cargo(&[&tree[..], &["--edges=normal,build", "--prefix=none"]].concat());
    let used: BTreeSet<&str> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .collect();
    let mut seen = 0;
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let version = package["version"].as_str().unwrap();
        let entry = format!("{name} v{version}");
        let Some(needed) = package["rust_version"].as_str() else {
            continue;
        };
        if used
            .iter()
            .any(|line| line.split(" (").next() == Some(&entry))
        {
            seen += 1;
            assert!(minor(needed) <= oldest, "{entry} needs Rust {needed}");
        }
    }
    assert!(seen > 50, "the dependencies must be found: {seen}");
}

#[test]
fn every_room_with_a_layer_has_tests_and_an_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for room in FLOORS[3] {
        let file = root.join("tests/it").join(format!("{room}.rs"));
        assert!(
            file.exists() || *room == "discover",
            "{room} has no tests in tests/it"
        );
        let has_layer = source().join(room).join("layer.rs").exists();
        let example = root.join("examples").join(format!("{room}.rs"));
        let large = root.join("examples").join(room).join("main.rs");
        assert!(
            !has_layer || example.exists() || large.exists(),
            "{room} has a layer and no example"
        );
    }
}
