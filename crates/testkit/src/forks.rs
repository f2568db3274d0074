//! Files that a child of another test holds for a moment.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// A child has begun its program by then, on any machine.
const EXEC_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Drops `held`, and returns when its sockets, devices and locks are free.
///
/// A child that another thread forked a moment ago has copies of all files of this process, until it
/// runs its program: so a port that a test closes may be taken a little longer. This waits for the
/// children that have not come so far; later ones have no copy. Without `/proc` it only drops.
pub fn let_go<T>(held: T) {
    drop(held);
    let deadline = Instant::now() + EXEC_MAX;
    let mut forked = forked();
    while !forked.is_empty() && Instant::now() < deadline {
        std::thread::sleep(LOOK_AGAIN);
        forked.retain(|child| runs_this_program(child));
    }
}

/// The children of this process that run its own program.
fn forked() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
    tasks
        .flatten()
        .filter_map(children)
        .flat_map(|pids| {
            let pids = pids.split_ascii_whitespace().map(str::to_owned);
            pids.collect::<Vec<_>>()
        })
        .filter(|child| runs_this_program(child))
        .collect()
}

fn runs_this_program(pid: &str) -> bool {
    let exe = |of: &str| fs::read_link(Path::new("/proc").join(of).join("exe")).ok();
    let own = exe("self");
    own.is_some() && exe(pid) == own
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::unix::process::CommandExt, process::Command};

    use super::*;

    /// Between fork and exec for a moment.
    fn slow_child() -> std::thread::JoinHandle<()> {
        std::thread::spawn(|| {
            let mut command = Command::new("true");
            let linger = || {
                std::thread::sleep(Duration::from_millis(200));
                Ok(())
            };
            // SAFETY: sleeping is async-signal-safe.
            unsafe { command.pre_exec(linger) };
            assert!(command.status().unwrap().success());
        })
    }

    #[test]
    fn a_port_is_free_though_a_child_had_a_copy() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let child = slow_child();
        while forked().is_empty() {
            std::thread::sleep(LOOK_AGAIN);
        }
        let_go(taken);
        UdpSocket::bind(address).expect("free");
        child.join().unwrap();
    }
}
