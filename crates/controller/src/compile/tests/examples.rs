//! The manifests that the project ships.

use super::*;

fn examples() -> Compiled {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/standalone");
    let manifests = read_folder(&folder);
    let problems: Vec<_> = manifests.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, [""; 0]);
    compile(&manifests.resources, NOW, &Options::standalone(), &[])
}

#[test]
fn have_no_problems() {
    assert_eq!(lines(&examples()), [""; 0]);
}

#[test]
fn make_two_vpcs_with_the_same_addresses() {
    let compiled = examples();
    let [production, staging] = compiled.snapshots.as_slice() else {
        panic!("two snapshots")
    };
    assert_eq!(
        production.ingress_point,
        ObjectName::new("default", "production")
    );
    assert_eq!(production.vpc, ObjectName::new("default", "production-vpc"));
    assert_eq!(staging.vpc, ObjectName::new("default", "staging-vpc"));
    assert_eq!(production.pools[0].prefix, staging.pools[0].prefix);
    assert_ne!(production.pools[1].prefix, staging.pools[1].prefix);
    assert_eq!(production.listeners[0].port, staging.listeners[0].port);
    let Fabric::Static(fabric) = &production.fabric;
    assert_eq!(fabric.local_sid.to_string(), "fd00:0:1:3:e001::");
    assert_eq!(
        fabric.local_sid_ipv4.map(|sid| sid.to_string()).as_deref(),
        Some("fd00:0:1:3:d001::")
    );
    assert_eq!(fabric.routes.len(), 4);
    assert_eq!(production.version, 1);
}

#[test]
fn attach_laptop_and_phone() {
    let compiled = examples();
    let names = |snapshot: &Snapshot| -> Vec<String> {
        snapshot
            .attachments
            .iter()
            .map(|attachment| attachment.name.name.clone())
            .collect()
    };
    let production = &compiled.snapshots[0];
    assert_eq!(names(production), ["laptop-production", "phone-production"]);
    assert_eq!(names(&compiled.snapshots[1]), ["laptop-staging"]);
    let [laptop, phone] = production.attachments.as_slice() else {
        panic!("two attachments")
    };
    assert_eq!(laptop.routes, production.routes);
    assert!(laptop.ipv4 && laptop.ipv6 && laptop.addresses.is_empty());
    assert_eq!(laptop.limits.sessions, 4);
    assert_eq!(phone.addresses.len(), 2);
    assert_eq!(phone.routes.len(), 2);
    assert_eq!(phone.limits.bits_per_second, Some(100_000_000));
    assert_eq!(laptop.key, compiled.snapshots[1].attachments[0].key);
}

#[test]
fn flatten_the_policies() {
    let compiled = examples();
    let rules = &compiled.snapshots[0].rules;
    let names: Vec<_> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["callback", "no-debugger", "ping", "web"]);
    assert!(
        rules
            .iter()
            .all(|rule| rule.attachments == AttachmentSet::All)
    );
    assert_eq!(rules[0].direction, Direction::FromVpc);
    assert_eq!(rules[1].action, Action::Deny);
    assert_eq!(rules[2].ports[0].protocol, ProtocolMatch::Icmp);
    assert_eq!(rules[3].ports[1].ports, Some((8080, 8080)));
    assert_eq!(rules[3].prefixes.len(), 2);
}
