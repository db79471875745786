//! The types of other crates that the public API names are those listed in `Cargo.toml`.
//!
//! `.ci/run` has rustdoc write the API as JSON, and runs the ignored test. rustdoc knows what no
//! reader of the text can: aliases, derived impls, and the crate where a type was defined.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

/// Where `.ci/run` puts the JSON.
const JSON: &str = "EVENKEEL_RUSTDOC_JSON";

/// The patterns of `allowed_external_types`.
fn allowed(manifest: &str) -> Vec<String> {
    let (_, list) = manifest.split_once("allowed_external_types = [").unwrap();
    let (list, _) = list.split_once(']').unwrap();
    let lines = list
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let strings = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    strings.map(str::to_owned).collect()
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}

/// The paths of the foreign items that the public items of a crate name. Those of the standard
/// library are left out.
fn foreign(api: &Value) -> BTreeSet<String> {
    let index = api["index"].as_object().expect("an index of items");
    let is_left_out = |item: &Value| match item["inner"].get("impl") {
        Some(item) => {
            // Impls that the crate gets from others' generic ones, and from the compiler.
            let is_derived = !item["blanket_impl"].is_null() || item["is_synthetic"] == true;
            // pin-project-lite writes this one, and its bounds name its hidden types.
            is_derived || item["trait"]["path"] == "Unpin"
        }
        None => false,
    };
    let own = index.values().filter(|item| item["crate_id"] == 0);
    let mut left_out = BTreeSet::new();
    for item in own.clone().filter(|item| is_left_out(item)) {
        let items = item["inner"]["impl"]["items"].as_array();
        left_out.extend(items.into_iter().flatten().map(Value::to_string));
    }
    let mut named = BTreeSet::new();
    for item in own.filter(|item| !is_left_out(item)) {
        if !left_out.contains(&item["id"].to_string()) {
            collect(&item["inner"], &mut named);
        }
    }
    let paths = api["paths"].as_object().expect("the paths of items");
    let path_of = |id: &String| {
        let item = paths.get(id).expect("each named item has a path");
        let path: Vec<&str> = item["path"]
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let is_foreign = item["crate_id"] != 0;
        let is_std = ["alloc", "core", "std"].contains(path.first()?);
        (is_foreign && !is_std).then(|| path.join("::"))
    };
    named.iter().filter_map(path_of).collect()
}

/// Collects the ids of the types and traits that an item names, and of what it re-exports.
fn collect(value: &Value, ids: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let is_path = fields.contains_key("path") && fields.contains_key("args");
            let reexport = fields.get("use").and_then(|used| used.get("id"));
            let path = fields.get("id").filter(|_| is_path);
            ids.extend(
                path.or(reexport)
                    .filter(|id| !id.is_null())
                    .map(Value::to_string),
            );
            fields.values().for_each(|value| collect(value, ids));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, ids)),
        _ => {}
    }
}

/// Returns the foreign types without a pattern, and the patterns without a type.
fn differences(foreign: &BTreeSet<String>, allowed: &[String]) -> (Vec<String>, Vec<String>) {
    let is_allowed = |path: &&String| allowed.iter().any(|pattern| matches(pattern, path));
    let is_used = |pattern: &&String| foreign.iter().any(|path| matches(pattern, path));
    let refused = foreign.iter().filter(|path| !is_allowed(path)).cloned();
    let unused = allowed.iter().filter(|pattern| !is_used(pattern)).cloned();
    (refused.collect(), unused.collect())
}

#[test]
#[ignore = "reads rustdoc's JSON, which .ci/run makes"]
fn the_public_api_names_no_other_foreign_types() {
    let path = std::env::var(JSON).unwrap_or_else(|_| panic!("{JSON} is the path of the JSON"));
    let api = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allowed = allowed(&fs::read_to_string(root.join("Cargo.toml")).unwrap());
    let foreign = foreign(&api);
    assert!(foreign.len() > 20, "the types must be found: {foreign:?}");
    let (refused, unused) = differences(&foreign, &allowed);
    assert!(
        refused.is_empty() && unused.is_empty(),
        "Cargo.toml, allowed_external_types: to be added, or taken out of the API: {refused:?}; \
         to be removed: {unused:?}"
    );
}

