//! No network: streams are driven by hand, in every order.

use proptest::prelude::*;

use super::*;
use crate::session::fixture::{point, point as name, session, snapshot, with_content};

fn identity(point_name: &str, pod: &str) -> PodIdentity {
    PodIdentity {
        ingress_point: point(point_name),
        pod: pod.to_owned(),
    }
}

fn attach(hub: &Hub, point: &str, pod: &str) -> Attached {
    hub.attach(&identity(point, pod), &wire::Hello::default())
        .unwrap()
}

fn ack(document: &Document) -> wire::Ack {
    wire::Ack {
        version: document.version(),
        hash: document.hash().as_bytes().to_vec(),
    }
}

fn only(hub: &Hub, name: &str) -> PodState {
    let [pod] = hub.reports(&point(name)).try_into().unwrap();
    pod
}

#[test]
fn a_pod_gets_the_newest_and_only_its_own() {
    let hub = Hub::new();
    let mut pod = attach(&hub, "a", "a-0");
    assert_eq!(pod.due(), None);
    hub.publish(&snapshot("b", 9)).unwrap();
    assert_eq!(pod.due(), None);
    hub.publish(&with_content("a", 1, 1)).unwrap();
    let newest = hub.publish(&with_content("a", 2, 2)).unwrap();
    let due = pod.due().unwrap();
    assert_eq!((&*due, due.ingress_point()), (&*newest, &point("a")));
    pod.sent(&due);
    assert_eq!(pod.due(), None);
    assert_eq!(only(&hub, "a").acked, None);
    pod.acked(&ack(&due));
    assert_eq!(only(&hub, "a").acked, Some(2));
    assert_eq!(hub.reports(&point("b")), []);
}

#[test]
fn what_a_pod_runs_already_is_not_sent_and_counts_as_acked() {
    let hub = Hub::new();
    let published = hub.publish(&snapshot("a", 5)).unwrap();
    let hello = wire::Hello {
        held_version: 5,
        held_hash: published.hash().as_bytes().to_vec(),
        ..wire::Hello::default()
    };
    let mut pod = hub.attach(&identity("a", "a-0"), &hello).unwrap();
    assert_eq!(pod.due(), None);
    assert_eq!(only(&hub, "a").acked, Some(5));
    // The same number with another content, as after a restart of the operator, is not the same.
    let stale = wire::Hello {
        held_hash: vec![7; 32],
        ..hello
    };
    let mut other = hub.attach(&identity("a", "a-1"), &stale).unwrap();
    assert!(other.due().is_some());
    let states = hub.reports(&point("a"));
    assert_eq!((states[1].held_version, states[1].acked), (5, None));
}

/// A pod that repeats itself for ever must not keep the operator busy.
#[test]
fn an_answer_that_says_nothing_new_tells_nobody() {
    let hub = Hub::new();
    let pod = attach(&hub, "a", "a-0");
    let published = hub.publish(&with_content("a", 1, 1)).unwrap();
    let told = || *hub.changed().borrow();
    pod.acked(&ack(&published));
    let once = told();
    pod.acked(&ack(&published));
    assert_eq!(told(), once);
    let reject = wire::Reject {
        version: 1,
        reason: "no".to_owned(),
        ..wire::Reject::default()
    };
    pod.rejected(&reject);
    let twice = told();
    assert!(twice > once);
    pod.rejected(&reject);
    assert_eq!(told(), twice);
    pod.acked(&ack(&published));
    assert!(told() > twice);
}

#[test]
fn versions_never_go_back() {
    let hub = Hub::new();
    let first = hub.publish(&with_content("a", 5, 1)).unwrap();
    for refused in [with_content("a", 4, 2), with_content("a", 5, 2)] {
        let error = hub.publish(&refused).unwrap_err();
        assert!(matches!(error, PublishError::NotNewer { current: 5, .. }));
    }
    let before = *hub.changed().borrow();
    assert_eq!(hub.publish(&with_content("a", 5, 1)).unwrap(), first);
    assert_eq!(
        *hub.changed().borrow(),
        before,
        "publishing the same again is no change"
    );
    hub.withdraw(&point("a"));
    hub.publish(&with_content("a", 1, 2)).unwrap();
}

