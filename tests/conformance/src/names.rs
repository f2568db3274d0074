//! A gateway whose name server is the test.

use std::{future::Future, path::Path};

use masque_netns_tests::{Fabric, Gateway, Process, program};
use tokio::net::UdpSocket;

use crate::{
    raw::{Dialer, assert_alive, run},
    wire::PATIENCE,
};

/// What every name means: a workload of both VPCs.
const ADDRESS: [u8; 4] = [10, 0, 1, 10];
/// A query's header (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;
/// QTYPE of an IPv4 address.
const TYPE_A: u16 = 1;

/// Starts `$2…` with the system's resolver as the folder `$1` has it. `ip netns exec` has made the
/// mounts private.
const WITH_RESOLVER: &str = r#"
for file in nsswitch.conf resolv.conf; do
    [ ! -e "/etc/$file" ] || mount --bind "$1/$file" "/etc/$file" || exit 1
done
shift
exec "$@""#;

/// The name server. It answers nothing until [`Names::answer`].
pub struct Names {
    socket: UdpSocket,
    held: Vec<(Vec<u8>, std::net::SocketAddr)>,
}

/// Runs `test` with a client of production, one of staging, and their gateway's name server.
/// Nothing happens where no fabric can be built.
#[track_caller]
pub fn with_names<F>(test: impl FnOnce(Dialer, Dialer, Names) -> F + Send)
where
    F: Future<Output = ()>,
{
    let Some(mut fabric) = Fabric::new() else {
        return;
    };
    for (name, vpc) in [("laptop", "production-vpc"), ("phone", "staging-vpc")] {
        fabric.connector(name);
        fabric.manifests.attach(name, vpc);
    }
    let bind = || std::net::UdpSocket::bind("127.0.0.1:53").unwrap();
    let socket = fabric.gateway.enter(bind);
    let gateway = start(&fabric);
    let laptop = Dialer::new(&fabric, "laptop");
    let phone = Dialer::new(&fabric, "phone");
    run(&fabric, || {
        socket.set_nonblocking(true).unwrap();
        let names = Names {
            socket: UdpSocket::from_std(socket).unwrap(),
            held: Vec::new(),
        };
        test(laptop, phone, names)
    });
    assert_alive(&gateway);
}

fn start(fabric: &Fabric) -> Gateway {
    fabric.manifests.write();
    let folder = fabric.folder();
    let write = |name: &str, text| std::fs::write(folder.join(name), text).unwrap();
    write("nsswitch.conf", "hosts: files dns\n");
    write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30\n");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let words = [
        "-c".to_owned(),
        WITH_RESOLVER.to_owned(),
        "sh".to_owned(),
        text(folder),
        text(program("masque-gateway")),
        "--manifests".to_owned(),
        text(&fabric.manifests.dir),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let log = folder.join("gateway.log");
    let process = Process::start(&fabric.gateway, Path::new("sh"), &words, &log);
    let gateway = Gateway::adopt(fabric, process);
    gateway.wait_ready();
    gateway
}

impl Names {
    /// Waits until the gateway asks for the name, and for all before it.
    pub async fn asked(&mut self, name: &str) {
        let mut labels = Vec::new();
        for label in name.split('.') {
            labels.push(u8::try_from(label.len()).unwrap());
            labels.extend(label.as_bytes());
        }
        loop {
            let mut query = vec![0; 512];
            let received = tokio::time::timeout(PATIENCE, self.socket.recv_from(&mut query));
            let (length, from) = received.await.expect("a query in time").unwrap();
            query.truncate(length);
            let found = query[HEADER_BYTES..].starts_with(&labels);
            self.held.push((query, from));
            if found {
                return;
            }
        }
    }

    /// Answers what was asked, and everything from now on.
    pub fn answer(self) {
        tokio::spawn(async move {
            for (query, from) in self.held {
                self.socket.send_to(&reply(&query), from).await.unwrap();
            }
            let mut query = [0; 512];
            loop {
                let (length, from) = self.socket.recv_from(&mut query).await.unwrap();
                let reply = reply(&query[..length]);
                self.socket.send_to(&reply, from).await.unwrap();
            }
        });
    }
}

/// The answer to a query: the address, or nothing of that type (RFC 1035 §4.1).
fn reply(query: &[u8]) -> Vec<u8> {
    let name_bytes = query[HEADER_BYTES..].iter().position(|byte| *byte == 0);
    let end = HEADER_BYTES + name_bytes.expect("a name") + 5;
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let answers = u8::from(kind == TYPE_A);
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend(&query[HEADER_BYTES..end]);
    if answers > 0 {
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend(ADDRESS);
    }
    reply
}
