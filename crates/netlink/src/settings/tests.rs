use std::fs;

use masque_testkit::Lab;

use super::*;

/// The host says 2, a gateway 0, an administrator 1.
const RP_FILTER: &str = "net/ipv4/conf/all/rp_filter";

/// Runs in a network namespace of its own, with the place of a note.
fn inside(test: impl FnOnce(&Path) + Send) {
    if let Err(skip) = Lab::available() {
        println!("{skip}");
        return;
    }
    let mut lab = Lab::new();
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("sysctls");
    lab.host("settings").enter(|| {
        sysctl::write(RP_FILTER, "2").unwrap();
        test(&note);
    });
}

fn begun(note: &Path) -> Kernel {
    let kernel = Kernel::open().unwrap();
    kernel.remember_settings(note).unwrap();
    kernel
}

fn rp_filter() -> Option<String> {
    sysctl::read(RP_FILTER)
}

#[test]
fn what_an_administrator_sets_after_a_kill_comes_back() {
    inside(|note| {
        let killed = begun(note);
        killed.set_sysctl(RP_FILTER, "0", false).unwrap();
        drop(killed);
        sysctl::write(RP_FILTER, "1").unwrap();
        let next = begun(note);
        next.set_sysctl(RP_FILTER, "0", false).unwrap();
        assert_eq!(rp_filter().as_deref(), Some("0"));
        next.restore_settings().unwrap();
        assert_eq!(rp_filter().as_deref(), Some("1"));
    });
}

#[test]
fn what_an_administrator_sets_meanwhile_comes_back() {
    inside(|note| {
        let kernel = begun(note);
        kernel.set_sysctl(RP_FILTER, "0", false).unwrap();
        sysctl::write(RP_FILTER, "1").unwrap();
        // As a repair does, twice.
        for _ in 0..2 {
            kernel.set_sysctl(RP_FILTER, "0", false).unwrap();
        }
        kernel.restore_settings().unwrap();
        assert_eq!(rp_filter().as_deref(), Some("1"));
    });
}

#[test]
fn a_change_that_failed_is_not_in_the_note() {
    inside(|note| {
        let kernel = begun(note);
        kernel.set_sysctl(RP_FILTER, "maybe", false).unwrap_err();
        assert!(!note.exists(), "{:?}", fs::read_to_string(note));
        kernel.set_sysctl(RP_FILTER, "0", false).unwrap();
        let before = fs::read_to_string(note).unwrap();
        kernel.set_sysctl(RP_FILTER, "maybe", false).unwrap_err();
        assert_eq!(fs::read_to_string(note).unwrap(), before);
        kernel.restore_settings().unwrap();
        assert_eq!(rp_filter().as_deref(), Some("2"));
    });
}

#[test]
fn the_outer_source_address_of_the_host_comes_back() {
    inside(|note| {
        let [host, first, second] = ["fd00::1", "fd00::2", "fd00::3"].map(|a| a.parse().ok());
        let set = |source| Kernel::open().unwrap().seg6().set_tunnel_source(source);
        if let Err(error) = set(host) {
            println!("SKIPPED: {error}");
            return;
        }
        let killed = begun(note);
        killed.set_tunnel_source(first).unwrap();
        drop(killed);
        let next = begun(note);
        next.set_tunnel_source(second).unwrap();
        next.restore_settings().unwrap();
        assert_eq!(next.seg6().tunnel_source(), host);
        assert!(!note.exists());
        // The last VPC went, and came again.
        next.set_tunnel_source(first).unwrap();
        next.set_tunnel_source(None).unwrap();
        assert_eq!(next.seg6().tunnel_source(), host);
        next.set_tunnel_source(first).unwrap();
        // Somebody else's stays.
        set(second).unwrap();
        next.restore_settings().unwrap();
        assert_eq!(next.seg6().tunnel_source(), second);
    });
}
