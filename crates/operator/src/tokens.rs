//! Who a gateway pod is: its ServiceAccount token, checked by the API server (TokenReview).

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use masque_controller::children::child_name;
use masque_model::ObjectName;
use masque_stream::{AuthError, Authenticator, PodIdentity, async_trait, point_of_uri};

use crate::{args::OPERATOR_NAME, client::call};

/// Where a bound token names its pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Asks the API server who holds a token.
pub(crate) struct TokenReviews {
    api: Api<TokenReview>,
}

impl TokenReviews {
    /// Reviews by `client`, which needs `create` on tokenreviews.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
        }
    }
}

#[async_trait]
impl Authenticator for TokenReviews {
    async fn authenticate(
        &self,
        token: &str,
        certificate_uri: &str,
    ) -> Result<PodIdentity, AuthError> {
        let point =
            point_of_uri(certificate_uri).map_err(|error| AuthError::Refused(error.to_string()))?;
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![OPERATOR_NAME.to_owned()]),
            },
            ..TokenReview::default()
        };
        let review = call(self.api.create(&PostParams::default(), &review))
            .await
            .map_err(|error| AuthError::Unavailable(error.to_string()))?;
        judge(&review.status.unwrap_or_default(), point)
    }
}

/// Lets a pod in whose ServiceAccount is that of `point` and whose token is bound to a pod.
fn judge(status: &TokenReviewStatus, point: ObjectName) -> Result<PodIdentity, AuthError> {
    let refuse = |why: String| Err(AuthError::Refused(why));
    if status.authenticated != Some(true) {
        let why = status.error.as_deref().unwrap_or("the token is not valid");
        return refuse(why.to_owned());
    }
    // A server that knows no audiences answers without them and would take any token.
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == OPERATOR_NAME) {
        return refuse(format!("the token's audience is not {OPERATOR_NAME}"));
    }
    let user = status.user.clone().unwrap_or_default();
    let account = format!(
        "system:serviceaccount:{}:{}",
        point.namespace,
        child_name(&point.name)
    );
    if user.username.as_deref() != Some(account.as_str()) {
        let found = user.username.unwrap_or_default();
        return refuse(format!("the token is of {found:?} and not of {account}"));
    }
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    match extra.get(POD_NAME).map(Vec::as_slice) {
        Some([pod]) if !pod.is_empty() => Ok(PodIdentity {
            ingress_point: point,
            pod: pod.clone(),
        }),
        _ => refuse("the token is not bound to a pod".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn point() -> ObjectName {
        ObjectName::new("team-a", "edge")
    }

    fn good() -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec!["masque-operator".to_owned()]),
            user: Some(UserInfo {
                username: Some("system:serviceaccount:team-a:edge-masque-gateway".to_owned()),
                extra: Some([(POD_NAME.to_owned(), vec!["edge-1".to_owned()])].into()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn a_pods_token_tells_its_ingress_point_and_name() {
        let pod = judge(&good(), point()).unwrap();
        assert_eq!((pod.pod.as_str(), pod.ingress_point), ("edge-1", point()));
    }

    #[test]
    fn everything_else_is_refused() {
        let refused = |change: fn(&mut TokenReviewStatus)| {
            let mut status = good();
            change(&mut status);
            assert!(
                matches!(judge(&status, point()), Err(AuthError::Refused(_))),
                "{status:?}"
            );
        };
        refused(|status| status.authenticated = None);
        refused(|status| status.audiences = None);
        refused(|status| {
            status.audiences = Some(vec!["https://kubernetes.default.svc".to_owned()])
        });
        refused(|status| status.user.as_mut().unwrap().extra = None);
        refused(|status| {
            let user = status.user.as_mut().unwrap();
            user.username = Some("system:serviceaccount:team-b:edge-masque-gateway".to_owned());
        });
        let other = ObjectName::new("team-a", "other");
        assert!(judge(&good(), other).is_err());
    }
}
