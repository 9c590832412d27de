//! The layers of the source, held apart by reading it: what each part of `src/` may name, of this crate and of
//! others. Code that is compiled for tests only is exempt, and so are comments.

use std::path::Path;

use crate::server::files_below;

/// What some part of the source may name.
struct Rule {
    /// Paths below `src/` that begin so.
    part: &'static str,
    /// Modules of this crate that it may name; anything below them too.
    own: &'static [&'static str],
    /// Other crates that it may name, where they can be listed.
    crates: Option<&'static [&'static str]>,
    /// Other crates that it must not name.
    never: &'static [&'static str],
}

/// Where a bug stops the process; below every layer.
const INVARIANT: &str = "invariant";
/// What test builds leave out, below the layer that does it.
const FAULTS: &str = "fault_injection";
/// The data plane's runtime: one place names it, so that it can be exchanged.
const RUNTIME: [&str; 2] = ["monoio", "io_uring"];

/// Each file is held to every rule whose part it lies in.
const RULES: [Rule; 11] = [
    Rule {
        part: "domain/",
        own: &["domain", INVARIANT],
        crates: Some(&["base64", "jiff", "serde", "smol_str", "thiserror", "uuid"]),
        never: &[],
    },
    Rule {
        part: "application/",
        own: &["domain", "application", INVARIANT],
        crates: None,
        never: &["tokio", "sqlx", "monoio", "io_uring", "rustix", "rustls", "socket2"],
    },
    Rule {
        part: "infrastructure/",
        own: &["domain", "application", "infrastructure", FAULTS, INVARIANT],
        crates: None,
        never: &["httparse", "clap"],
    },
    Rule {
        part: "infrastructure/storage/",
        own: &["domain", "application", "infrastructure", FAULTS, INVARIANT],
        crates: None,
        never: &["sqlx", "monoio", "io_uring"],
    },
    Rule {
        part: "infrastructure/data_plane/",
        own: &["domain", "application", "infrastructure", FAULTS, INVARIANT],
        crates: None,
        never: &["sqlx"],
    },
    Rule {
        part: "infrastructure/persistence/",
        own: &["domain", "application", "infrastructure", FAULTS, INVARIANT],
        crates: None,
        never: &["monoio", "io_uring"],
    },
    Rule {
        part: "api/",
        own: &[
            "domain",
            "application",
            "api",
            "infrastructure::data_plane",
            "infrastructure::metrics",
            INVARIANT,
        ],
        crates: None,
        never: &["sqlx", "monoio", "io_uring", "rustls"],
    },
    Rule {
        part: "maintenance/",
        own: &[
            "domain",
            "application::credentials",
            "application::lifecycle",
            "infrastructure",
            "config",
            "maintenance",
        ],
        crates: None,
        never: &["sqlx", "monoio", "io_uring", "httparse"],
    },
    Rule {
        part: "client/",
        own: &["domain", "client", "maintenance::with_causes"],
        crates: None,
        never: &["tokio", "sqlx", "monoio", "io_uring", "httparse", "socket2"],
    },
    Rule { part: "invariant.rs", own: &[], crates: Some(&[]), never: &[] },
    Rule { part: "fault_injection.rs", own: &[], crates: Some(&[]), never: &[] },
];

/// These put the layers together, and may name all of them.
const COMPOSITION: [&str; 16] = [
    "auditing.rs",
    "config.rs",
    "config/choices.rs",
    "config/credentials.rs",
    "config/groups.rs",
    "lib.rs",
    "logging.rs",
    "main.rs",
    "server.rs",
    "server/cores.rs",
    "server/door.rs",
    "server/lifecycle.rs",
    "server/listening.rs",
    "server/metrics.rs",
    "server/signals.rs",
    "service_manager.rs",
];
/// The rooms of unsafe code.
const UNSAFE: [&str; 4] = [
    "infrastructure/data_plane/buffers.rs",
    "infrastructure/data_plane/runtime/data_file.rs",
    "infrastructure/data_plane/runtime/mod.rs",
    "infrastructure/data_plane/runtime/stream.rs",
];

/// A file's code: its lines with their numbers, without comments.
struct Source<'t> {
    /// Below `src/`.
    path: &'t str,
    lines: Vec<(usize, &'t str)>,
}

impl<'t> Source<'t> {
    fn new(path: &'t str, text: &'t str) -> Self {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        Self { path, lines: lines.filter(|(_, line)| !line.trim_start().starts_with("//")).collect() }
    }

