//! Two operators, each with a view of its own age, that stop at any point; attachments that come and
//! go. No two attachments ever have one address in their status.

use super::*;

/// Versioned objects, as an API server keeps them.
#[derive(Clone, Default)]
struct Api {
    version: u64,
    /// Attachments: their version and addresses.
    attachments: BTreeMap<ObjectName, (u64, Vec<IpAddr>)>,
    ledger: Option<(u64, Ledger)>,
}

impl Api {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn view(&self) -> Held {
        let holders = self.attachments.iter().map(|(name, (version, addresses))| {
            let holder = Holder {
                vpc: super::name("vpc"),
                version: *version,
                addresses: addresses.clone(),
            };
            (name.clone(), holder)
        });
        Held {
            holders: holders.collect(),
            // A watch has seen every version until now.
            seen_version: self.version,
        }
    }

    fn replace_ledger(&mut self, base: Option<u64>, ledger: Ledger) -> bool {
        if self.ledger.as_ref().map(|(version, _)| *version) != base {
            return false;
        }
        let version = self.next();
        self.ledger = Some((version, ledger));
        true
    }

    fn write(&mut self, name: &ObjectName, write: &AddressWrite) {
        let version = self.version + 1;
        if let Some(attachment) = self.attachments.get_mut(name)
            && attachment.0 == write.version
        {
            *attachment = (version, write.addresses.clone());
            self.version = version;
        }
    }
}

/// One operator: what it saw, and what it is about to write.
#[derive(Default)]
struct Operator {
    held: Held,
    before: Held,
    ledger: Option<(u64, Ledger)>,
    plan: Option<Plan>,
}

struct Plan {
    ledger: Option<Ledger>,
    base: Option<u64>,
    writes: Vec<(ObjectName, AddressWrite)>,
}

impl Operator {
    fn think(&mut self, fixed: &BTreeMap<ObjectName, Vec<IpAddr>>, now: u64) {
        let attachments = self.held.holders.keys().map(|name| {
            let mut attachment = attachment(&name.name, &[]);
            attachment.addresses = fixed.get(name).cloned().unwrap_or_default();
            attachment
        });
        let mut snapshot = snapshot("10.0.0.0/29", attachments.collect());
        let ledgers = self
            .ledger
            .iter()
            .map(|(_, ledger)| (name("point"), ledger.clone()));
        let assigned = assign(
            std::slice::from_mut(&mut snapshot),
            &self.held,
            &self.before,
            &ledgers.collect(),
            now,
        );
        self.plan = Some(Plan {
            ledger: assigned.ledgers.into_values().next(),
            base: self.ledger.as_ref().map(|(version, _)| *version),
            writes: assigned.writes.into_iter().collect(),
        });
    }