#[test]
fn a_rejection_lasts_until_the_next_ack() {
    let hub = Hub::new();
    let mut pod = attach(&hub, "a", "a-0");
    hub.publish(&snapshot("a", 1)).unwrap();
    let document = pod.due().unwrap();
    pod.sent(&document);
    pod.rejected(&wire::Reject {
        version: 1,
        hash: Vec::new(),
        reason: "é".repeat(MAX_TEXT_BYTES),
    });
    let (version, reason) = only(&hub, "a").rejected.unwrap();
    assert_eq!((version, reason.len()), (1, MAX_TEXT_BYTES));
    assert_eq!(pod.due(), None, "it is not sent again and again");
    pod.acked(&ack(&document));
    assert_eq!(only(&hub, "a").rejected, None);
}

#[test]
fn a_second_stream_of_a_pod_takes_over() {
    let hub = Hub::new();
    let mut old = attach(&hub, "a", "a-0");
    let replaced = old.replaced();
    assert!(replaced.has_changed().is_ok());
    let new = attach(&hub, "a", "a-0");
    assert!(
        replaced.has_changed().is_err(),
        "the old stream hears of it"
    );
    let report = wire::Sessions {
        begun: vec![wire::Session::default()],
        ..wire::Sessions::default()
    };
    old.sessions(report.clone()).unwrap();
    hub.publish(&snapshot("a", 1)).unwrap();
    let document = old.due().unwrap();
    old.acked(&ack(&document));
    drop(old);
    let pod = only(&hub, "a");
    assert!(pod.connected && pod.sessions.is_empty() && pod.acked.is_none());
    new.sessions(report).unwrap();
    assert_eq!(only(&hub, "a").sessions.len(), 1);
    drop(new);
    let pod = only(&hub, "a");
    assert!(
        !pod.connected && pod.sessions.len() == 1,
        "what it last said is kept"
    );
    hub.forget(&point("a"), "a-0");
    assert_eq!(hub.reports(&point("a")), []);
}

#[test]
fn pods_are_bounded_and_those_away_make_room() {
    let hub = Hub::new();
    let streams: Vec<_> = (0..MAX_PODS_PER_POINT)
        .map(|n| attach(&hub, "a", &format!("a-{n}")))
        .collect();
    let refused = hub.attach(&identity("a", "one-more"), &wire::Hello::default());
    assert_eq!(refused.err(), Some(TooManyPods));
    attach(&hub, "b", "another-point");
    hub.publish(&snapshot("a", 1)).unwrap();
    let mut streams = streams.into_iter();
    drop(streams.next());
    drop(streams.next());
    let _stream = attach(&hub, "a", "one-more");
    let pods = hub.reports(&point("a"));
    assert_eq!(pods.len(), MAX_PODS_PER_POINT);
    let has = |name: &str| pods.iter().any(|p| p.pod == name);
    assert!(
        !has("a-0") && has("a-1") && has("one-more"),
        "the one longest away went"
    );
}

#[test]
fn nothing_is_left_of_a_point_that_is_gone() {
    let hub = Hub::new();
    let a = attach(&hub, "a", "a-0");
    drop(attach(&hub, "b", "b-0"));
    hub.publish(&snapshot("a", 1)).unwrap();
    hub.withdraw(&point("a"));
    assert_eq!(hub.state().points.len(), 1);
    drop(a);
    assert_eq!(hub.state().points.len(), 0);
}

/// A gateway as the stream sees it.
struct Gateway {
    point: &'static str,
    pod: &'static str,
    stream: Option<Attached>,
    runs: Option<Arc<Document>>,
}

#[derive(Clone, Debug)]
enum Event {
    Publish {
        point: usize,
        version: u64,
        content: u64,
    },
    Withdraw(usize),
    RestartOperator,
    Connect(usize),
    Disconnect(usize),
    RestartGateway {
        pod: usize,
        keeps: bool,
    },
    Deliver {
        pod: usize,
        runs: bool,
    },
    Report(usize),
}

const POINTS: [&str; 2] = ["a", "b"];
const PODS: [(&str, &str); 3] = [("a", "pod-0"), ("a", "pod-1"), ("b", "pod-0")];

fn event() -> impl Strategy<Value = Event> {
    let (point, pod) = (0..POINTS.len(), 0..PODS.len());
    prop_oneof![
        4 => (point.clone(), 1u64..6, 0u64..3)
            .prop_map(|(point, version, content)| Event::Publish { point, version, content }),
        1 => point.prop_map(Event::Withdraw),
        1 => Just(Event::RestartOperator),
        3 => pod.clone().prop_map(Event::Connect),
        2 => pod.clone().prop_map(Event::Disconnect),
        1 => (pod.clone(), any::<bool>())
            .prop_map(|(pod, keeps)| Event::RestartGateway { pod, keeps }),
        4 => (pod.clone(), any::<bool>()).prop_map(|(pod, runs)| Event::Deliver { pod, runs }),
        2 => pod.prop_map(Event::Report),
    ]
}

