use masque_client::ConnectorIdentity;
use serde_json::json;

use super::*;
use crate::cluster::objects::tests::admission_of;

const OTHER: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// A namespace with connectors and attachments.
struct Case {
    id: PublicId,
    connectors: Vec<Connector>,
    admissions: Vec<Admission>,
}

impl Case {
    fn new() -> Self {
        Self {
            id: ConnectorIdentity::generate().unwrap().public_id(),
            connectors: Vec::new(),
            admissions: Vec::new(),
        }
    }

    fn connector(mut self, name: &str, key: Option<&str>) -> Self {
        let number = self.connectors.len() + 1;
        let details = json!({"connectionDetails": {
            "type": "PublicKey", "publicKey": {"id": key, "homeRelay": "https://relay.example"},
        }});
        let status = key.map_or(json!({}), |_| details);
        self.connectors.push(
            serde_json::from_value(json!({
                "metadata": {
                    "name": name, "resourceVersion": number.to_string(),
                    "creationTimestamp": format!("2026-01-{number:02}T00:00:00Z"),
                },
                "spec": {"connectorClassName": "datum-connect"}, "status": status,
            }))
            .unwrap(),
        );
        self
    }

    fn own(self, name: &str) -> Self {
        let key = self.id.hex();
        self.connector(name, Some(&key))
    }

    fn admission(mut self, name: &str, connector: &str, vpc: &str, ready: bool) -> Self {
        let number = self.admissions.len() + 1;
        let time = format!("2026-01-{number:02}T00:00:00Z");
        let ready = if ready { "True" } else { "False" };
        self.admissions.push(admission_of(json!({
            "metadata": {"name": name, "creationTimestamp": time, "generation": 3},
            "spec": {"connectorRef": {"name": connector}, "vpcRef": {"name": vpc}},
            "status": {"conditions": [{
                "type": "Ready", "status": ready, "reason": "Ready", "message": "",
                "observedGeneration": 3, "lastTransitionTime": time,
            }]},
        })));
        self
    }

    fn plan(&self, attachment: Option<&str>) -> Result<Plan, Failure> {
        let vpc = "prod".parse().unwrap();
        let wanted = Wanted {
            vpc: &vpc,
            namespace: "team",
            attachment,
            connector: "laptop",
            id: self.id,
        };
        plan(&wanted, &self.connectors, &self.admissions)
    }
}

fn planned(connector: &str, step: ConnectorStep, attachment: &str, make: bool) -> Plan {
    Plan {
        connector: connector.to_owned(),
        connector_step: step,
        attachment: attachment.to_owned(),
        make_attachment: make,
    }
}

#[test]
fn makes_both_where_nothing_is() {
    let made = Case::new().plan(None).unwrap();
    let wanted = planned("laptop", ConnectorStep::Make, "laptop-prod", true);
    assert_eq!(made, wanted);
    let named = Case::new().plan(Some("mine")).unwrap();
    assert_eq!(named.attachment, "mine");
}

#[test]
fn a_connector_is_known_by_its_key_not_by_its_name() {
    let case = Case::new().connector("laptop", Some(OTHER)).own("desk");
    let plan = case.plan(None).unwrap();
    let wanted = planned("desk", ConnectorStep::Known, "desk-prod", true);
    assert_eq!(plan, wanted);
}

#[test]
fn a_key_that_is_there_is_never_replaced() {
    let failure = Case::new()
        .connector("laptop", Some(OTHER))
        .plan(None)
        .unwrap_err();
    assert_eq!(failure.exit, Exit::CannotCreate);
    assert!(
        failure.to_string().contains("has the key d75a9801…"),
        "{failure}"
    );
}

#[test]
fn a_connector_without_a_key_gets_ours_and_its_attachment_is_used() {
    let case = Case::new()
        .connector("desk", None)
        .connector("laptop", None)
        .admission("a", "desk", "prod", false)
        .admission("b", "laptop", "prod", false);
    let publish = |version: &str| ConnectorStep::Publish(Some(version.to_owned()));
    assert_eq!(
        case.plan(None).unwrap(),
        planned("laptop", publish("2"), "b", false)
    );
    assert_eq!(
        case.plan(Some("a")).unwrap(),
        planned("desk", publish("1"), "a", false),
        "the named attachment says which connector this machine is"
    );
}

#[test]
fn the_ready_attachment_of_this_vpc_is_used() {
    let case = Case::new()
        .own("laptop")
        .own("spare")
        .admission("stage", "laptop", "stage", true)
        .admission("broken", "laptop", "prod", false)
        .admission("good", "spare", "prod", true)
        .admission("foreign", "other", "prod", true);
    assert_eq!(
        case.plan(None).unwrap(),
        planned("spare", ConnectorStep::Known, "good", false)
    );
    let failure = case.plan(Some("stage")).unwrap_err();
    assert_eq!(failure.exit, Exit::Config);
    let failure = case.plan(Some("foreign")).map(|plan| plan.connector_step);
    assert_eq!(
        failure.unwrap(),
        ConnectorStep::Make,
        "its Connector is missing"
    );
}
