use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use masque_stream::Authority;
use serde_json::{Value, json};

use super::*;

/// A Kubernetes API of one Secret, written down call by call.
#[derive(Default)]
struct Fake {
    secret: Mutex<Option<Secret>>,
    /// Another operator that is faster: its Secret appears at our POST.
    rival: Mutex<Option<Secret>>,
    calls: Mutex<Vec<String>>,
}

impl Fake {
    fn client(self: &Arc<Self>) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, std::convert::Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "ops")
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let name = head.uri.path().rsplit('/').next().unwrap().to_owned();
        self.calls
            .lock()
            .unwrap()
            .push(format!("{} {name}", head.method));
        let body = body.collect_bytes().await.unwrap();
        let rival = self
            .rival
            .lock()
            .unwrap()
            .take_if(|_| head.method == "POST");
        let mut stored = self.secret.lock().unwrap();
        if let Some(rival) = rival {
            *stored = Some(rival);
            return failure(StatusCode::CONFLICT);
        }
        match head.method.as_str() {
            "GET" => {}
            _ => {
                let mut secret: Secret = serde_json::from_slice(&body).unwrap();
                let version = stored
                    .as_ref()
                    .and_then(|it| it.metadata.resource_version.clone());
                if secret.metadata.resource_version != version {
                    return failure(StatusCode::CONFLICT);
                }
                let next = version.map_or(1, |version| version.parse::<u64>().unwrap() + 1);
                secret.metadata.resource_version = Some(next.to_string());
                *stored = Some(secret);
            }
        }
        match &*stored {
            Some(secret) => Response::new(Body::from(serde_json::to_vec(secret).unwrap())),
            None => failure(StatusCode::NOT_FOUND),
        }
    }
}

fn failure(code: StatusCode) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "no", "reason": "No", "code": code.as_u16(),
    });
    let mut response = Response::new(Body::from(serde_json::to_vec(&status).unwrap()));
    *response.status_mut() = code;
    response
}

fn stored(authority: &Authority) -> Secret {
    let mut secret = ca_secret(authority.pem());
    secret.metadata.resource_version = Some("5".to_owned());
    secret
}

#[tokio::test]
async fn of_two_operators_that_make_a_ca_one_wins() {
    let other = Authority::generate(now_unix_s()).unwrap();
    let fake = Arc::new(Fake::default());
    *fake.rival.lock().unwrap() = Some(stored(&other));
    let certificates = Certificates::load(fake.client(), "ops", None)
        .await
        .unwrap();
    assert_eq!(certificates.authority.pem(), other.pem());
    assert_eq!(
        fake.calls(),
        [
            "GET masque-operator-ca",
            "POST secrets",
            "GET masque-operator-ca"
        ]
    );
}

#[tokio::test]
async fn an_old_ca_is_rotated_and_stored_before_it_is_used() {
    let year_s = 365 * 86_400;
    let old = Authority::generate(now_unix_s() - year_s * 3 / 4).unwrap();
    let fake = Arc::new(Fake::default());
    *fake.secret.lock().unwrap() = Some(stored(&old));
    let mut certificates = Certificates::load(fake.client(), "ops", None)
        .await
        .unwrap();
    assert_eq!(fake.calls(), ["GET masque-operator-ca"]);
    certificates.renew().await.unwrap();
    assert_eq!(
        fake.calls(),
        ["GET masque-operator-ca", "PUT masque-operator-ca"]
    );
    let kept = pem_of(fake.secret.lock().unwrap().as_ref().unwrap());
    assert_eq!(certificates.authority.pem(), &kept);
    assert_eq!(kept.previous_crt.as_ref(), Some(&old.pem().ca_crt));
    assert!(certificates.authority.bundle().contains(&old.pem().ca_crt));
}

#[tokio::test]
async fn a_ca_that_was_deleted_or_put_back_is_no_surprise() {
    let (first, backup) = (
        Authority::generate(now_unix_s()).unwrap(),
        Authority::generate(now_unix_s()).unwrap(),
    );
    let fake = Arc::new(Fake::default());
    *fake.secret.lock().unwrap() = Some(stored(&first));
    let mut certificates = Certificates::load(fake.client(), "ops", None)
        .await
        .unwrap();
    *fake.secret.lock().unwrap() = None;
    certificates.renew().await.unwrap();
    assert_eq!(
        pem_of(fake.secret.lock().unwrap().as_ref().unwrap()),
        *first.pem()
    );
    *fake.secret.lock().unwrap() = Some(stored(&backup));
    certificates.renew().await.unwrap();
    assert_eq!(certificates.authority.pem(), backup.pem());
}

#[tokio::test]
async fn a_secret_of_no_use_is_named() {
    let mut broken = stored(&Authority::generate(now_unix_s()).unwrap());
    broken.data.as_mut().unwrap().remove(CA_KEY);
    let fake = Arc::new(Fake::default());
    *fake.secret.lock().unwrap() = Some(broken);
    let error = Certificates::load(fake.client(), "ops", None)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains(CA_SECRET), "{error}");
    // It is nobody's to throw away.
    assert_eq!(fake.calls(), ["GET masque-operator-ca"]);
}

fn point() -> VPCIngressPoint {
    serde_json::from_value(json!({
        "apiVersion": masque_api::API_VERSION,
        "kind": "VPCIngressPoint",
        "metadata": {"name": "edge", "namespace": "team", "uid": "u"},
        "spec": {
            "vpcRef": {"name": "vpc"},
            "listeners": [{"name": "l", "port": 443}],
            "addressPools": [{"cidr": "10.1.100.0/24"}],
            "fabric": {"provider": "Static"},
        },
    }))
    .unwrap()
}

