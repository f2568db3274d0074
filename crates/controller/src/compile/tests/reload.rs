//! Edits of manifests that are in force.

use super::*;

fn base() -> String {
    point("prod", 1, "")
        + &connector("laptop", 1)
        + &attachment("a", "laptop", "prod", "")
        + &policy("p", "prod", "  - {name: no, action: Deny}\n")
}

/// Compiles texts that may not parse.
fn reloaded(text: &str, previous: &[Snapshot]) -> Compiled {
    let manifests = parse(&[("test.yaml".to_owned(), text.to_owned())]);
    assert!(!manifests.problems.is_empty());
    compile(&manifests.resources, NOW, &Options::standalone(), previous)
}

#[test]
fn a_version_grows_only_with_a_change() {
    let first = compiled(&base());
    assert_eq!(first.snapshots[0].version, 1);
    assert_eq!(after(&base(), &first.snapshots), first);
    let changed = base() + &connector("phone", 2) + &attachment("b", "phone", "prod", "");
    let second = after(&changed, &first.snapshots);
    assert_eq!(second.snapshots[0].version, 2);
    // Back again is a change, too.
    let third = after(&base(), &second.snapshots);
    assert_eq!(third.snapshots[0].version, 3);
    // Comments and order are none.
    let reordered = format!(
        "# comment\n{}{}",
        connector("laptop", 1),
        base().replace(&connector("laptop", 1), "")
    );
    assert_eq!(
        after(&reordered, &third.snapshots).snapshots,
        third.snapshots
    );
}

#[test]
fn what_is_removed_is_gone() {
    let first = compiled(&base()).snapshots;
    let without = base().replace(&attachment("a", "laptop", "prod", ""), "");
    assert_eq!(after(&without, &first).snapshots[0].attachments, []);
    assert_eq!(after(&connector("laptop", 1), &first).snapshots, []);
}

#[test]
fn a_typo_in_an_ingress_point_keeps_it_in_force() {
    let first = compiled(&base()).snapshots;
    let typo = base().replace("addressPools", "adressPools");
    assert_eq!(reloaded(&typo, &first).snapshots, first);
    // One that only the compiler sees, likewise.
    let wrong = base().replace("10.1.100.0/24", "10.1.100.1/24");
    let compiled = after(&wrong, &first);
    assert_eq!(compiled.snapshots, first);
    assert!(compiled.problems[0].is_error());
    // Nothing is in force that never was.
    assert_eq!(reloaded(&typo, &[]).snapshots, []);
}

#[test]
fn a_typo_in_an_ingress_point_does_not_stop_a_revocation() {
    let first = compiled(&base()).snapshots;
    let typo = base().replace("addressPools", "adressPools");
    let revoked = typo.replace(&attachment("a", "laptop", "prod", ""), "");
    let second = reloaded(&revoked, &first).snapshots;
    assert_eq!(second[0].attachments, []);
    assert_eq!((second[0].version, second[0].pools.len()), (2, 1));
    let suspended = typo.replace(
        &attachment("a", "laptop", "prod", ""),
        &attachment("a", "laptop", "prod", "  suspend: true\n"),
    );
    assert!(reloaded(&suspended, &first).snapshots[0].attachments[0].suspended);
}

#[test]
fn a_typo_in_a_policy_keeps_its_rules() {
    let first = compiled(&base()).snapshots;
    for typo in ["action: Deni", "action: Deny, port: 1"] {
        let text = base().replace("action: Deny", typo);
        assert_eq!(reloaded(&text, &first).snapshots, first, "{typo}");
    }
    // One that only the compiler sees, likewise.
    let wrong = "action: Deny, ports: [{protocol: ICMP, port: 1}]";
    let compiled = after(&base().replace("action: Deny", wrong), &first);
    assert_eq!(reasons(&compiled), [Reason::Invalid]);
    assert_eq!(compiled.snapshots, first);
}

#[test]
fn a_typo_in_a_kind_keeps_its_object_in_force() {
    let by_label = "connectors: {selector: {matchLabels: {team: laptop}}}";
    let text = base().replace("action: Deny", &format!("action: Deny, {by_label}"));
    let first = compiled(&text).snapshots;
    assert_eq!(first[0].rules[0].action, Action::Deny);
    for (kind, typo) in [
        ("kind: VPCIngressPoint\nm", "kind: VPCIngresPoint\nm"),
        ("kind: VPCAccessPolicy\nm", "kind: VPCAccesPolicy\nm"),
        ("kind: ConnectorAttachment\n", "kind: ConectorAttachment\n"),
        ("kind: Connector\n", "kind: Conector\n"),
    ] {
        assert!(text.contains(kind), "{kind}");
        let edited = text.replace(kind, typo);
        assert_eq!(reloaded(&edited, &first).snapshots, first, "{typo}");
    }
    // Removing another object by intention works beside it.
    let edited = text
        .replace("kind: VPCAccessPolicy\nm", "kind: VPCAccesPolicy\nm")
        .replace(&attachment("a", "laptop", "prod", ""), "");
    let second = reloaded(&edited, &first).snapshots;
    assert_eq!(second[0].attachments, []);
    assert_eq!(second[0].rules.len(), 1);
}

