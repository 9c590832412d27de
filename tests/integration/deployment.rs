//! The files of `deploy/` and beside it, held to the program that they start.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::server::program;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of upper-case words with underscores between them that stand at the beginning of such a line, whatever is
/// before them there.
fn names<'t>(text: &'t str, before: &[&str], behind: &str) -> BTreeSet<&'t str> {
    let lines = text.lines().filter_map(|line| {
        let line =
            before.iter().fold(line.trim(), |line, prefix| line.trim_start_matches(prefix).trim_start());
        let (name, _) = line.split_once(behind)?;
        name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_').then_some(name)
    });
    lines.filter(|name| !name.is_empty()).collect()
}

#[test]
fn whatever_a_deployment_sets_is_a_setting() {
    let settings = file("docs/SETTINGS.md");
    let kubernetes =
        file("deploy/kubernetes/configuration.yaml") + &file("deploy/kubernetes/statefulset.yaml");
    for (text, before, behind, some) in [
        (file("deploy/systemd/just_storage.conf"), &["#"][..], "=", "LISTEN_ADDR"),
        (kubernetes, &["# ", "- name: "], ":", "LOG_FORMAT"),
        (file("docker-compose.yml"), &["# "], ": ", "DATABASE_URL_FILE"),
    ] {
        // Those of PostgreSQL's own image.
        let set = names(&text, before, behind).into_iter().filter(|name| !name.starts_with("POSTGRES_"));
        let set: BTreeSet<_> = set.collect();
        assert!(set.contains(some), "{set:?}");
        for name in set {
            assert!(settings.contains(&format!("`{name}`")), "{name} is no setting");
        }
    }
}

#[test]
fn every_setting_is_documented_and_every_documented_one_is_there() {
    let help = program().args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let variables = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    let settings = file("docs/SETTINGS.md");
    let mut count = 0;
    for name in variables {
        assert!(settings.contains(&format!("| `{name}` |")), "{name} is not in docs/SETTINGS.md");
        count += 1;
    }
    assert!(count > 30, "{help}");
}

#[test]
fn the_filter_of_system_calls_is_what_its_program_writes() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docker/make_seccomp.py");
    let output = Command::new("python3").arg(script).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let profile: serde_json::Value = serde_json::from_str(&file("deploy/docker/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    for ring in ["io_uring_enter", "io_uring_register", "io_uring_setup"] {
        let rules = profile["syscalls"].as_array().unwrap();
        let mut names = rules.iter().flat_map(|rule| rule["names"].as_array().unwrap());
        assert!(names.any(|name| name == ring), "{ring}");
    }
}

#[test]
fn images_and_packages_are_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(file("deploy/kubernetes/kustomization.yaml").contains(&format!("newTag: {version}\n")));
    let output = program().arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("just_storage {version}\n"));
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_there_are() {
    let told = file("docs/OPERATIONS.md");
    let told: BTreeSet<&str> = told.split('`').filter(|word| word.starts_with("activestorage_")).collect();
    for asking in ["deploy/prometheus/just_storage.rules.yml", "deploy/grafana/just_storage.json"] {
        let text = file(asking);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: BTreeSet<&str> = words.filter(|word| word.starts_with("activestorage_")).collect();
        assert!(names.len() > 5, "{asking}");
        for name in names {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(
                told.contains(name),
                "{asking} asks for {name}, of which docs/OPERATIONS.md tells nothing"
            );
        }
    }
}
