//! Hop limits and ICMP errors: what a person sees who looks for the way.
//!
//! The gateway's kernel counts the hop between TUN and SRv6, so a packet that enters the tunnel
//! with a hop limit of 1 is answered there. The node counts another one when it takes the packet out
//! of SRv6.

use masque_netns_tests::{ping, ping_fails};

use crate::{WORK_V4, WORK_V6, address, with_laptop};

const VPC: &str = "production-vpc";

#[test]
fn the_gateway_is_one_hop() {
    let Some(fabric) = with_laptop() else { return };
    let _gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    for to in [WORK_V4, WORK_V6] {
        let to = address(to);
        let text = ping_fails(&fabric.laptop, to, &["-t", "1"]);
        eprintln!("1: {text}");
        let text = ping_fails(&fabric.laptop, to, &["-t", "2"]);
        eprintln!("2: {text}");
        ping(&fabric.laptop, to, &["-t", "3"]);
    }
}
