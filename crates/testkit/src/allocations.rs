//! Counts a thread's allocations and tells ours from those of quinn-proto.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    collections::HashMap,
    ops::AddAssign,
};

/// Frames that are compared; what asked for memory is always among the innermost.
const FRAMES_MAX: usize = 64;

/// The system's allocator, counting. A test binary declares it as its `#[global_allocator]`; then
/// [`allocations`] counts.
///
/// It reads names from stacks, so only builds without link-time optimisation tell the truth: quinn's
/// functions must not be inlined into ours.
#[derive(Clone, Copy, Debug)]
pub struct CountingAllocator;

/// Allocations, and reallocations, of some work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// Asked for by this workspace's code, or by a library that it called.
    pub ours: u64,
    /// Asked for by quinn-proto, or by a library that it called.
    pub quinn: u64,
}

impl AddAssign for Allocations {
    fn add_assign(&mut self, other: Self) {
        self.ours += other.ours;
        self.quinn += other.quinn;
    }
}

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNTED: Cell<Allocations> = const { Cell::new(Allocations { ours: 0, quinn: 0 }) };
    /// Whose a stack is: names are read once for each.
    static KNOWN: RefCell<HashMap<Vec<usize>, bool>> = RefCell::new(HashMap::new());
    static FIRST_OF_OURS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`; gives its result and what this thread allocated in it.
pub fn allocations<T>(work: impl FnOnce() -> T) -> (T, Allocations) {
    COUNTED.set(Allocations::default());
    COUNTING.set(true);
    let result = work();
    COUNTING.set(false);
    (result, COUNTED.get())
}

/// The stack of the first allocation of ours on this thread since the last call: what a failing test
/// shows.
pub fn first_of_ours() -> String {
    let first = FIRST_OF_OURS.with(RefCell::take);
    first.unwrap_or_else(|| "none of ours".to_owned())
}

fn note() {
    // What is done here allocates as well, and is not counted.
    if !COUNTING.replace(false) {
        return;
    }
    let mut counted = COUNTED.get();
    match is_quinn() {
        true => counted.quinn += 1,
        false => counted.ours += 1,
    }
    COUNTED.set(counted);
    COUNTING.set(true);
}

fn is_quinn() -> bool {
    let mut frames = [std::ptr::null_mut(); FRAMES_MAX];
    // SAFETY: the buffer holds as many pointers as it is said to hold.
    let count = unsafe { libc::backtrace(frames.as_mut_ptr(), FRAMES_MAX as libc::c_int) };
    let count = usize::try_from(count).unwrap_or(0);
    let key: Vec<usize> = frames[..count].iter().map(|frame| frame.addr()).collect();
    KNOWN.with_borrow_mut(|known| {
        *known.entry(key).or_insert_with(|| {
            let stack = Backtrace::force_capture().to_string();
            let is_quinn = names_quinn_first(&stack);
            if !is_quinn {
                FIRST_OF_OURS.with_borrow_mut(|first| first.get_or_insert(stack).len());
            }
            is_quinn
        })
    })
}

/// Whether, from the innermost frame, quinn-proto comes before this workspace.
fn names_quinn_first(stack: &str) -> bool {
    for line in stack.lines() {
        let Some((_, name)) = line.split_once(": ") else {
            continue;
        };
        let name = name.trim_start_matches(['<', '&', '(']);
        if name.starts_with("quinn_proto::") {
            return true;
        }
        if name.starts_with("masque_") && !name.starts_with("masque_testkit::allocations") {
            return false;
        }
    }
    false
}

// SAFETY: every call goes to the system's allocator unchanged; `note` allocates through it, and is
// not entered again meanwhile.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as our caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    #[test]
    fn what_is_allocated_is_counted_with_its_stack() {
        let (kept, counted) = allocations(|| vec![1, 2, 3]);
        assert_eq!((counted.ours, counted.quinn), (1, 0), "{kept:?}");
        assert!(first_of_ours().contains("what_is_allocated"));
        assert_eq!(first_of_ours(), "none of ours");
        let ((), counted) = allocations(|| drop(kept));
        assert_eq!(counted, Allocations::default());
    }

    #[test]
    fn the_innermost_of_both_is_the_owner() {
        let stack = |names: [&str; 3]| {
            let lines = names.iter().enumerate();
            lines
                .map(|(i, name)| format!("  {i}: {name}\n             at src/x.rs:1:2\n"))
                .collect::<String>()
        };
        let (ours, quinn) = (
            "<masque_transport::machine::Machine>::poll_transmit",
            "quinn_proto::connection::Connection::poll_transmit",
        );
        let grow = "alloc::vec::Vec<quinn_proto::Transmit>::push";
        assert!(names_quinn_first(&stack([grow, quinn, ours])));
        assert!(!names_quinn_first(&stack([grow, ours, quinn])));
        let callback = "<masque_transport::cid::Ids as quinn_proto::ConnectionIdGenerator>::make";
        assert!(!names_quinn_first(&stack([grow, callback, quinn])));
    }
}