struct World {
    hub: Hub,
    gateways: Vec<Gateway>,
    newest: BTreeMap<&'static str, Arc<Document>>,
}

impl World {
    fn new() -> Self {
        let gateway = |(point, pod)| Gateway {
            point,
            pod,
            stream: None,
            runs: None,
        };
        Self {
            hub: Hub::new(),
            gateways: PODS.into_iter().map(gateway).collect(),
            newest: BTreeMap::new(),
        }
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Publish {
                point,
                version,
                content,
            } => {
                let name = POINTS[point];
                let published = self.hub.publish(&with_content(name, version, content));
                let former = self.newest.get(name).map_or(0, |d| d.version());
                match published {
                    Ok(document) => drop(self.newest.insert(name, document)),
                    Err(_) => assert!(version <= former),
                }
            }
            Event::Withdraw(point) => {
                self.hub.withdraw(&name(POINTS[point]));
                self.newest.remove(POINTS[point]);
            }
            Event::RestartOperator => {
                // Every stream breaks; what is in force is published anew.
                self.gateways.iter_mut().for_each(|g| g.stream = None);
                self.hub = Hub::new();
                self.newest.clear();
            }
            Event::Connect(pod) => self.connect(pod),
            Event::Disconnect(pod) => self.gateways[pod].stream = None,
            Event::RestartGateway { pod, keeps } => {
                let gateway = &mut self.gateways[pod];
                gateway.stream = None;
                gateway.runs = gateway.runs.take().filter(|_| keeps);
            }
            Event::Deliver { pod, runs } => self.gateways[pod].receive(runs),
            Event::Report(pod) => self.gateways[pod].report(),
        }
    }

    fn connect(&mut self, pod: usize) {
        let gateway = &mut self.gateways[pod];
        let hello = gateway.runs.as_ref().map(|document| wire::Hello {
            held_version: document.version(),
            held_hash: document.hash().as_bytes().to_vec(),
            ..wire::Hello::default()
        });
        let identity = identity(gateway.point, gateway.pod);
        let attached = self.hub.attach(&identity, &hello.unwrap_or_default());
        gateway.stream = Some(attached.unwrap());
    }

    /// Nothing is ever said of one point that belongs to another.
    fn check(&self) {
        for name in POINTS {
            for pod in self.hub.reports(&point(name)) {
                assert!(PODS.contains(&(name, &pod.pod)));
                let strangers = |s: &SessionInfo| s.attachment != point(name);
                assert!(!pod.sessions.iter().any(strangers), "{pod:?}");
                if let Some(acked) = pod.acked {
                    assert_eq!(acked, self.newest[name].version());
                }
            }
        }
    }
}

impl Gateway {
    fn receive(&mut self, runs: bool) {
        let Some(document) = self.stream.as_mut().and_then(Attached::due) else {
            return;
        };
        let stream = self.stream.as_mut().unwrap();
        assert_eq!(document.ingress_point(), &point(self.point));
        stream.sent(&document);
        if runs {
            stream.acked(&ack(&document));
            self.runs = Some(document);
        } else {
            stream.rejected(&wire::Reject {
                version: document.version(),
                ..wire::Reject::default()
            });
        }
    }

    fn report(&self) {
        let Some(stream) = &self.stream else { return };
        let info = SessionInfo {
            attachment: point(self.point),
            ..session(1)
        };
        let now = [(1, info)].into();
        for report in session::reports(None, &now) {
            stream.sessions(report).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn a_connected_pod_ends_with_the_newest(
        events in proptest::collection::vec(event(), 0..60),
    ) {
        let mut world = World::new();
        for event in &events {
            world.happens(event);
            world.check();
        }
        for pod in 0..PODS.len() {
            world.connect(pod);
            world.gateways[pod].receive(true);
            let gateway = &world.gateways[pod];
            if let Some(newest) = world.newest.get(gateway.point) {
                prop_assert_eq!(gateway.runs.as_ref(), Some(newest));
            }
        }
        world.check();
        for name in world.newest.keys() {
            let reports = world.hub.reports(&point(name));
            prop_assert!(reports.iter().all(|p| p.acked == Some(world.newest[name].version())));
        }
    }
}
