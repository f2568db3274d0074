use super::*;

mod mutations;

const GOOD: &str = "apiVersion: networking.datumapis.com/v1alpha1
kind: ConnectorAttachment
metadata:
  name: laptop
spec:
  connectorRef: {name: laptop}
  vpcRef: {name: production-vpc}
";

fn file(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

/// The problems of one file, as lines.
fn problems(text: &str) -> Vec<String> {
    let manifests = parse(&[file("a.yaml", text)]);
    manifests.problems.iter().map(ToString::to_string).collect()
}

/// [`GOOD`] with something below `spec`, whose first line is line 8.
fn with(more: &str) -> String {
    format!("{GOOD}{more}")
}

#[test]
fn reads_the_documents_of_the_design() {
    let text = "apiVersion: networking.datumapis.com/v1alpha1
kind: Connector
metadata: {name: developer-laptop}
spec:
  connectorClassName: datum-connect
  capabilities: [{type: MASQUE, enabled: true}, {type: CONNECT-IP, enabled: true}]
status:
  connectionDetails: {type: PublicKey, publicKey: {id: 2ovpybgj3snjmchns44pfn6dbwmdiu4ogfd66xyu72ghexllv6hq, homeRelay: https://relay.datum.net}}
---
apiVersion: networking.datumapis.com/v1alpha1
kind: ConnectorAttachment
metadata: {name: developer-laptop}
spec: {connectorRef: {name: developer-laptop}, vpcRef: {name: production-vpc}, ipAllocation: {mode: Dynamic}, allowedRoutes: [10.0.0.0/16]}
status: {assignedIP: 10.0.100.50, phase: Connected}
";
    let manifests = parse(&[file("a.yaml", text)]);
    assert_eq!(manifests.problems, []);
    let connector = &manifests.resources.connectors[0].object;
    let details = connector
        .status
        .as_ref()
        .and_then(|s| s.connection_details.as_ref());
    let id = details
        .and_then(|d| d.public_key.as_ref())
        .map(|key| key.id.as_str());
    assert_eq!(
        id,
        Some("2ovpybgj3snjmchns44pfn6dbwmdiu4ogfd66xyu72ghexllv6hq")
    );
    let attachment = &manifests.resources.attachments[0].object;
    assert_eq!(
        attachment.spec.vpc_ref,
        masque_api::VpcRef::named("production-vpc")
    );
    assert_eq!(
        attachment.spec.allowed_routes,
        [masque_api::Cidr::from("10.0.0.0/16")]
    );
}

#[test]
fn names_file_line_object_and_field() {
    assert_eq!(
        problems(&with("  allowedRotues: [10.0.0.0/16]\n")),
        [
            "a.yaml:8: ConnectorAttachment default/laptop: spec.allowedRotues: unknown field; \
          did you mean allowedRoutes?"
        ]
    );
    assert_eq!(
        problems(&with("  limits:\n    sessions: 1000\n")),
        [
            "a.yaml:9: ConnectorAttachment default/laptop: spec.limits.sessions: 1000 is outside \
          1..64"
        ]
    );
    assert_eq!(
        problems(&with("  ipAllocation:\n    mode: static\n")),
        [
            "a.yaml:9: ConnectorAttachment default/laptop: spec.ipAllocation.mode: \"static\" is not \
          one of Dynamic, Static; did you mean Static?"
        ]
    );
    assert_eq!(
        problems(&with(
            "  allowedRoutes:\n  - 10.0.0.0/16\n  - 10.0.0.0/16\n"
        )),
        [
            "a.yaml:10: ConnectorAttachment default/laptop: spec.allowedRoutes[1]: \"10.0.0.0/16\" is \
          there twice, first as spec.allowedRoutes[0]; remove one of them"
        ]
    );
}

#[test]
fn says_what_would_be_right() {
    let hints = [
        (
            "  suspend: yes\n",
            "expected true or false, found text; write true",
        ),
        ("  suspend: 1\n", "expected true or false, found a number"),
        (
            "  allowedRoutes: 10.0.0.0/16\n",
            "expected a list, found text; write [10.0.0.0/16]",
        ),
        (
            "  limits: {sessions: '4'}\n",
            "expected a whole number, found text; write 4 without",
        ),
        (
            "  limits: {sessions: 1.5}\n",
            "expected a whole number, found a number",
        ),
        (
            "  vpc: x\n",
            "unknown field; fields here are allowedRoutes, connectorRef,",
        ),
        ("  limits: []\n", "expected a map, found a list"),
        (
            "  allowedRoutes: [1]\n",
            "expected text, found a number; put it in quotes: \"1\"",
        ),
        (
            "  allowedRoutes: [null]\n",
            "expected text, found null; remove the line",
        ),
    ];
    for (more, hint) in hints {
        let problems = problems(&with(more));
        assert_eq!(problems.len(), 1, "{more}: {problems:?}");
        assert!(problems[0].contains(hint), "{more}: {problems:?}");
    }
    let missing = "apiVersion: networking.datumapis.com/v1alpha1
kind: ConnectorAttachment
metadata: {name: laptop}
spec:
  connectorRef: {}
";
    assert_eq!(
        problems(missing),
        [
            "a.yaml:5: ConnectorAttachment default/laptop: spec: vpcRef is missing; The VPC",
            "a.yaml:5: ConnectorAttachment default/laptop: spec.connectorRef: name is missing; The \
             Connector's name",
        ]
    );
}

#[test]
fn a_field_set_to_null_is_not_set() {
    assert_eq!(
        problems(&with("  limits: null\n  allowedRoutes:\n")),
        [""; 0]
    );
    assert!(
        problems(&GOOD.replace("{name: laptop}", "null"))[0].contains("connectorRef is missing")
    );
}

#[test]
fn a_broken_document_costs_only_itself() {
    let text = format!(
        "{GOOD}---\nkind: [\n---\n{}",
        GOOD.replace("name: laptop\nspec", "name: phone\nspec")
    );
    let manifests = parse(&[file("a.yaml", &text)]);
    assert_eq!(manifests.resources.attachments.len(), 2);
    assert_eq!(manifests.problems.len(), 1);
    assert!(manifests.resources.incomplete);
    let location = manifests.problems[0].location.as_ref().unwrap();
    assert!((9..=11).contains(&location.line), "{location}");
}

#[test]
fn an_object_with_a_problem_is_remembered() {
    let manifests = parse(&[file("a.yaml", &with("  x: 1\n"))]);
    let name = ObjectName::new("default", "laptop");
    assert!(
        manifests
            .resources
            .unreadable
            .contains(&(Kind::ConnectorAttachment, name))
    );
    assert!(!manifests.resources.incomplete);
    assert!(manifests.resources.attachments.is_empty());
}

#[test]
fn kinds_are_told_apart() {
    let one = |api_version: &str, kind: &str| {
        problems(&format!(
            "apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n"
        ))
    };
    assert_eq!(one("example.com/v7", "VPC"), [""; 0]);
    assert_eq!(
        one("v1", "ConfigMap"),
        ["a.yaml:2: warning: ConfigMap default/a: kind: the kind ConfigMap of v1 is not read"]
    );
    assert_eq!(
        one("networking.datumapis.com/v1alpha1", "VPCIngresPoint"),
        [
            "a.yaml:2: VPCIngresPoint default/a: kind: the kind VPCIngresPoint of \
          networking.datumapis.com/v1alpha1 is not read; did you mean VPCIngressPoint?"
        ]
    );
    assert_eq!(
        one("networking.datumapis.com/v1", "VPCAccessPolicy"),
        [
            "a.yaml:1: VPCAccessPolicy default/a: apiVersion: \"networking.datumapis.com/v1\" is not \
          where VPCAccessPolicy is; write networking.datumapis.com/v1alpha1"
        ]
    );
    assert!(problems("kind: VPC\nmetadata: {name: a}\n")[0].contains("apiVersion is missing"));
    assert!(problems("- a\n- b\n")[0].contains("kind is missing"));
}

#[test]
fn an_object_whose_kind_has_a_typo_is_remembered() {
    let typos = [
        ("VPCAccesPolicy", Kind::VPCAccessPolicy),
        ("vpcIngressPoint", Kind::VPCIngressPoint),
        ("ConnectorAttachement", Kind::ConnectorAttachment),
        ("Conector", Kind::Connector),
    ];
    let one = |kind: &str, metadata: &str| {
        let version = "networking.datumapis.com/v1alpha1";
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {metadata}\n");
        parse(&[file("a.yaml", &text)])
    };
    for (typo, meant) in typos {
        let manifests = one(typo, "{name: a, namespace: n}");
        assert_eq!(manifests.problems.len(), 1, "{typo}");
        let problem = &manifests.problems[0];
        assert!(problem.is_error(), "{problem}");
        assert_eq!(problem.hint, format!("did you mean {meant}?"));
        let expected = [(meant, ObjectName::new("n", "a"))].into();
        assert_eq!(manifests.resources.unreadable, expected, "{typo}");
        assert!(!manifests.resources.incomplete);
        // Without a name it may have been any of them.
        let nameless = one(typo, "{}").resources;
        assert!(nameless.incomplete && nameless.unreadable.is_empty());
    }
}

#[test]
fn other_kinds_of_our_group_are_somebody_elses() {
    let kinds = [
        "Network",
        "NetworkPolicy",
        "Subnet",
        "Location",
        "Domain",
        "HTTPProxy",
        "TrafficProtectionPolicy",
        "ConnectorClass",
        "ConnectorAdvertisement",
        "Secret",
    ];
    for kind in kinds {
        let text = format!(
            "apiVersion: networking.datumapis.com/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\n"
        );
        let manifests = parse(&[file("a.yaml", &text)]);
        let problem = &manifests.problems[0];
        assert!(!problem.is_error(), "{problem}");
        assert_eq!(problem.hint, "", "{problem}");
        assert!(manifests.resources.unreadable.is_empty());
        assert!(!manifests.resources.incomplete);
    }
    // A resemblance in another group is a coincidence.
    assert!(problems("apiVersion: v1\nkind: Conector\n")[0].contains("warning: "));
}

#[test]
fn names_follow_kubernetes() {
    let named =
        |name: &str| problems(&GOOD.replace("name: laptop\nspec", &format!("name: {name}\nspec")));
    assert!(named("Laptop")[0].contains("is not an object name"));
    assert!(named("12")[0].contains("put it in quotes"));
    assert!(named("")[0].contains("name is missing; give the ConnectorAttachment a name"));
    assert!(named(&"a".repeat(64))[0].contains("at most 63"));
    assert_eq!(named(&"a".repeat(63)), [""; 0]);
}

#[test]
fn the_second_of_two_is_left_out() {
    let files = [
        file("b.yaml", GOOD),
        file("a.yaml", &format!("---\n{GOOD}")),
    ];
    let manifests = parse(&files);
    assert_eq!(manifests.resources.attachments.len(), 1);
    let lines: Vec<_> = manifests.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "b.yaml:1: ConnectorAttachment default/laptop: metadata.name: there are two of it, the \
          other one is at a.yaml:2; remove one of them"
        ]
    );
}

#[test]
fn a_list_is_its_items() {
    let indented: String = GOOD.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!("apiVersion: v1\nkind: List\nitems:\n  -\n{indented}    extra: 1\n");
    let manifests = parse(&[file("a.yaml", &text)]);
    let lines: Vec<_> = manifests.problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with(
            "a.yaml:12: ConnectorAttachment default/laptop: items[0].extra: unknown field"
        ),
        "{lines:?}"
    );
    let good = parse(&[file("a.yaml", &text.replace("    extra: 1\n", ""))]);
    assert_eq!(
        (good.problems.len(), good.resources.attachments.len()),
        (0, 1)
    );
}

