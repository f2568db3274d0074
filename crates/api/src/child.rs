//! Names of the objects that the operator makes for an ingress point. Clients read one of them, so
//! that they are part of the API.

/// The longest name of a child: a pod's name adds 17 characters to its Deployment's and stays a
/// host name (63 characters), and Secrets add a suffix.
const MAX_NAME: usize = 52;

/// The longest value of a label.
const MAX_LABEL: usize = 63;

const SUFFIX: &str = "-masque-gateway";

/// The key of the CA in the ConfigMap [`client_ca_name`].
pub const CLIENT_CA_KEY: &str = "ca.crt";

/// The name of most children of an ingress point: `<point>-masque-gateway`. A Service's name begins
/// with a letter and has no dots, so that names which do not fit are cut and get a hash.
pub fn child_name(point_name: &str) -> String {
    let plain = point_name.len() + SUFFIX.len() <= MAX_NAME
        && point_name.starts_with(|c: char| c.is_ascii_lowercase())
        && !point_name.contains('.');
    if plain {
        return format!("{point_name}{SUFFIX}");
    }
    let label = point_name.replace('.', "-");
    let letter = label.starts_with(|c: char| c.is_ascii_lowercase());
    let label = if letter { label } else { format!("p{label}") };
    cut(&label, point_name, MAX_NAME)
}

/// The ConfigMap with the CA that clients trust ([`CLIENT_CA_KEY`]).
pub fn client_ca_name(point_name: &str) -> String {
    format!("{}-ca", child_name(point_name))
}

/// An ingress point's name as a label's value.
pub fn label_value(point_name: &str) -> String {
    if point_name.len() <= MAX_LABEL {
        return point_name.to_owned();
    }
    cut(point_name, point_name, MAX_LABEL)
}

/// FNV-1a, 64 bits: the same everywhere and for ever, unlike the standard library's hasher.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The beginning of `text` and a hash of `whole`, in at most `most` characters.
fn cut(text: &str, whole: &str, most: usize) -> String {
    let hash = format!("{:012x}", stable_hash(whole.as_bytes()) & 0xffff_ffff_ffff);
    let keep = most - hash.len() - 1;
    // Names are ASCII; anything else is left to the API server to refuse.
    let start: String = text.chars().filter(char::is_ascii).take(keep).collect();
    format!("{}-{hash}", start.trim_end_matches(['-', '.', '_']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_children_never_change() {
        assert_eq!(child_name("prod"), "prod-masque-gateway");
        assert_eq!(client_ca_name("prod"), "prod-masque-gateway-ca");
        // Clients and operators of different releases must agree.
        assert_eq!(client_ca_name("team.prod"), "team-prod-f9465ac1c84b-ca");
        let long = "x".repeat(253);
        assert_eq!(child_name(&long).len(), MAX_NAME);
        assert_eq!(label_value(&long).len(), MAX_LABEL);
        assert_eq!(label_value("prod"), "prod");
    }
}