#[test]
fn the_list_in_the_manifest_can_be_read() {
    let manifest = "x = [\"no::*\"]\nallowed_external_types = [\n # why \"no\"\n  \"a::*\", \"b::C\",\n]\ny = [\"no\"]";
    assert_eq!(allowed(manifest), ["a::*", "b::C"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(allowed(&fs::read_to_string(root.join("Cargo.toml")).unwrap()).len() > 10);
    assert!(matches("a::*", "a::b::C") && matches("b::C", "b::C"));
    assert!(!matches("a::*", "ab::C") && !matches("b::C", "b::C::D"));
}

/// An API of one item, with the paths of three foreign types and of one of its own.
fn api(crate_id: u32, inner: &Value) -> Value {
    let path = |crate_id: u32, path: &[&str]| json!({ "crate_id": crate_id, "path": path });
    json!({
        "index": { "1": { "id": 1, "crate_id": crate_id, "inner": inner } },
        "paths": {
            "10": path(0, &["evenkeel", "Pool"]),
            "11": path(1, &["core", "option", "Option"]),
            "12": path(2, &["h2", "share", "Reason"]),
            "13": path(3, &["http", "request", "Request"]),
        },
    })
}

#[test]
fn a_foreign_type_is_found_wherever_a_signature_names_it() {
    let path = |id: u32, args: &Value| json!({ "id": id, "path": "X", "args": args });
    let none = Value::Null;
    let nested = json!({ "angle_bracketed": { "args": [{ "type": { "resolved_path": path(12, &none) } }] } });
    let implemented = |blanket: &Value, synthetic: bool, name: &str| {
        json!({ "impl": {
            "blanket_impl": blanket,
            "is_synthetic": synthetic,
            "items": [],
            "trait": { "id": 12, "path": name, "args": none },
        } })
    };
    let found = [
        json!({ "function": { "sig": { "output": { "resolved_path": path(12, &none) } } } }),
        json!({ "struct_field": { "resolved_path": path(11, &nested) } }),
        json!({ "type_alias": { "type": { "tuple": [{ "resolved_path": path(12, &none) }] } } }),
        json!({ "trait": { "bounds": [{ "trait_bound": { "trait": path(12, &none) } }] } }),
        json!({ "function": { "sig": { "inputs": [["x", { "qualified_path": { "trait": path(12, &none) } }]] } } }),
        json!({ "use": { "source": "h2::Reason", "id": 12 } }),
        implemented(&none, false, "Reset"),
    ];
    for inner in found {
        let foreign = foreign(&api(0, &inner));
        assert_eq!(
            foreign.iter().collect::<Vec<_>>(),
            ["h2::share::Reason"],
            "{inner}"
        );
        let list = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        let differences = |allowed: &[&str]| differences(&foreign, &list(allowed));
        assert_eq!(differences(&["h2::*"]), (vec![], vec![]));
        assert_eq!(differences(&[]), (list(&["h2::share::Reason"]), vec![]));
        assert_eq!(
            differences(&["h2::*", "http::*"]),
            (vec![], list(&["http::*"]))
        );
    }
    let left_out = [
        implemented(&json!({ "generic": "T" }), false, "Reset"),
        implemented(&none, true, "Reset"),
        implemented(&none, false, "Unpin"),
        json!({ "function": { "sig": { "output": { "resolved_path": path(10, &none) } } } }),
        json!({ "function": { "sig": { "output": { "resolved_path": path(11, &none) } } } }),
    ];
    for inner in left_out {
        assert_eq!(foreign(&api(0, &inner)), BTreeSet::new(), "{inner}");
    }
    let other = json!({ "struct_field": { "resolved_path": path(12, &none) } });
    assert_eq!(
        foreign(&api(2, &other)),
        BTreeSet::new(),
        "an item of another crate"
    );
}
