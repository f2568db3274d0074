//! Whether the packet threads answer. One that does not serves nobody any more, while the others and
//! the gateway's own endpoints look well: `/healthz` says so, and whoever supervises the process
//! starts it anew.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::Control;
use crate::command::Command;

/// How often each packet thread is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A thread that does not answer for so long is stuck: a turn takes milliseconds, and a process
/// without processor time must not be taken for a broken one.
const STUCK_AFTER: Duration = Duration::from_secs(30);

impl Control {
    /// Asks one packet thread again and again, until it ends.
    pub(crate) async fn watch_shard(self: Arc<Self>, shard: u16) {
        loop {
            let (reply, mut answer) = oneshot::channel();
            let sessions = false;
            self.send(shard, Command::Report { sessions, reply });
            let answered = match tokio::time::timeout(STUCK_AFTER, &mut answer).await {
                Ok(answered) => answered,
                Err(_) => {
                    tracing::error!(
                        shard,
                        "a packet thread does not answer: restart the gateway"
                    );
                    self.condition().silent.insert(shard);
                    let answered = answer.await;
                    self.condition().silent.remove(&shard);
                    tracing::info!(shard, "the packet thread answers again");
                    answered
                }
            };
            if answered.is_err() {
                // It dropped what was asked, so it has ended.
                return;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Which packet thread does not answer; `None` when all do.
    pub(crate) fn stuck_because(&self) -> Option<String> {
        let condition = self.condition();
        let shard = condition.silent.first()?;
        Some(format!("packet thread {shard} does not answer"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use masque_gateway_core::{Registry, RegistryConfig};

    use super::*;
    use crate::{command::ShardReport, mailbox::Mailbox, shard::ShardFigures};

    fn answer(mailbox: &Mailbox) -> usize {
        let mut count = 0;
        while let Some(command) = mailbox.command() {
            if let Command::Report { reply, .. } = command {
                let report = ShardReport {
                    shard: 0,
                    sessions: Vec::new(),
                    figures: ShardFigures::default(),
                };
                let _asker_gone = reply.send(report);
                count += 1;
            }
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_does_not_answer_is_told_until_it_does() {
        let mailboxes = vec![Mailbox::new().unwrap(), Mailbox::new().unwrap()];
        let registry = Registry::new(RegistryConfig::default());
        let control = Control::new(registry, mailboxes.clone(), Instant::now()).unwrap();
        let control = Arc::new(control);
        control.started();
        for shard in 0..2 {
            tokio::spawn(Arc::clone(&control).watch_shard(shard));
        }
        let mut asked = 0;
        for second in 1..=STUCK_AFTER.as_secs() + 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            asked += answer(&mailboxes[0]);
            let told = control.stuck_because();
            assert_eq!(told.is_some(), second > STUCK_AFTER.as_secs(), "{second} s");
            assert_eq!(control.not_ready_because(), told);
        }
        let told = control.stuck_because();
        assert_eq!(told.as_deref(), Some("packet thread 1 does not answer"));
        assert!((5..=7).contains(&asked), "{asked}");
        assert_eq!(answer(&mailboxes[1]), 1, "it was asked once");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(control.stuck_because(), None);
        // One that ends drops what it is asked: it is not asked again, and is no news of this kind.
        tokio::time::sleep(ASK_EVERY).await;
        assert!(mailboxes[1].command().is_some());
        for _ in 0..STUCK_AFTER.as_secs() * 2 {
            answer(&mailboxes[0]);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(mailboxes[1].command().is_none());
        assert_eq!(control.stuck_because(), None);
    }
}
