//! URI templates and scopes: what a client expands, the proxy understands.

use ipnet::IpNet;
use masque_protocol::{PathTemplate, Scope, Target, Template};

pub(crate) fn run(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (template, path, target, protocol) = (line(), line(), line(), line());
    let scope = Scope::parse(Some(target), Some(protocol)).ok();
    if let Some(scope) = &scope {
        canonical(scope);
    }
    let expanded = expand(template, scope.as_ref().unwrap_or(&Scope::ANY));
    if let Ok(at_proxy) = PathTemplate::parse(path)
        && let Some(Ok(found)) = at_proxy.match_path(template)
    {
        canonical(&found);
    }
    expanded || scope.is_some()
}

/// A scope written out says the same when it is read.
fn canonical(scope: &Scope) {
    let target = scope.target_variable();
    let protocol = scope.protocol_variable();
    let again = Scope::parse(Some(&target), Some(&protocol));
    assert_eq!(again.as_ref(), Ok(scope));
    let offered: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"]
        .iter()
        .map(|prefix| prefix.parse().expect("a prefix"))
        .collect();
    for range in scope.narrow(&offered, &[]) {
        assert!(
            offered
                .iter()
                .any(|prefix| { prefix.contains(&range.start()) && prefix.contains(&range.end()) })
        );
        if let Target::Prefix(prefix) = &scope.target {
            assert!(prefix.contains(&range.start()) && prefix.contains(&range.end()));
        }
    }
}

fn expand(text: &str, scope: &Scope) -> bool {
    let Ok(template) = Template::parse(text) else {
        return false;
    };
    assert!(!template.host().is_empty());
    let request = template.expand(scope);
    assert_eq!(request.scheme, "https");
    assert_eq!(request.authority, template.authority());
    assert!(request.path.starts_with('/'));
    assert!(request.path.bytes().all(|byte| byte.is_ascii_graphic()));
    if !template.has_variables() {
        assert_eq!(template.expand(&Scope::ANY), request);
    }
    let path_at = text.find("://").map_or(0, |at| at + 3) + template.authority().len();
    let Ok(at_proxy) = PathTemplate::parse(&text[path_at..]) else {
        // Valid at a client, but with no way to say where a variable ends.
        return true;
    };
    let found = at_proxy.match_path(&request.path);
    let Some(Ok(found)) = found else {
        panic!(
            "{text:?} does not match its own {:?}: {found:?}",
            request.path
        );
    };
    assert_eq!(template.expand(&found), request);
    assert!(found.target == scope.target || found.target == Target::Any);
    assert!(found.protocol == scope.protocol || found.protocol.is_none());
    true
}
