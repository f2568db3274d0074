//! Whether the packet threads answer. One that does not serves nobody any more, while the others and
//! the gateway's own endpoints look well: `/healthz` says so, and whoever supervises the process
//! starts it anew.

use std::{sync::Arc, time::Duration};

use super::Control;

/// How often each packet thread is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A thread that does not answer for so long is stuck: a turn takes milliseconds, and a process
/// without processor time must not be taken for a broken one.
const STUCK_AFTER: Duration = Duration::from_secs(30);

impl Control {
    /// Asks one packet thread again and again. A mailbox that takes no more, and a thread that
    /// panicked, are no answer either.
    pub(crate) async fn watch_shard(self: Arc<Self>, shard: u16) {
        loop {
            let answer = tokio::time::timeout(STUCK_AFTER, self.ask(shard, false)).await;
            self.heard(shard, matches!(answer, Ok(Ok(_))));
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    fn heard(&self, shard: u16, answered: bool) {
        let silent = &mut self.condition().silent;
        if answered {
            if silent.remove(&shard) {
                tracing::info!(shard, "the packet thread answers again");
            }
        } else if silent.insert(shard) {
            tracing::error!(
                shard,
                "a packet thread does not answer: restart the gateway"
            );
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
    use crate::{
        command::{Command, ShardReport},
        mailbox::Mailbox,
        shard::ShardFigures,
    };

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
        // Whatever it was asked meanwhile, nobody waits for it any more.
        tokio::time::sleep(ASK_EVERY).await;
        assert_eq!(answer(&mailboxes[1]), 2);
        tokio::time::sleep(ASK_EVERY).await;
        assert_eq!(control.stuck_because(), None);
    }

    /// Nothing can be asked of it, so nothing is waited for.
    #[tokio::test(start_paused = true)]
    async fn a_full_mailbox_is_a_thread_that_does_not_answer() {
        let mailbox = Mailbox::new().unwrap();
        while mailbox.send(Command::Drain).is_ok() {}
        let registry = Registry::new(RegistryConfig::default());
        let mailboxes = vec![Arc::clone(&mailbox)];
        let control = Arc::new(Control::new(registry, mailboxes, Instant::now()).unwrap());
        tokio::spawn(Arc::clone(&control).watch_shard(0));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(control.stuck_because().is_some());
        answer(&mailbox);
        for _ in 0..2 {
            tokio::time::sleep(ASK_EVERY).await;
            answer(&mailbox);
        }
        assert_eq!(control.stuck_because(), None);
    }
}
