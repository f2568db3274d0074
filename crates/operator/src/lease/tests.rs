use std::sync::Mutex;

use super::*;
use crate::fake::{Fake, refusal};

fn held_by(identity: &str) -> Lease {
    claim(None, "masque-operator", identity, Timestamp::UNIX_EPOCH)
}

#[test]
fn a_lease_of_somebody_else_is_taken_only_after_it_stood_still() {
    let lease = held_by("a");
    let almost = LEASE_DURATION - Duration::from_millis(1);
    assert_eq!(decide(Some(&lease), "b", almost), Step::Wait);
    assert_eq!(decide(Some(&lease), "b", LEASE_DURATION), Step::Take);
    assert_eq!(decide(Some(&lease), "a", Duration::ZERO), Step::Renew);
    assert_eq!(decide(None, "b", Duration::ZERO), Step::Create);
}

#[test]
fn a_lease_that_was_given_back_is_free_at_once() {
    let mut lease = held_by("a");
    lease.spec.get_or_insert_default().holder_identity = Some(String::new());
    assert_eq!(decide(Some(&lease), "b", Duration::ZERO), Step::Take);
    let taken = claim(Some(lease), "x", "b", Timestamp::UNIX_EPOCH);
    assert_eq!(holder(&taken), Some("b"));
    assert_eq!(taken.spec.and_then(|spec| spec.lease_transitions), Some(1));
}

#[test]
fn a_leader_stops_before_anybody_may_start() {
    assert!(RENEW_DEADLINE + RENEW_EVERY < LEASE_DURATION);
}

#[tokio::test]
async fn leadership_ends_by_itself_at_its_deadline() {
    let until = Instant::now() + Duration::from_millis(50);
    let (_sender, receiver) = watch::channel(Some(until));
    let mut leadership = Leadership { until: receiver };
    assert!(leadership.holds());
    leadership.lost().await;
    assert!(!leadership.holds());
}

/// A server with one Lease; `refuse` says for the n-th call whether it is refused, and whether it is
/// done nonetheless.
fn lease_server(lease: Lease, refuse: fn(usize) -> Option<(u16, bool)>) -> Fake {
    let state = Mutex::new((serde_json::to_value(lease).unwrap(), 1_usize, 0_usize));
    Fake::new(move |call| {
        let mut state = state.lock().unwrap();
        let (lease, version, calls) = &mut *state;
        *calls += 1;
        let refused = refuse(*calls);
        if call.method == "PUT" && refused.is_none_or(|(_, done)| done) {
            let named = call.body["metadata"]["resourceVersion"].as_str();
            if named != Some(version.to_string().as_str()) {
                return refusal(409);
            }
            *version += 1;
            *lease = call.body.clone();
        }
        lease["metadata"]["resourceVersion"] = version.to_string().into();
        refused.map_or_else(|| (200, lease.clone()), |(code, _)| refusal(code))
    })
}

fn candidate(fake: &Fake) -> (Election, Leadership) {
    let name = "masque-operator";
    Election::new(fake.client.clone(), "ns", name, "me".to_owned())
}

/// The API server took a renewal, its answer was lost, and then it is gone: leading must end before
/// anybody else may begin.
#[tokio::test]
async fn only_a_renewal_that_is_known_to_be_done_prolongs() {
    let fake = lease_server(held_by("me"), |call| match call {
        // After a look and a renewal: a renewal that is done and not answered, then nothing at all.
        3 => Some((500, true)),
        5.. => Some((503, false)),
        _ => None,
    });
    let (mut election, _leadership) = candidate(&fake);
    assert!(election.turn().await.unwrap());
    election.announce(true, Instant::now());
    election.turn().await.unwrap_err();
    // The version is stale now: 409, a look that shows the own name, and no renewal.
    election.turn().await.unwrap_err();
    let methods: Vec<_> = fake.calls().into_iter().map(|call| call.method).collect();
    assert_eq!(methods, ["GET", "PUT", "PUT", "PUT", "GET"]);
}

#[tokio::test]
async fn a_stale_version_is_renewed_again_at_once() {
    let fake = lease_server(held_by("me"), |call| (call == 3).then_some((500, true)));
    let (mut election, _leadership) = candidate(&fake);
    assert!(election.turn().await.unwrap());
    election.announce(true, Instant::now());
    election.turn().await.unwrap_err();
    assert!(election.turn().await.unwrap());
    let methods: Vec<_> = fake.calls().into_iter().map(|call| call.method).collect();
    assert_eq!(methods, ["GET", "PUT", "PUT", "PUT", "GET", "PUT"]);
}

/// How long a dead leader's Lease stood still counts also while the API server stumbles.
#[tokio::test]
async fn a_standby_does_not_begin_to_wait_anew_after_an_error() {
    let fake = lease_server(held_by("other"), |call| (call == 2).then_some((503, false)));
    let (mut election, _leadership) = candidate(&fake);
    assert!(!election.turn().await.unwrap());
    let since = election.seen.as_ref().map(|seen| seen.since);
    election.turn().await.unwrap_err();
    election.stumbled();
    assert!(!election.turn().await.unwrap());
    assert_eq!(election.seen.as_ref().map(|seen| seen.since), since);
    // What became of an own write is asked.
    election.announce(true, Instant::now());
    election.stumbled();
    assert!(election.seen.is_none());
}