#[test]
fn a_list_without_items_may_have_held_anything() {
    for rest in ["", "itmes: []\n", "items:\n", "items: {a: b}\n"] {
        let text = format!("apiVersion: v1\nkind: List\n{rest}");
        let manifests = parse(&[file("a.yaml", &text)]);
        assert_eq!(manifests.problems.len(), 1, "{rest}");
        let problem = &manifests.problems[0];
        assert!(problem.is_error(), "{problem}");
        assert_eq!(problem.message, "a List needs items");
        assert!(manifests.resources.incomplete, "{rest}");
    }
    for typo in ["Lst", "list", "Lists"] {
        let text = format!("apiVersion: v1\nkind: {typo}\nitems: []\n");
        let manifests = parse(&[file("a.yaml", &text)]);
        assert!(manifests.problems[0].is_error(), "{typo}");
        assert_eq!(manifests.problems[0].hint, "did you mean List?");
        assert!(manifests.resources.incomplete, "{typo}");
    }
    let other = "apiVersion: v1\nkind: ConfigMapList\nitems: []\n";
    let other = parse(&[file("a.yaml", other)]);
    assert!(!other.problems[0].is_error() && !other.resources.incomplete);
    let empty = parse(&[file("a.yaml", "apiVersion: v1\nkind: List\nitems: []\n")]);
    assert_eq!(
        (empty.problems.len(), empty.resources.incomplete),
        (0, false)
    );
}