#[test]
fn a_list_without_items_removes_nothing() {
    let first = compiled(&base()).snapshots;
    let list = "---\napiVersion: v1\nkind: List\nitmes: []\n";
    assert_eq!(reloaded(list, &first).snapshots, first);
}

#[test]
fn a_typo_in_an_attachment_keeps_its_session() {
    let first = compiled(&base()).snapshots;
    let with = |more| {
        base().replace(
            &attachment("a", "laptop", "prod", ""),
            &attachment("a", "laptop", "prod", more),
        )
    };
    assert_eq!(reloaded(&with("  suspnd: true\n"), &first).snapshots, first);
    assert_eq!(
        after(&with("  allowedRoutes: [10.1.0.1/16]\n"), &first).snapshots,
        first
    );
    let connector_typo = base()
        .replace("publicKey: {id", "publicKey: [id")
        .replace("'}}}", "']}}");
    assert_eq!(reloaded(&connector_typo, &first).snapshots, first);
}

#[test]
fn a_kept_attachment_gives_way() {
    let first = compiled(&base()).snapshots;
    // Somebody else has the key now.
    let broken = attachment("a", "laptop", "prod", "  x: 1\n");
    let text = base().replace(&attachment("a", "laptop", "prod", ""), &broken)
        + &attachment("b", "laptop", "prod", "");
    let names: Vec<_> = reloaded(&text, &first).snapshots[0]
        .attachments
        .iter()
        .map(|attachment| attachment.name.name.clone())
        .collect();
    assert_eq!(names, ["b"]);
    // And it gets no route that the ingress point took away.
    let narrowed = base()
        .replace(&attachment("a", "laptop", "prod", ""), &broken)
        .replace("  routes: [10.1.0.0/16]\n", "  routes: [10.1.7.0/24]\n");
    let kept = reloaded(&narrowed, &first).snapshots;
    assert_eq!(
        kept[0].attachments[0].routes,
        ["10.1.7.0/24".parse().unwrap()]
    );
}

#[test]
fn text_that_names_no_object_removes_nothing() {
    let first = compiled(&base()).snapshots;
    assert_eq!(reloaded("kind: [\n", &first).snapshots, first);
    assert_eq!(
        reloaded(&format!("kind: [\n{}", connector("laptop", 1)), &first).snapshots,
        first
    );
}

#[test]
fn a_kept_ingress_point_keeps_what_it_holds() {
    let first = compiled(&base()).snapshots;
    let rival = point("prod", 1, "").replace("{name: prod}", "{name: aaa}");
    let text = base().replace("addressPools", "adressPools") + &rival;
    let compiled = reloaded(&text, &first);
    assert_eq!(compiled.snapshots, first);
    assert!(reasons(&compiled).contains(&Reason::Conflicted));
}

/// Three ingress points, of which those with these numbers ask for another outer source address.
fn moved(numbers: &[u8]) -> String {
    let one = |number: u8| {
        let name = ["a", "b", "c"][usize::from(number) - 1];
        let text = point(name, number, "");
        let text = match numbers.contains(&number) {
            true => text.replace(
                "sourceAddress: fd00:0:1:3::1",
                "sourceAddress: fd00:0:1:3::2",
            ),
            false => text,
        };
        let connector = connector(&format!("{name}-laptop"), number);
        text + &connector + &attachment(name, &format!("{name}-laptop"), name, "")
    };
    [1, 2, 3].map(one).concat()
}

#[test]
fn an_edited_source_address_takes_it_from_nobody() {
    let first = compiled(&moved(&[])).snapshots;
    assert_eq!(first.len(), 3);
    for edited in [1, 2, 3] {
        let got = after(&moved(&[edited]), &first);
        assert_eq!(got.snapshots, first, "{edited}: all go on as they were");
        assert_eq!(reasons(&got), [Reason::Conflicted]);
        let (line, name) = (&lines(&got)[0], ["a", "b", "c"][usize::from(edited) - 1]);
        let of_it = format!("VPCIngressPoint default/{name}: spec.fabric.static.sourceAddress");
        assert!(line.contains(&of_it), "{line}");
        assert_eq!(after(&moved(&[edited]), &got.snapshots), got);
    }
    // One file after the other, the last of them moves all.
    let two = after(&moved(&[1, 2]), &first);
    assert_eq!(two.snapshots, first);
    let all = after(&moved(&[1, 2, 3]), &two.snapshots);
    assert_eq!(all.problems, []);
    assert!(all.snapshots.iter().all(|snapshot| snapshot.version == 2));
}

