//! What a running attachment answers to the other commands.

use std::time::Duration;

use masque_client::Handle;

use crate::control::{Answer, Handler, Request, Running};

/// Answers from the attachment's own state.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) vpc: String,
    pub(super) device: String,
    pub(super) handle: Handle,
}

impl Handler for Serving {
    fn handle(&self, request: Request) -> Answer {
        match request {
            Request::Status => Answer::Status(Box::new(Running {
                vpc: self.vpc.clone(),
                pid: std::process::id(),
                device: self.device.clone(),
                status: self.handle.status(),
            })),
            Request::Detach => {
                self.handle.stop();
                Answer::Detaching
            }
            Request::Ping {
                address,
                size_bytes,
                timeout_ms,
            } => {
                let timeout = Duration::from_millis(timeout_ms.into());
                match self.handle.ping(address, size_bytes.into(), timeout) {
                    Ok(pong) => Answer::Pong {
                        from: pong.from,
                        rtt_us: u64::try_from(pong.rtt.as_micros()).unwrap_or(u64::MAX),
                    },
                    Err(error) => Answer::Error {
                        reason: error.to_string(),
                    },
                }
            }
        }
    }
}
