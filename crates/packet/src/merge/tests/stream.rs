//! Streams of packets of a few flows that mostly can be merged and sometimes cannot.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::build::{TcpFields, build_icmp_echo, build_ip, build_tcp, build_udp, tcp_flag};
use crate::reference::{V4_A, V4_B, V6_A, V6_B, number};

/// What a flow does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Data,
    Short,
    Long,
    Push,
    PureAck,
    AcksMore,
    OpensWindow,
    Finish,
    Hole,
    Again,
    Damage,
    Congestion,
    JumpIdentification,
    Options,
    Icmp,
    Fragment,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => Just(Step::Data),
        1 => Just(Step::Short),
        1 => Just(Step::Long),
        1 => Just(Step::Push),
        1 => Just(Step::PureAck),
        1 => Just(Step::AcksMore),
        1 => Just(Step::OpensWindow),
        1 => Just(Step::Finish),
        1 => Just(Step::Hole),
        1 => Just(Step::Again),
        1 => Just(Step::Damage),
        1 => Just(Step::Congestion),
        1 => Just(Step::JumpIdentification),
        1 => Just(Step::Options),
        1 => Just(Step::Icmp),
        1 => Just(Step::Fragment),
    ]
}

/// The state of one flow of the stream.
#[derive(Clone, Copy)]
struct Flow {
    number: u16,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    identification: u16,
}

impl Flow {
    fn step(&mut self, step: Step, fill: u8) -> Vec<u8> {
        let (a, b) = if self.number.is_multiple_of(2) {
            (V4_A, V4_B)
        } else {
            (V6_A, V6_B)
        };
        match step {
            Step::AcksMore => self.acknowledgement += 1000,
            Step::OpensWindow => self.window += 1,
            Step::Hole => self.sequence = self.sequence.wrapping_add(100),
            Step::Again => self.sequence = self.sequence.wrapping_sub(100),
            Step::JumpIdentification => self.identification = self.identification.wrapping_add(9),
            Step::Icmp => return build_icmp_echo(a, b, self.number, 1, &[fill]),
            Step::Fragment if a.is_ipv6() => {
                return build_ip(a, b, 44, &[17, 0, 0, 9, 0, 0, 0, 1, fill]);
            }
            _ => {}
        }
        let length = match step {
            Step::Short => 37,
            Step::Long => 160,
            Step::PureAck => 0,
            _ => 100,
        };
        let payload = vec![fill; length];
        let mut packet = if self.number < 4 {
            let fields = TcpFields {
                sequence: self.sequence,
                acknowledgement: self.acknowledgement,
                flags: match step {
                    Step::Push => tcp_flag::ACK | tcp_flag::PSH,
                    Step::Finish => tcp_flag::ACK | tcp_flag::FIN,
                    _ => tcp_flag::ACK,
                },
                window: self.window,
                options: if matches!(step, Step::Options) {
                    &[1, 1, 8, 10]
                } else {
                    &[]
                },
            };
            build_tcp(a, b, 1000 + self.number, 80, &fields, &payload)
        } else {
            build_udp(a, b, 1000 + self.number, 80, &payload)
        };
        self.sequence = self.sequence.wrapping_add(length as u32);
        self.identification = self.identification.wrapping_add(1);
        let congested = matches!(step, Step::Congestion);
        if a.is_ipv4() {
            packet[1] = if congested { 3 } else { 2 };
            number(&mut packet, self.identification);
        } else {
            packet[1] = if congested { 0x30 } else { 0x20 };
        }
        if let (Step::Damage, Some(last)) = (step, packet.last_mut()) {
            *last ^= 1;
        }
        packet
    }
}

/// The packets of six flows: TCP over both families, UDP over both.
pub(super) fn packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let runs = vec(
        (0..6usize, 1..12usize, vec(steps(), 12), any::<u8>()),
        1..12,
    );
    (runs, any::<u32>()).prop_map(|(runs, sequence)| {
        let mut flows = [0, 1, 2, 3, 4, 5].map(|number| Flow {
            number,
            // Near the wrap of sequence numbers half of the time.
            sequence: if sequence % 2 == 0 {
                u32::MAX - 700
            } else {
                sequence
            },
            acknowledgement: 7,
            window: 512,
            identification: 0xfff0,
        });
        let mut packets = Vec::new();
        for (flow, count, steps, fill) in runs {
            for step in steps.into_iter().take(count) {
                packets.push(flows[flow].step(step, fill));
            }
        }
        packets
    })
}
