//! Whatever is done to good manifests, the outcome is objects and problems.

use std::{fmt::Write, sync::LazyLock};

use kube::core::cel::{Validator, apply_defaults};
use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::{Compiled, Options, Sourced, compile};

const EXAMPLES: [&str; 5] = [
    include_str!("../../../../../examples/standalone/attachments.yaml"),
    include_str!("../../../../../examples/standalone/connectors.yaml"),
    include_str!("../../../../../examples/standalone/production.yaml"),
    include_str!("../../../../../examples/standalone/staging.yaml"),
    include_str!("../../../../../examples/standalone/vpcs.yaml"),
];

/// 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600;

/// Every document of the examples.
fn documents() -> Vec<&'static str> {
    let texts = EXAMPLES.iter();
    texts
        .flat_map(|text| yaml::split_documents(text))
        .map(|(_, text)| text)
        .collect()
}

fn joined<'a>(documents: impl IntoIterator<Item = &'a str>) -> String {
    documents
        .into_iter()
        .fold(String::new(), |mut all, document| {
            let _ = writeln!(all, "---\n{}", document.trim_start_matches("---"));
            all
        })
}

/// One edit of a text, at a place given in thousandths of its length.
#[derive(Clone, Debug)]
enum Edit {
    Delete { at: usize, count: usize },
    Insert { at: usize, text: String },
    Swap { at: usize, with: usize },
    DropLine { at: usize },
    RepeatLine { at: usize },
    ReplaceValue { at: usize, value: String },
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0..1000_usize;
    let text = prop_oneof![
        "[ \\n:\\[\\]{},&*#'\"|>a-z0-9.-]{1,12}",
        Just("&a ".to_owned()),
        Just("*a".to_owned()),
        Just("---\n".to_owned()),
        Just("é".to_owned()),
    ];
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("-1".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("'::/0'".to_owned()),
        Just("0.0.0.0/0".to_owned()),
        Just("255.255.255.255/32".to_owned()),
        Just("'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'".to_owned()),
        Just("10.0.100.0/24".to_owned()),
        Just("Static".to_owned()),
        "[a-z]{0,70}",
    ];
    prop_oneof![
        (at.clone(), 1..40_usize).prop_map(|(at, count)| Edit::Delete { at, count }),
        (at.clone(), text).prop_map(|(at, text)| Edit::Insert { at, text }),
        (at.clone(), at.clone()).prop_map(|(at, with)| Edit::Swap { at, with }),
        at.clone().prop_map(|at| Edit::DropLine { at }),
        at.clone().prop_map(|at| Edit::RepeatLine { at }),
        (at, value).prop_map(|(at, value)| Edit::ReplaceValue { at, value }),
    ]
}