    /// One write of the plan; the ledger goes first, and nothing goes on when it fails.
    fn act(&mut self, api: &mut Api) {
        let Some(plan) = &mut self.plan else { return };
        if let Some(ledger) = plan.ledger.take() {
            if !api.replace_ledger(plan.base, ledger) {
                self.plan = None;
                return;
            }
            self.before = self.held.clone();
        } else if let Some((name, write)) = plan.writes.pop() {
            api.write(&name, &write);
        } else {
            self.plan = None;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Delete(usize),
    /// Somebody edits the object.
    Touch(usize),
    Fix(usize, u8),
    SeeAttachments(usize),
    SeeLedger(usize),
    Think(usize),
    Act(usize),
    Crash(usize),
    /// A whole pass with today's ledger, and attachments as last seen.
    Pass(usize),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..7_usize).prop_map(Step::Create),
        1 => (0..7_usize).prop_map(Step::Delete),
        1 => (0..7_usize).prop_map(Step::Touch),
        1 => (0..7_usize, 2..7_u8).prop_map(|(i, host)| Step::Fix(i, host)),
        4 => (0..2_usize).prop_map(Step::SeeAttachments),
        4 => (0..2_usize).prop_map(Step::SeeLedger),
        5 => (0..2_usize).prop_map(Step::Think),
        9 => (0..2_usize).prop_map(Step::Act),
        1 => (0..2_usize).prop_map(Step::Crash),
        4 => (0..2_usize).prop_map(Step::Pass),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

fn unique(api: &Api) -> Result<(), TestCaseError> {
    let mut owners = BTreeMap::new();
    for (name, (_, addresses)) in &api.attachments {
        for address in addresses {
            let other = owners.insert(*address, name);
            prop_assert!(other.is_none(), "{address}: {name} and {}", other.unwrap());
        }
    }
    Ok(())
}

fn the(i: usize) -> ObjectName {
    name(&format!("a{i}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_address_has_two_owners(steps in steps()) {
        let mut api = Api::default();
        let mut operators = [Operator::default(), Operator::default()];
        let mut fixed = BTreeMap::new();
        let mut now = NOW;
        for step in steps {
            match step {
                Step::Create(i) => {
                    let version = api.next();
                    api.attachments.entry(the(i)).or_insert((version, Vec::new()));
                }
                Step::Delete(i) => {
                    api.next();
                    api.attachments.remove(&the(i));
                    fixed.remove(&the(i));
                }
                Step::Touch(i) => {
                    let version = api.next();
                    if let Some(attachment) = api.attachments.get_mut(&the(i)) {
                        attachment.0 = version;
                    }
                }
                Step::Fix(i, host) => {
                    fixed.insert(the(i), vec![IpAddr::from([10, 0, 0, host])]);
                    let version = api.next();
                    if let Some(attachment) = api.attachments.get_mut(&the(i)) {
                        attachment.0 = version;
                    }
                }
                Step::SeeAttachments(i) => operators[i].held = api.view(),
                Step::SeeLedger(i) => operators[i].ledger = api.ledger.clone(),
                Step::Think(i) => operators[i].think(&fixed, now),
                Step::Act(i) => operators[i].act(&mut api),
                Step::Crash(i) => operators[i] = Operator::default(),
                Step::Pass(i) => {
                    operators[i].ledger = api.ledger.clone();
                    operators[i].think(&fixed, now);
                    while operators[i].plan.is_some() {
                        operators[i].act(&mut api);
                        unique(&api)?;
                    }
                }
                Step::Wait => now += QUARANTINE_S + 1,
            }
            unique(&api)?;
        }
        settle(api, &fixed, now)?;
    }
}

/// The claim has left the ledger, and the other operator's view is from before it was written: only
/// the version in the ledger says so.
#[test]
fn a_view_from_before_a_finished_claim_gives_nothing() {
    let mut api = Api::default();
    let [mut one, mut two] = [Operator::default(), Operator::default()];
    let pass = |operator: &mut Operator, api: &mut Api, fixed: &BTreeMap<_, _>| {
        operator.ledger = api.ledger.clone();
        operator.think(fixed, NOW);
        while operator.plan.is_some() {
            operator.act(api);
        }
    };
    let mut fixed = BTreeMap::new();
    let version = api.next();
    api.attachments.insert(the(0), (version, Vec::new()));
    one.held = api.view();
    let version = api.next();
    api.attachments.insert(the(1), (version, Vec::new()));
    two.held = api.view();
    pass(&mut one, &mut api, &fixed);
    let given = api.attachments[&the(0)].1.clone();
    assert_eq!(given.len(), 1);
    fixed.insert(the(1), given);
    one.held = api.view();
    pass(&mut one, &mut api, &fixed);
    assert_eq!(api.ledger.as_ref().unwrap().1.claims.len(), 0);
    pass(&mut two, &mut api, &fixed);
    unique(&api).unwrap();
}

/// Left alone, one operator gives an address to everybody as long as there are any, and rests.
fn settle(
    mut api: Api,
    fixed: &BTreeMap<ObjectName, Vec<IpAddr>>,
    mut now: u64,
) -> Result<(), TestCaseError> {
    let mut operator = Operator::default();
    for _ in 0..20 {
        operator.held = api.view();
        operator.ledger = api.ledger.clone();
        operator.think(fixed, now);
        while operator.plan.is_some() {
            operator.act(&mut api);
            unique(&api)?;
        }
        now += QUARANTINE_S + 1;
    }
    operator.held = api.view();
    operator.ledger = api.ledger.clone();
    operator.think(fixed, now);
    let plan = operator.plan.take().unwrap();
    prop_assert_eq!((plan.ledger, plan.writes.len()), (None, 0));
    let without = api
        .attachments
        .iter()
        .filter(|(name, (_, addresses))| addresses.is_empty() && !fixed.contains_key(*name));
    // Five of eight addresses are clients', and fixed ones that are not given yet are kept free.
    let wanted = api.attachments.len() + fixed.len();
    prop_assert!(without.count() == 0 || wanted > 5);
    Ok(())
}
