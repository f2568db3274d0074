use masque_client::ConnectorIdentity;

use super::*;

#[test]
fn prints_for_others_only_what_is_missing() {
    let vpc: VpcName = "prod".parse().unwrap();
    let id = ConnectorIdentity::generate().unwrap().public_id();
    let request = Request {
        file: None,
        context: None,
        namespace: None,
        attachment: None,
        wait: Duration::ZERO,
        vpc: &vpc,
        connector: "laptop",
        id,
        need_gateway: true,
        need_ca: true,
    };
    let of = |step, make_attachment| {
        let plan = Plan {
            connector: "laptop".to_owned(),
            connector_step: step,
            attachment: "mine".to_owned(),
            make_attachment,
        };
        for_others(&plan, &request, "team")
    };
    let (yaml, advice) = of(ConnectorStep::Make, true);
    assert!(
        yaml.contains("kind: Connector\n") && yaml.contains(&id.hex()),
        "{yaml}"
    );
    assert!(
        yaml.contains("metadata: {name: mine, namespace: team}"),
        "{yaml}"
    );
    assert!(advice.contains("--subresource=status"), "{advice}");
    let (yaml, advice) = of(ConnectorStep::Known, true);
    assert!(!yaml.contains("kind: Connector\n"), "{yaml}");
    assert!(yaml.contains("kind: ConnectorAttachment\n"), "{yaml}");
    assert!(!advice.contains("--subresource=status"), "{advice}");
    let (yaml, _) = of(ConnectorStep::Publish(None), false);
    assert!(!yaml.contains("ConnectorAttachment"), "{yaml}");
}