#[test]
fn secrets_are_decoded_and_never_shown() {
    let secret = |rest: &str| {
        let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\n{rest}");
        parse(&[file("a.yaml", &text)])
    };
    let good = secret("type: kubernetes.io/tls\ndata: {tls.crt: YQ==}\nstringData: {tls.key: k}\n");
    assert_eq!(good.problems, []);
    let tls = &good.resources.secrets[&ObjectName::new("default", "a")];
    assert_eq!(
        (
            tls.data["tls.crt"].as_slice(),
            tls.data["tls.key"].as_slice()
        ),
        (&b"a"[..], &b"k"[..])
    );
    let bad = secret("data:\n  password: hunter2!\n");
    assert_eq!(bad.problems.len(), 1);
    assert!(
        !bad.problems[0].to_string().contains("hunter2"),
        "{}",
        bad.problems[0]
    );
    assert!(
        bad.problems[0]
            .to_string()
            .starts_with("a.yaml:5: Secret default/a: data.password")
    );
    let half = secret("type: kubernetes.io/tls\nstringData: {tls.crt: c}\n");
    assert!(half.problems[0].to_string().contains("tls.key is missing"));
}

#[test]
fn every_amount_is_bounded() {
    let large = format!("# {}\n{GOOD}", "x".repeat(MAX_FILE_BYTES as usize));
    let manifests = parse(&[file("a.yaml", &large)]);
    assert!(
        manifests.problems[0]
            .message
            .contains("more than 4194304 bytes")
    );
    assert!(manifests.resources.attachments.is_empty() && manifests.resources.incomplete);

    let files: Vec<_> = (0..=MAX_FILES)
        .map(|i| file(&format!("{i:05}.yaml"), "# empty\n"))
        .collect();
    let manifests = parse(&files);
    assert_eq!(manifests.problems.len(), 1);
    assert!(
        manifests.problems[0]
            .message
            .contains("more than 1024 files")
    );

    let chunk = format!("# {}", "x".repeat(4_000_000));
    let files: Vec<_> = (0..17)
        .map(|i| file(&format!("{i:02}.json"), &chunk))
        .collect();
    let manifests = parse(&files);
    assert!(
        manifests
            .problems
            .iter()
            .any(|p| p.message.contains("bytes together"))
    );

    let documents = "---\na\n".repeat(MAX_DOCUMENTS + 1);
    let manifests = parse(&[file("a.yaml", &documents)]);
    assert_eq!(manifests.problems.len(), MAX_PROBLEMS + 1);
    assert!(
        manifests.problems[MAX_PROBLEMS]
            .message
            .contains("more problems")
    );

    let typos: String = (0..500).map(|i| format!("  x{i}: 1\n")).collect();
    assert_eq!(problems(&with(&typos)).len(), schema::MAX_FINDINGS);
}

