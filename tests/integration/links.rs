//! What the documents point at is there: the file of every link, and the heading of every anchor.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All documents beside the sources, and below `docs`.
fn documents() -> Vec<PathBuf> {
    let (mut documents, mut directories) = (Vec::new(), vec![root().join("docs")]);
    let mut take = |path: PathBuf, directories: &mut Vec<PathBuf>| match path.extension() {
        Some(extension) if extension == "md" => documents.push(path),
        _ if path.is_dir() => directories.push(path),
        _ => {}
    };
    let entries = |directory: &Path| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    for path in entries(root()).filter(|path| path.is_file()) {
        take(path, &mut directories);
    }
    while let Some(directory) = directories.pop() {
        for path in entries(&directory) {
            take(path, &mut directories);
        }
    }
    documents
}

/// A document without its blocks of code, which may hold anything.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What a heading is called in a link, as the hosts of repositories do it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|one| one.is_alphanumeric() || "-_ ".contains(*one));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(prose: &str) -> HashSet<String> {
    let headings = prose.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
    headings.map(anchor).collect()
}

/// The links to places in this repository.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    targets.filter(|target| !target.contains(':'))
}

/// Why a link of a document leads nowhere.
fn fault(document: &Path, link: &str) -> Option<&'static str> {
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => document.to_owned(),
        path => document.parent().unwrap().join(path),
    };
    if !target.exists() {
        return Some("there is no such file");
    }
    if fragment.is_empty() {
        return None;
    }
    let text = fs::read_to_string(target).unwrap_or_default();
    (!anchors(&prose(&text)).contains(fragment)).then_some("there is no such heading")
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let (mut seen, mut faults) = (0, Vec::new());
    for document in documents() {
        let prose = prose(&fs::read_to_string(&document).unwrap());
        for link in links(&prose) {
            seen += 1;
            let name = document.strip_prefix(root()).unwrap().display();
            faults.extend(fault(&document, link).map(|fault| format!("{name}: {link}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(seen > 50, "{seen} links are too few to be all");
}

#[test]
fn links_that_lead_nowhere_are_noticed() {
    let document = root().join("docs/API.md");
    assert_eq!(fault(&document, "OPERATIONS.md#metrics"), None);
    assert_eq!(fault(&document, "#health-and-"), None);
    assert_eq!(fault(&document, "../README.md"), None);
    for link in ["#nothing-of-the-kind", "README.md", "CLIENT.md#api"] {
        assert!(fault(&document, link).is_some(), "{link}");
    }
    assert_eq!(links("[a](b.md#c) [d](https://e) ![f](g.svg)").collect::<Vec<_>>(), ["b.md#c", "g.svg"]);
    assert_eq!(anchor("Health, and `/`"), "health-and-");
}