#[test]
fn a_refused_source_address_stops_no_revocation() {
    let first = compiled(&moved(&[])).snapshots;
    let revoked = moved(&[1]).replace(&attachment("a", "a-laptop", "a", ""), "");
    let got = after(&revoked, &first).snapshots;
    assert_eq!(got[0].attachments, []);
    assert_eq!(got[1..], first[1..]);
}

#[test]
fn a_newcomer_or_a_typo_does_not_move_the_source_address() {
    let first = compiled(&moved(&[])).snapshots;
    // The first by name, and never in force.
    let newcomer = point("aaa", 9, "").replace("fd00:0:1:3::1", "fd00:0:1:3::2");
    let got = after(&(moved(&[]) + &newcomer), &first);
    assert_eq!(got.snapshots, first);
    assert_eq!(reasons(&got), [Reason::Conflicted]);
    // All others cannot be read at present.
    let typo = moved(&[1]).replace("addressPools: [{cidr: 10.2", "adressPools: [{cidr: 10.2");
    let typo = typo.replace("addressPools: [{cidr: 10.3", "adressPools: [{cidr: 10.3");
    let got = reloaded(&typo, &first);
    assert_eq!(got.snapshots, first);
    assert!(reasons(&got).contains(&Reason::Conflicted));
}

#[test]
fn a_typo_in_a_connector_keeps_the_rules_about_its_labels() {
    let by_label = "connectors: {selector: {matchLabels: {team: laptop}}}";
    let text = base().replace("action: Deny", &format!("action: Deny, {by_label}"));
    let first = compiled(&text).snapshots;
    assert_eq!(
        first[0].rules[0].attachments,
        AttachmentSet::Some(vec![ObjectName::new("default", "a")])
    );
    let typo = text.replace("status: {connectionDetails", "status: [{connectionDetails");
    let typo = typo.replace("'}}}", "'}}}]");
    assert_eq!(reloaded(&typo, &first).snapshots, first);
}

#[test]
fn large_folders_compile_and_are_kept() {
    let count = 3000;
    let mut text = point("prod", 1, "").replace("10.1.100.0/24", "10.1.64.0/18");
    for i in 0..count {
        let key = format!("{:04x}", i + 1).repeat(16);
        text += &connector(&format!("c{i}"), 1).replace(&"01".repeat(32), &key);
        text += &attachment(&format!("a{i}"), &format!("c{i}"), "prod", "");
    }
    let by_label = "connectors: {selector: {matchExpressions: [{key: team, operator: Exists}]}}";
    let rules: String = (0..64)
        .map(|i| format!("  - {{name: r{i}, {by_label}}}\n"))
        .collect();
    text += &policy("p", "prod", &rules);
    let first = compiled(&text);
    assert_eq!(first.problems, []);
    assert_eq!(first.snapshots[0].attachments.len(), count);
    // Everything is kept, which looks at what was in force, too.
    let kept = reloaded("kind: [", &first.snapshots);
    assert_eq!(kept.snapshots[0].attachments.len(), count);
}

#[test]
fn policies_for_everybody_do_not_look_at_everybody() {
    let texts = |policies: usize, attachments: usize| {
        let mut text = point("prod", 1, "").replace("10.1.100.0/24", "10.1.64.0/18");
        for i in 0..attachments {
            let key = format!("{:04x}", i + 1).repeat(16);
            text += &connector(&format!("c{i}"), 1).replace(&"01".repeat(32), &key);
            text += &attachment(&format!("a{i}"), &format!("c{i}"), "prod", "");
        }
        for i in 0..policies {
            text += &policy(&format!("p{i}"), "prod", "  - {name: r}\n");
        }
        text
    };
    let timed = |policies, attachments| {
        let manifests = parse(&[("test.yaml".to_owned(), texts(policies, attachments))]);
        let start = std::time::Instant::now();
        let compiled = compile(&manifests.resources, NOW, &Options::standalone(), &[]);
        assert_eq!(compiled.problems, []);
        start.elapsed()
    };
    let apart = timed(1_000, 0) + timed(0, 1_500);
    // The shortest of three, for the machine may pause one of them.
    let together = [(); 3].map(|()| timed(1_000, 1_500)).into_iter().min();
    let together = together.unwrap();
    assert!(together < apart * 8, "{together:?} is more than {apart:?}");
}
