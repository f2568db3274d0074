use super::*;
#[test]
fn dump() {
    for c in crds() {
        let s = serde_json::to_string_pretty(&c).unwrap();
        std::fs::write(format!("/tmp/h/{}.json", c.spec.names.plural), &s).unwrap();
    }
}
