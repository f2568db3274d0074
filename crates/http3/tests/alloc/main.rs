//! What the heap says: the packet path allocates nothing, and what the peer makes us keep is what
//! [`Connection::retained_bytes`] tells.
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use masque_http3::{
    Config, Connection, DatagramDrop, DatagramIn, Event, ResponseHead, Role, StreamId,
    datagram_prefix, varint,
};

struct Counting;

thread_local! {
    /// Calls that took memory, by this thread.
    static CALLS: Cell<usize> = const { Cell::new(0) };
    /// Bytes taken and not given back, by this thread.
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(calls: usize, bytes: isize) {
    // The thread may be ending; what it frees then is of no interest.
    let _ = CALLS.try_with(|counter| counter.set(counter.get() + calls));
    let _ = BYTES.try_with(|counter| counter.set(counter.get() + bytes));
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain cells of the
// thread and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size().cast_signed());
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -layout.size().cast_signed());
        // SAFETY: as above; the memory came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A server whose stream 0 is an accepted extended CONNECT.
fn tunnel() -> Connection {
    let mut http = Connection::new(Role::Server, Config::default());
    let mut client = Connection::new(Role::Client, Config::default());
    let Some(masque_http3::Output::Control(ours)) = client.poll_output() else {
        panic!()
    };
    let Some(masque_http3::Output::Control(theirs)) = http.poll_output() else {
        panic!()
    };
    http.handle_stream(StreamId(2), ours, false);
    client.handle_stream(StreamId(3), theirs, false);
    let head = masque_http3::RequestHead {
        method: "CONNECT".into(),
        protocol: Some("connect-ip".into()),
        scheme: Some("https".into()),
        authority: Some("a.example".into()),
        path: Some("/".into()),
        fields: vec![],
    };
    client.send_request(StreamId(0), &head, false).unwrap();
    let Some(masque_http3::Output::Stream { data, .. }) = client.poll_output() else {
        panic!()
    };
    http.handle_stream(StreamId(0), data, false);
    http.accept_datagrams(StreamId(0));
    http.send_response(
        StreamId(0),
        &ResponseHead {
            status: 200,
            fields: vec![],
        },
        false,
    )
    .unwrap();
    while http.poll_event().is_some() {}
    while http.poll_output().is_some() {}
    http
}

fn packet(stream: StreamId, payload: &[u8]) -> Bytes {
    let (prefix, length) = datagram_prefix(stream);
    [&prefix[..length], payload].concat().into()
}

#[test]
fn datagrams_allocate_nothing() {
    let mut http = tunnel();
    let ours = packet(StreamId(0), &[7; 1200]);
    let strange = packet(StreamId(4), &[7; 1200]);
    // a clone of shared bytes allocates nothing, the first one of a Vec does
    let (ours, strange) = (ours.slice(..), strange.slice(..));
    while http.handle_datagram(strange.clone(), 0) == DatagramIn::Kept {}
    let before = CALLS.get();
    for _ in 0..1000 {
        let delivered = http.handle_datagram(ours.clone(), 0);
        assert!(matches!(delivered, DatagramIn::Deliver { .. }));
        assert!(http.may_send_datagram(StreamId(0)));
        let dropped = http.handle_datagram(strange.clone(), 0);
        assert_eq!(dropped, DatagramIn::Dropped(DatagramDrop::EarlyBufferFull));
    }
    assert_eq!(CALLS.get(), before);
}

#[test]
fn tunnel_data_allocates_nothing() {
    let mut http = tunnel();
    let mut bytes = Vec::new();
    varint::put(&mut bytes, 0);
    varint::put(&mut bytes, 1200);
    bytes.extend([7; 1200]);
    let data = Bytes::from(bytes).slice(..);
    let turn = |http: &mut Connection| {
        http.handle_stream(StreamId(0), data.slice(..100), false);
        http.handle_stream(StreamId(0), data.slice(100..), false);
        let pieces = std::iter::from_fn(|| http.poll_event());
        let length: usize = pieces
            .map(|event| {
                if let Event::Data { data, .. } = event {
                    data.len()
                } else {
                    0
                }
            })
            .sum();
        assert_eq!(length, 1200);
    };
    turn(&mut http);
    let before = CALLS.get();
    for _ in 0..1000 {
        turn(&mut http);
    }
    assert_eq!(CALLS.get(), before);
}

#[test]
fn the_heap_agrees_with_retained_bytes() {
    let mut http = tunnel();
    let before = (BYTES.get(), http.retained_bytes());
    for number in 1..100 {
        // half a field section, in pieces
        let mut bytes = Vec::new();
        varint::put(&mut bytes, 1);
        varint::put(&mut bytes, 16_000);
        http.handle_stream(StreamId(4 * number), bytes.into(), false);
        for _ in 0..80 {
            http.handle_stream(StreamId(4 * number), Bytes::from_static(&[0; 100]), false);
        }
        http.handle_datagram(packet(StreamId(4 * number), &[7; 500]), 0);
        http.handle_stream(StreamId(4 * number + 2), Bytes::from_static(&[0x40]), false);
    }
    let heap = usize::try_from(BYTES.get() - before.0).unwrap();
    let told = http.retained_bytes() - before.1;
    assert!(told > 99 * 8000, "{told}");
    assert!(
        heap.abs_diff(told) < told / 4,
        "{heap} on the heap, {told} told"
    );
}
