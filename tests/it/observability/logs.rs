//! The configurations of log shippers: they parse, and name fields that a line has.

use std::{collections::BTreeSet, fs};

use super::{json, names, read, read_source, run, table_rows, yaml};

/// Returns the fields of a line, from the table of the schema.
pub(super) fn schema() -> BTreeSet<String> {
    let rows = table_rows(&read_source("src/access_log/schema.md"));
    // The fields that only other vocabularies have come in a table of their own, with dots.
    let fields: BTreeSet<_> = rows.into_iter().map(|(name, _)| name).collect();
    let fields: BTreeSet<_> = fields
        .into_iter()
        .filter(|name| !name.contains('.'))
        .collect();
    assert!(fields.len() > 35, "the table of fields must be found");
    fields
}

#[test]
fn the_index_template_has_the_fields_of_a_line() {
    let template = json("logs/elasticsearch-template.json");
    let mappings = &template["template"]["mappings"]["properties"];
    let properties = mappings["evenkeel"]["properties"].as_object().unwrap();
    let mapped: BTreeSet<_> = properties.keys().cloned().collect();
    assert_eq!(
        mapped,
        schema(),
        "fields mapped and fields of the schema must be the same"
    );
}

#[test]
fn the_configurations_in_yaml_parse() {
    let vector = yaml("logs/vector.yaml");
    for (name, sink) in vector["sinks"].as_hash().unwrap() {
        for input in sink["inputs"].as_vec().unwrap() {
            let input = input.as_str().unwrap().trim_end_matches(".dropped");
            let known = ["sources", "transforms"]
                .iter()
                .any(|kind| !vector[*kind][input].is_badvalue());
            assert!(known, "{name:?} reads from {input}, which is not there");
        }
    }
    let fluent = yaml("logs/fluent-bit.yaml");
    let input = &fluent["pipeline"]["inputs"][0];
    assert_eq!(
        input["parser"], fluent["parsers"][0]["name"],
        "the parser must be there"
    );
    for output in fluent["pipeline"]["outputs"].as_vec().unwrap() {
        assert_eq!(
            output["match"], input["tag"],
            "{output:?} must match the input"
        );
    }
}

#[test]
fn shippers_name_fields_that_a_line_has() {
    let schema = schema();
    for (file, before) in [
        ("logs/vector.yaml", ".evenkeel."),
        ("logs/vector.yaml", "line."),
        ("logs/logstash.conf", "[evenkeel]["),
        ("logs/fluent-bit.yaml", "=$"),
    ] {
        let text = read(file);
        let places = text.match_indices(before).map(|(at, _)| at + before.len());
        let fields = places.map(|at| names(&text[at..], "").next().unwrap().1);
        let fields: Vec<_> = fields.filter(|field| !field.is_empty()).collect();
        assert!(!fields.is_empty(), "{file} must name fields after {before}");
        for field in fields {
            assert!(
                schema.contains(field),
                "{file}: a line has no field {field}"
            );
        }
    }
    let alloy = read("logs/config.alloy");
    let (_, expressions) = alloy.split_once("expressions = {").unwrap();
    let (expressions, _) = expressions.split_once('}').unwrap();
    for field in expressions.split('"').skip(1).step_by(2) {
        assert!(
            schema.contains(field),
            "config.alloy: a line has no field {field}"
        );
    }
}

/// As a part of the system's configuration, as the file is, and alone, with the line that loads imuxsock.
#[test]
fn rsyslog_accepts_its_configuration_in_both_places() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let arguments = ["-N1", "-f", path.to_str().unwrap()];
        run("rsyslogd", &arguments, folder.path());
    };
    // What comes before `/etc/rsyslog.d` in the file of Debian's package.
    let part = super::folder().join("logs/rsyslog.conf");
    let system = format!(
        "module(load=\"imuxsock\")\nmodule(load=\"imklog\")\n$FileOwner root\n\
         $WorkDirectory /var/spool/rsyslog\n$IncludeConfig {}\n",
        part.display()
    );
    check("system.conf", &system);
    let text = read("logs/rsyslog.conf");
    let alone = text.replace("\n#module(load=\"imuxsock\"", "\nmodule(load=\"imuxsock\"");
    assert_ne!(alone, text, "the line must be there");
    check("alone.conf", &alone);
}