fn apply(text: &str, edit: &Edit) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let length = chars.len();
    let place = |at: usize| at * length / 1000;
    let line = |at: usize| (at * lines.len() / 1000).min(lines.len().saturating_sub(1));
    match edit {
        Edit::Delete { at, count } => {
            let (start, end) = (place(*at), (place(*at) + count).min(chars.len()));
            chars.drain(start..end);
        }
        Edit::Insert { at, text } => {
            let start = place(*at);
            chars.splice(start..start, text.chars());
        }
        Edit::Swap { at, with } if !chars.is_empty() => {
            let last = chars.len() - 1;
            chars.swap(place(*at).min(last), place(*with).min(last));
        }
        Edit::Swap { .. } => {}
        _ if lines.is_empty() => {}
        Edit::DropLine { at } => {
            lines.remove(line(*at));
            return lines.join("\n");
        }
        Edit::RepeatLine { at } => {
            let at = line(*at);
            lines.insert(at, lines[at].clone());
            return lines.join("\n");
        }
        Edit::ReplaceValue { at, value } => {
            let at = line(*at);
            if let Some((key, _)) = lines[at].split_once(": ") {
                lines[at] = format!("{key}: {value}");
            }
            return lines.join("\n");
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_edit_panics(
        edits in prop::collection::vec(edit(), 1..6),
        which in 0..5_usize,
    ) {
        let mut files: Vec<_> = (0..5)
            .map(|i| file(&format!("{i}.yaml"), EXAMPLES[i]))
            .collect();
        let good = parse(&files);
        let before = compile(&good.resources, NOW, &Options::standalone(), &[]);
        for edit in &edits {
            files[which].1 = apply(&files[which].1, edit);
        }
        let manifests = parse(&files);
        let after = compile(&manifests.resources, NOW, &Options::standalone(), &before.snapshots);
        for point in &manifests.resources.ingress_points {
            let options = crate::children::ChildOptions::default();
            crate::children::build(&point.object, &options);
        }
        for problem in manifests.problems.iter().chain(&after.problems) {
            let line = problem.to_string();
            prop_assert!(!line.contains('\n'), "{line:?}");
            prop_assert!(problem.location.is_some(), "{line}");
        }
        // Compiling what is in force again changes nothing.
        let again =
            compile(&manifests.resources, NOW, &Options::standalone(), &after.snapshots);
        prop_assert_eq!(again, after);
    }

    #[test]
    fn a_text_that_is_not_ours_is_a_problem_or_nothing(text in "\\PC{0,200}") {
        let manifests = parse(&[file("a.yaml", &text)]);
        prop_assert!(manifests.resources.ingress_points.is_empty());
    }
}

/// What the API server's rules say of the objects that nothing is wrong with here.
fn refused_by_the_api_server(manifests: &Manifests, compiled: &Compiled) -> Vec<String> {
    let resources = &manifests.resources;
    let objects = [
        json_of(&resources.ingress_points),
        json_of(&resources.attachments),
        json_of(&resources.policies),
    ];
    let wrong: Vec<_> = compiled
        .problems
        .iter()
        .filter(|problem| problem.is_error())
        .filter_map(|problem| problem.object.clone())
        .collect();
    let mut refusals = Vec::new();
    for (name, object) in objects.into_iter().flatten() {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if wrong
            .iter()
            .any(|wrong| wrong.kind == kind && wrong.name == name)
        {
            continue;
        }
        let crd = CRDS.iter().find(|(known, _)| *known == kind);
        let schema = &crd.unwrap().1;
        let object = apply_defaults(schema, &object);
        if let Err(errors) = Validator::new().validate(schema, &object, None) {
            refusals.push(format!("{kind} {name}: {errors}"));
        }
    }
    refusals
}

fn json_of<T: Serialize + kube::Resource>(
    objects: &[Sourced<T>],
) -> Vec<(ObjectName, serde_json::Value)> {
    let json = |sourced: &Sourced<T>| serde_json::to_value(&*sourced.object).unwrap();
    objects
        .iter()
        .map(|sourced| (sourced.name(), json(sourced)))
        .collect()
}

/// The schema of each kind.
static CRDS: LazyLock<Vec<(String, serde_json::Value)>> = LazyLock::new(|| {
    let crds = masque_api::crds().into_iter();
    crds.map(|mut crd| {
        let schema = crd
            .spec
            .versions
            .remove(0)
            .schema
            .unwrap()
            .open_api_v3_schema;
        (crd.spec.names.kind, serde_json::to_value(schema).unwrap())
    })
    .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_accepted_here_an_api_server_accepts(
        edits in prop::collection::vec(edit(), 0..4),
        which in 0..5_usize,
    ) {
        let mut text = EXAMPLES[which].to_owned();
        for edit in &edits {
            text = apply(&text, edit);
        }
        let manifests = parse(&[file("a.yaml", &text)]);
        let compiled = compile(&manifests.resources, NOW, &Options::standalone(), &[]);
        prop_assert_eq!(refused_by_the_api_server(&manifests, &compiled), [""; 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_order_of_documents_and_files_has_no_meaning(
        order in Just((0..documents().len()).collect::<Vec<_>>()).prop_shuffle(),
        cut in 0..10_usize,
        swap in any::<bool>(),
    ) {
        let all = documents();
        let whole = parse(&[file("a.yaml", &joined(all.iter().copied()))]);
        let expected = compile(&whole.resources, NOW, &Options::standalone(), &[]);
        let shuffled: Vec<_> = order.iter().map(|i| all[*i]).collect();
        let (first, second) = shuffled.split_at(cut.min(shuffled.len()));
        let mut files = vec![
            file("x.yaml", &joined(first.iter().copied())),
            file("y.yaml", &joined(second.iter().copied())),
        ];
        if swap {
            files.reverse();
        }
        let manifests = parse(&files);
        prop_assert_eq!(&manifests.problems, &[]);
        let compiled = compile(&manifests.resources, NOW, &Options::standalone(), &[]);
        prop_assert_eq!(compiled, expected);
    }
}

/// The winner among ingress points that all want one pool, whatever their order, names and times.
#[derive(Clone, Debug)]
struct Rival {
    name: u8,
    created: Option<u8>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_oldest_then_the_first_name_wins(
        rivals in prop::collection::btree_map(0..40_u8, prop::option::of(1..6_u8), 1..6)
            .prop_map(|map| {
                map.into_iter().map(|(name, created)| Rival { name, created }).collect::<Vec<_>>()
            })
            .prop_shuffle(),
    ) {
        let text = rivals.iter().enumerate().fold(String::new(), |mut text, (i, rival)| {
            let created = rival.created.map_or(String::new(), |day| {
                format!(", creationTimestamp: '2026-01-0{day}T00:00:00Z'")
            });
            let one = EXAMPLES[3]
                .split("---")
                .next()
                .unwrap_or_default()
                .replace("  name: staging\n", &format!("  {{name: p{:02}{created}}}\n", rival.name))
                .replace("metadata:\n  {", "metadata: {")
                .replace(":3:e002", &format!(":3:e0{:02}", 10 + i))
                .replace(":3:d002", &format!(":3:d0{:02}", 10 + i));
            let _ = writeln!(text, "{one}\n---");
            text
        });
        let manifests = parse(&[file("a.yaml", &text)]);
        prop_assert_eq!(&manifests.problems, &[]);
        let compiled = compile(&manifests.resources, NOW, &Options::standalone(), &[]);
        let winner = rivals.iter().min_by_key(|r| (r.created.unwrap_or(u8::MAX), r.name)).unwrap();
        let winner = format!("p{:02}", winner.name);
        prop_assert_eq!(compiled.snapshots.len(), 1);
        prop_assert_eq!(&compiled.snapshots[0].ingress_point.name, &winner);
        // One for each of the two pools.
        prop_assert_eq!(compiled.problems.len(), 2 * (rivals.len() - 1));
        for problem in &compiled.problems {
            prop_assert!(problem.message.contains(&winner), "{}", problem);
            prop_assert_eq!(problem.reason, Reason::Conflicted);
        }
    }
}