    /// Without the items behind `#[cfg(test)]`. rustfmt puts an item's last brace where its first line begins.
    fn without_tests(&self) -> Self {
        let mut kept = Vec::new();
        let mut lines = self.lines.iter().copied();
        while let Some((number, line)) = lines.next() {
            if line.trim() != "#[cfg(test)]" {
                kept.push((number, line));
                continue;
            }
            let indentation = &line[..line.len() - line.trim_start().len()];
            let item = lines.by_ref().find(|(_, line)| !line.trim_start().starts_with("#["));
            if item.is_some_and(|(_, line)| !line.ends_with(';') && !line.ends_with('}')) {
                let end = |line: &str| {
                    line.strip_prefix(indentation).is_some_and(|rest| rest.starts_with('}') || rest == ");")
                };
                lines.by_ref().find(|(_, line)| end(line));
            }
        }
        Self { path: self.path, lines: kept }
    }

    /// Modules that this file declares for tests only.
    fn test_modules(&self) -> Vec<String> {
        let pairs = self.lines.windows(2).filter(|pair| pair[0].1.trim() == "#[cfg(test)]");
        let declared = pairs.filter_map(|pair| pair[1].1.strip_suffix(';')?.split_once("mod "));
        declared.map(|(_, name)| name.to_owned()).collect()
    }

    /// The module that the file is, as path segments.
    fn module(&self) -> Vec<&'t str> {
        let path = self.path.trim_end_matches(".rs");
        path.trim_end_matches("/mod").split('/').collect()
    }

    /// Every path of this crate that is named, `super` resolved, with its line.
    fn own_paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (number, line) in &self.lines {
            for start in occurrences(line, "crate") {
                found.extend(line[start..].strip_prefix("crate::").map(|path| (*number, head(path))));
            }
            for start in occurrences(line, "super").filter(|start| !line[..*start].ends_with("super::")) {
                let (mut module, mut rest) = (self.module(), &line[start..]);
                while let Some(behind) = rest.strip_prefix("super::") {
                    module.pop();
                    rest = behind;
                }
                module.truncate(2);
                let rest = head(rest);
                let path: Vec<&str> = module.into_iter().chain([rest.as_str()]).collect();
                found.push((*number, path.join("::")));
            }
        }
        found
    }

    /// Every line that names something of one of these crates.
    fn crates<'c>(&self, names: impl IntoIterator<Item = &'c str>) -> Vec<(usize, &'c str)> {
        let mut found = Vec::new();
        for name in names {
            for (number, line) in &self.lines {
                let path = |start: usize| {
                    let behind = &line[start + name.len()..];
                    let before = line[..start].trim_end();
                    !before.ends_with("::")
                        && (behind.starts_with("::") || (before.ends_with("use") && behind.starts_with(';')))
                };
                found.extend(occurrences(line, name).filter(|start| path(*start)).map(|_| (*number, name)));
            }
        }
        found
    }
}

/// Where `word` stands as a whole word.
fn occurrences<'t>(line: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let part_of_word = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).map(|(start, _)| start).filter(move |start| {
        let behind = &line[start + word.len()..];
        !line[..*start].ends_with(part_of_word) && !behind.starts_with(part_of_word)
    })
}

/// The first two segments of a path.
fn head(path: &str) -> String {
    let segment = |text: &str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
    };
    match path.split_once("::") {
        Some((first, rest)) if segment(first) == first => format!("{first}::{}", segment(rest)),
        _ => segment(path),
    }
}

/// What is wrong with one file, each with the file and line.
fn violations(source: &Source<'_>, dependencies: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut tell = |line: usize, what: String| found.push(format!("src/{}:{line}: {what}", source.path));
    for (number, line) in &source.lines {
        if !UNSAFE.contains(&source.path) && occurrences(line, "unsafe").next().is_some() {
            tell(*number, "unsafe code outside its rooms".to_owned());
        }
    }
    let code = source.without_tests();
    let names = || dependencies.iter().map(String::as_str);
    let rules: Vec<&Rule> = RULES.iter().filter(|rule| source.path.starts_with(rule.part)).collect();
    if rules.is_empty() && !COMPOSITION.contains(&source.path) {
        tell(1, "it belongs to no layer: give it a rule here".to_owned());
    }
    if !source.path.starts_with("infrastructure/data_plane/") {
        for (line, name) in code.crates(RUNTIME) {
            tell(line, format!("only infrastructure/data_plane names {name}"));
        }
    }
    for rule in rules {
        for (line, path) in code.own_paths() {
            let below = |own: &&str| {
                path == **own || path.strip_prefix(*own).is_some_and(|rest| rest.starts_with("::"))
            };
            if !rule.own.iter().any(below) {
                tell(line, format!("{} must not name {path}", rule.part));
            }
        }
        for (line, name) in code.crates(names()) {
            if rule.never.contains(&name) || rule.crates.is_some_and(|allowed| !allowed.contains(&name)) {
                tell(line, format!("{} must not name the crate {name}", rule.part));
            }
        }
    }
    found
}

