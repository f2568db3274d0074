//! Resources at random: what holds for every set of them, see the target `resources`.

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Compiling does not panic, does not depend on order, and says the same the second time; no
    /// address has two owners; children and statuses can always be built.
    #[test]
    fn any_resources_are_compiled(data in prop::collection::vec(any::<u8>(), 0..400)) {
        masque_replay::run("resources", &data);
    }
}