/// Certificates of an API server that has the CA, and answers everything else with `answer`.
async fn answered(
    answer: impl Fn(&crate::fake::Call) -> (u16, Value) + Send + Sync + 'static,
) -> (Certificates, crate::fake::Fake) {
    let ca = stored(&Authority::generate(now_unix_s()).unwrap());
    let fake = crate::fake::Fake::new(move |call| match &ca {
        ca if call.path.ends_with(CA_SECRET) => (200, serde_json::to_value(ca).unwrap()),
        _ => answer(call),
    });
    let loaded = Certificates::load(fake.client.clone(), "ops", None).await;
    fake.calls();
    (loaded.unwrap(), fake)
}

/// Where `secret` is stored, or none is.
async fn beside(secret: Option<Secret>) -> (Certificates, crate::fake::Fake) {
    answered(move |call| match &secret {
        _ if call.method == "PATCH" => (200, call.body.clone()),
        Some(secret) => (200, serde_json::to_value(secret).unwrap()),
        None => crate::fake::refusal(404),
    })
    .await
}

/// Where no Secret is stored, with a switch that makes calls of these methods fail.
async fn failing(
    methods: &'static [&'static str],
) -> (Certificates, crate::fake::Fake, Arc<AtomicBool>) {
    let switch = Arc::new(AtomicBool::new(false));
    let on = Arc::clone(&switch);
    let (certificates, fake) = answered(move |call| match call.method.as_str() {
        method if on.load(Ordering::Relaxed) && methods.contains(&method) => {
            crate::fake::refusal(503)
        }
        "PATCH" => (200, call.body.clone()),
        _ => crate::fake::refusal(404),
    })
    .await;
    (certificates, fake, switch)
}

/// What becomes of it when all Secrets are looked at now.
async fn trouble(certificates: &mut Certificates) -> Option<String> {
    let due = |known: &mut Known| known.until = Instant::now();
    certificates.known.values_mut().for_each(due);
    certificates.ensure(&point(), &BTreeSet::new()).await.0
}

fn methods(fake: &crate::fake::Fake) -> Vec<String> {
    fake.calls().into_iter().map(|call| call.method).collect()
}

#[tokio::test]
async fn a_deleted_secret_is_soon_made_again() {
    let (mut certificates, fake) = beside(None).await;
    let (failure, again) = certificates.ensure(&point(), &BTreeSet::new()).await;
    assert_eq!(failure, None);
    assert_eq!(methods(&fake), ["GET", "PATCH", "GET", "PATCH"]);
    assert!(again <= Instant::now() + FRESH * 5 / 4);
    // Not at every pass, though.
    certificates.ensure(&point(), &BTreeSet::new()).await;
    assert!(methods(&fake).is_empty());
}

/// An API server that restarts is no trouble of an ingress point.
#[tokio::test]
async fn what_was_good_is_believed_while_nobody_answers() {
    let (mut certificates, fake, away) = failing(&["GET", "PATCH"]).await;
    assert_eq!(trouble(&mut certificates).await, None);
    away.store(true, Ordering::Relaxed);
    fake.calls();
    assert_eq!(trouble(&mut certificates).await, None);
    assert_eq!(methods(&fake), ["GET", "GET"], "it was asked");
    // Not for ever, since nobody answers.
    for known in certificates.known.values_mut() {
        known.unanswered = known.unanswered.and_then(|at| at.checked_sub(BELIEVED));
    }
    assert!(trouble(&mut certificates).await.is_some());
    assert!(trouble(&mut certificates).await.is_some(), "nor anew");
    away.store(false, Ordering::Relaxed);
    assert_eq!(trouble(&mut certificates).await, None);
}

/// A Secret that is known to be gone is trouble, whatever the reason that it cannot be made.
#[tokio::test]
async fn what_is_known_to_be_bad_is_told_at_once() {
    let (mut certificates, _, refusing) = failing(&["PATCH"]).await;
    assert_eq!(trouble(&mut certificates).await, None);
    refusing.store(true, Ordering::Relaxed);
    assert!(trouble(&mut certificates).await.is_some());
}

/// A thousand ingress points are no storm of reads.
#[tokio::test]
async fn each_of_many_secrets_is_looked_at_seldom() {
    let (mut certificates, _) = beside(None).await;
    assert_eq!(certificates.fresh(), FRESH);
    for number in 0..4_000 {
        if number == 2_000 {
            assert_eq!(certificates.fresh(), LOOK_EVERY * 2_000);
        }
        let known = Known {
            state: String::new(),
            until: Instant::now(),
            unanswered: None,
            failure: None,
        };
        let name = ObjectName::new("ns", number.to_string());
        certificates.known.insert(name, known);
    }
    assert_eq!(
        certificates.fresh(),
        FRESH_MAX,
        "none is left alone for longer"
    );
}

/// It may be the only copy of somebody's key.
#[tokio::test]
async fn a_secret_of_somebody_else_is_never_overwritten() {
    let theirs = Secret {
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let (mut certificates, fake) = beside(Some(theirs)).await;
    for asked in [&["GET", "GET"][..], &[]] {
        let (failure, _) = certificates.ensure(&point(), &BTreeSet::new()).await;
        let failure = failure.unwrap();
        assert!(
            failure.contains("edge-masque-gateway-stream: somebody else"),
            "{failure}"
        );
        assert_eq!(methods(&fake), asked);
    }
}