/// The crates that the library depends on, as they are named in code.
fn dependencies() -> Vec<String> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("the manifest can be read");
    let section = manifest.split("\n[dependencies]\n").nth(1).expect("there are dependencies");
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.replace('-', "_")).collect()
}

#[test]
fn every_file_names_only_what_its_layer_may() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let files: Vec<(String, String)> = files_below(root)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("the source can be read");
            (path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), text)
        })
        .collect();
    assert!(files.len() > 50, "the source is where it was");
    let dependencies = dependencies();
    assert!(dependencies.iter().any(|name| name == "sqlx"), "{dependencies:?}");

    let sources: Vec<Source<'_>> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let mut test_modules = Vec::new();
    for source in &sources {
        let directory = source.module().join("/");
        let directory = if source.path == "lib.rs" { "" } else { directory.as_str() };
        let names = source.test_modules();
        test_modules.extend(
            names.iter().map(|name| format!("{directory}/{name}").trim_start_matches('/').to_owned()),
        );
    }
    // A file, or a directory of them.
    let is_of = |source: &Source<'_>, module: &String| {
        let rest = source.path.strip_prefix(module.as_str());
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    let built = sources.iter().filter(|source| !test_modules.iter().any(|module| is_of(source, module)));
    let found: Vec<String> = built.flat_map(|source| violations(source, &dependencies)).collect();
    assert!(found.is_empty(), "the layers run into each other:\n{}", found.join("\n"));
}

#[test]
fn a_violation_of_every_rule_is_found_with_its_line() {
    let dependencies = ["sqlx", "tokio", "monoio", "rustix", "uuid", "sha2"].map(str::to_owned);
    for (path, code, line, words) in [
        ("domain/a.rs", "use uuid::Uuid;\nuse sha2::Digest;", 2, "the crate sha2"),
        ("domain/a.rs", "use crate::application::ports::X;", 1, "application::ports"),
        ("domain/values/a.rs", "//! x\n\nfn f() { super::super::super::api::x() }", 3, "must not name api"),
        ("application/a.rs", "use crate::infrastructure::data_plane::X;", 1, "infrastructure::data_plane"),
        ("application/a.rs", "fn f() {\n    tokio::spawn(x)\n}", 2, "the crate tokio"),
        ("infrastructure/a.rs", "use crate::{\n    api::X,\n};", 1, "must not name"),
        ("infrastructure/a.rs", "use monoio;", 1, "monoio"),
        ("infrastructure/storage/a.rs", "use sqlx::Row as _;", 1, "the crate sqlx"),
        ("infrastructure/persistence/a.rs", "type A = monoio::fs::File;", 1, "the crate monoio"),
        ("api/a.rs", "use crate::infrastructure::storage::X;", 1, "infrastructure::storage"),
        ("api/a.rs", "#[cfg(test)]\nmod tests {\n    use sqlx::X;\n}\nuse sqlx::X;", 5, "the crate sqlx"),
        ("api/a.rs", "fn f() { unsafe { g() } }", 1, "unsafe"),
        ("server.rs", "use monoio::X;", 1, "monoio"),
        ("maintenance/a.rs", "use sqlx::Row as _;", 1, "the crate sqlx"),
        ("maintenance/a.rs", "use crate::api::X;", 1, "must not name api"),
        ("client/a.rs", "use crate::infrastructure::storage::X;", 1, "must not name infrastructure"),
        ("client/a.rs", "use crate::maintenance::run;", 1, "must not name maintenance::run"),
        ("utils/a.rs", "fn f() {}", 1, "no layer"),
    ] {
        let found = violations(&Source::new(path, code), &dependencies);
        let place = format!("src/{path}:{line}: ");
        assert!(found.iter().any(|one| one.starts_with(&place) && one.contains(words)), "{code}: {found:?}");
    }
    let fine = "//! sqlx::x\nuse super::super::application::X;\nuse super::b::unsafe_x;\n#[cfg(test)]\nmod tests {\n    use super::*;\n    use sqlx::X;\n}\n";
    assert_eq!(violations(&Source::new("api/a.rs", fine), &dependencies), Vec::<String>::new());
}
