//! Network namespaces of one gateway pod and what is around it.

use std::net::TcpListener;

use masque_testkit::{Lab, Netns};

/// The address that clients dial.
pub(crate) const POD_ADDRESS: &str = "192.0.2.1";

/// A pod's network namespace (device `eth0`), and one outside of it that has the clients and the
/// node of the SRv6 fabric.
#[derive(Debug)]
pub struct Site {
    /// The pod's.
    pub pod: Netns,
    /// The clients'.
    pub outside: Netns,
    _lab: Lab,
}

impl Site {
    /// Both namespaces, or `None` after a line `SKIPPED:`.
    pub fn new() -> Option<Self> {
        if let Err(skip) = Lab::available() {
            println!("{skip}");
            return None;
        }
        let mut lab = Lab::new();
        let (pod, outside) = (lab.host("pod"), lab.host("outside"));
        lab.veth((&pod, "eth0"), (&outside, "eth0"), 1500);
        for (side, host) in [(&pod, 1), (&outside, 2)] {
            side.address("eth0", &format!("192.0.2.{host}/24"));
            side.address("eth0", &format!("fd00:0:0:a::{host}/64"));
        }
        pod.route("fd00:0:2::/48 via fd00:0:0:a::2 dev eth0");
        Some(Self {
            pod,
            outside,
            _lab: lab,
        })
    }

    /// Leads the pod's `127.0.0.1:PORT` to that of this host, where an operator may listen.
    pub fn forward(&self, port: u16) {
        let listener = self.listen(&format!("127.0.0.1:{port}"));
        tokio::spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((mut inside, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let outside = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
                    if let Ok(mut outside) = outside {
                        // Either end may leave at any time.
                        let _ended = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
        });
    }

    /// Listens in the pod's namespace, say to take a port away from the gateway.
    pub fn listen(&self, address: &str) -> TcpListener {
        let listener = self.pod.enter(|| TcpListener::bind(address));
        let listener = listener.unwrap_or_else(|error| panic!("{address}: {error}"));
        listener.set_nonblocking(true).expect("a socket");
        listener
    }
}
