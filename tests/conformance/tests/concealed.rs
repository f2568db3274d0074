//! RFC 9729 (number 66), against the real gateway: whatever is wrong with the credentials, the
//! answer is that of a page that does not exist.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a broken assumption ends the test"
)]

use masque_client::ConnectorIdentity;
use masque_conformance::{
    Claim, Dialer, RawClient, Shape,
    frames::{self, PATH, USUAL, control},
    with_gateway,
};

const HOST: &str = "192.0.2.1";
const PORT: u16 = 4433;

/// What the connector itself claims.
fn claim<'a>(signer: &'a ConnectorIdentity, public_key: &'a [u8; 32]) -> Claim<'a> {
    Claim {
        signer,
        key_id: public_key,
        public_key,
        host: HOST,
        port: PORT,
        realm: "",
    }
}

async fn without_certificate(dial: &Dialer) -> RawClient {
    let mut client = dial
        .connect(Shape {
            datagrams: true,
            certificate: false,
            ..Shape::default()
        })
        .await;
    client.open_control(&control(&USUAL)).await;
    client
}

/// The answer to a request for a tunnel with this Authorization field.
async fn answer(client: &RawClient, authorization: &str) -> Vec<u8> {
    let request = frames::headers(&[
        (":method", "CONNECT"),
        (":protocol", "connect-ip"),
        (":scheme", "https"),
        (":authority", "192.0.2.1:4433"),
        (":path", PATH),
        ("capsule-protocol", "?1"),
        ("authorization", authorization),
    ]);
    let (_send, mut reader) = client.request(&request).await;
    reader.head().await
}

/// The answer to a request for a page that does not exist.
async fn missing_page(client: &RawClient) -> Vec<u8> {
    let request = frames::headers(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "192.0.2.1:4433"),
        (":path", "/nothing"),
    ]);
    let (_send, mut reader) = client.request(&request).await;
    reader.head().await
}

#[test]
fn n66_credentials_count_on_their_own_connection_only() {
    with_gateway(|dial| async move {
        let public = *dial.connector.public_id().as_bytes();
        let mine = claim(&dial.connector, &public);
        let (first, second) = (
            without_certificate(&dial).await,
            without_certificate(&dial).await,
        );
        let value = mine.sign(&first.connection);
        assert_eq!(frames::status(&answer(&first, &value).await), 200);
        let missing = missing_page(&second).await;
        assert_eq!(frames::status(&missing), 404);
        assert_eq!(answer(&second, &value).await, missing, "replayed");
        let own = mine.sign(&second.connection);
        assert_eq!(frames::status(&answer(&second, &own).await), 200);
    });
}

#[test]
fn n66_credentials_count_for_the_host_and_the_key_they_name() {
    with_gateway(|dial| async move {
        let stranger = ConnectorIdentity::generate().unwrap();
        let strange = *stranger.public_id().as_bytes();
        let public = *dial.connector.public_id().as_bytes();
        let mine = claim(&dial.connector, &public);
        let client = without_certificate(&dial).await;
        let missing = missing_page(&client).await;
        let host = "gateway.example";
        let wrong = [
            ("another host", Claim { host, ..mine }),
            ("another port", Claim { port: 443, ..mine }),
            ("an unknown key", claim(&stranger, &strange)),
            (
                "another's key",
                Claim {
                    signer: &stranger,
                    ..mine
                },
            ),
            (
                "an unknown key under a known id",
                Claim {
                    key_id: &public,
                    ..claim(&stranger, &strange)
                },
            ),
            // RFC 9729 §6.3: the key ID must be known, and lead to the key that is shown.
            (
                "an unknown key id",
                Claim {
                    key_id: b"basement",
                    ..mine
                },
            ),
            (
                "another's key id",
                Claim {
                    key_id: &strange,
                    ..mine
                },
            ),
            (
                "an empty key id",
                Claim {
                    key_id: b"",
                    ..mine
                },
            ),
            ("a realm", Claim { realm: "x", ..mine }),
        ];
        for (what, claim) in wrong {
            let value = claim.sign(&client.connection);
            assert_eq!(answer(&client, &value).await, missing, "{what}");
        }
        let value = mine.sign(&client.connection);
        assert_eq!(frames::status(&answer(&client, &value).await), 200);
    });
}