#[test]
fn a_folder_is_read_in_the_order_of_names() {
    let folder = std::env::temp_dir().join(format!("manifests-{}", std::process::id()));
    let write = |name: &str, text: &[u8]| fs::write(folder.join(name), text).unwrap();
    fs::create_dir_all(folder.join("secrets")).unwrap();
    write("b.yml", GOOD.as_bytes());
    write("a.yaml", GOOD.as_bytes());
    write(".hidden.yaml", b"[");
    write("notes.txt", b"[");
    write("secrets/c.yaml", b"[");
    write("latin.json", b"\"\xe4\"");
    let manifests = read_folder(&folder);
    fs::remove_dir_all(&folder).unwrap();
    let lines: Vec<_> = manifests.problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("b.yml:1: ConnectorAttachment default/laptop"));
    assert_eq!(
        lines[1],
        "latin.json: byte 1 is not UTF-8; save the file as UTF-8"
    );
    assert!(manifests.resources.incomplete);

    let missing = read_folder(&folder);
    assert!(
        missing.problems[0]
            .message
            .contains("cannot read the folder")
    );
    assert!(missing.resources.incomplete);
}

#[test]
fn odd_files_take_bounded_time() {
    // A parser that is quadratic in any of them would take minutes.
    let units = [
        "[", "{", "{a: ", "- ", "? ", "a:\n", "a\n", "&a ", "*a ", "!a ", "\"", "'", "|\n", "\n",
        "#", "---\n", "- a\n", "a: b\n", "[],", "a ", " ", "\t", "\\", ": ", "%a\n", "...\n", "é",
    ];
    for unit in units {
        let text = unit.repeat(500_000 / unit.len());
        let start = std::time::Instant::now();
        parse(&[file("a.yaml", &text)]);
        assert!(
            start.elapsed().as_secs() < 5,
            "{unit:?}: {:?}",
            start.elapsed()
        );
    }
}
