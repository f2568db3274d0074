//! Settings of the host that a gateway changes, and puts back when it ends.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    path::Path,
    sync::{MutexGuard, PoisonError},
};

use crate::{
    Kernel, NetlinkError,
    sysctl::{self, Changed, Journal, TUNNEL_SOURCE},
};

/// Settings as they were before a gateway changed them.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    changed: BTreeMap<String, Changed>,
    /// Where they are remembered, for the case that this process is killed.
    journal: Option<Journal>,
}

impl Settings {
    fn save(&self) {
        if let Some(journal) = &self.journal {
            journal.save(&self.changed);
        }
    }

    /// Makes a change of what says `before`. What this gateway had not set itself is what comes back
    /// at the end: another's setting meanwhile counts, and not the one before it.
    fn change(
        &mut self,
        (setting, to): (&str, &str),
        before: Option<String>,
        make: impl FnOnce() -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let known = self.changed.get(setting).cloned();
        let original = match &known {
            Some(known) if before.as_ref() == Some(&known.to) => Some(known.original.clone()),
            _ => before,
        };
        if let Some(original) = original {
            let to = to.to_owned();
            self.changed
                .insert(setting.to_owned(), Changed { original, to });
            // First the note: a process that is killed in between has changed nothing.
            self.save();
        }
        let made = make();
        if made.is_err() {
            match known {
                Some(known) => self.changed.insert(setting.to_owned(), known),
                None => self.changed.remove(setting),
            };
            self.save();
        }
        made
    }
}

impl Kernel {
    /// Remembers in the file `path` which settings are changed, and takes over those that a process which
    /// was killed had changed in this namespace: [`clear`](Self::clear) restores them from now on.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`] when the namespace cannot be told from others.
    pub fn remember_settings(&self, path: &Path) -> Result<(), NetlinkError> {
        let journal = Journal::new(path).map_err(|error| {
            NetlinkError::Socket(format!("cannot tell the network namespace: {error}"))
        })?;
        let mut settings = self.settings();
        for (setting, change) in journal.load() {
            settings.changed.entry(setting).or_insert(change);
        }
        settings.journal = Some(journal);
        Ok(())
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a sysctl. What it said before is remembered if it is the host's; a device of this gateway
    /// takes its settings along.
    pub(crate) fn set_sysctl(
        &self,
        path: &str,
        value: &str,
        of_own_device: bool,
    ) -> Result<(), NetlinkError> {
        let before = sysctl::read(path);
        let from = before.clone().unwrap_or_default();
        let write = || sysctl::write(path, value);
        if of_own_device {
            write()?;
        } else {
            self.settings().change((path, value), before, write)?;
        }
        tracing::info!(sysctl = path, from, to = value, "sysctl changed");
        Ok(())
    }

    /// Sets the outer source address and remembers the one before, or without an address puts that one
    /// back.
    pub(crate) fn set_tunnel_source(&self, source: Option<Ipv6Addr>) -> Result<(), NetlinkError> {
        let Some(source) = source else {
            return self.put_tunnel_source_back();
        };
        let (from, to) = (self.tunnel_source_text(), source.to_string());
        let set = || self.seg6().set_tunnel_source(Some(source));
        self.settings()
            .change((TUNNEL_SOURCE, &to), Some(from.clone()), set)?;
        tracing::info!(from, to, "outer source address changed");
        Ok(())
    }

    /// Without a note, as when its file was lost, the kernel chooses again.
    fn put_tunnel_source_back(&self) -> Result<(), NetlinkError> {
        let mut settings = self.settings();
        let original = match settings.changed.get(TUNNEL_SOURCE) {
            Some(known) if known.to == self.tunnel_source_text() => known.original.parse().ok(),
            Some(_) => {
                settings.changed.remove(TUNNEL_SOURCE);
                settings.save();
                return Ok(());
            }
            None => None,
        };
        let original = original.filter(|address: &Ipv6Addr| !address.is_unspecified());
        self.seg6().set_tunnel_source(original)?;
        settings.changed.remove(TUNNEL_SOURCE);
        settings.save();
        Ok(())
    }

    fn tunnel_source_text(&self) -> String {
        let source = self.seg6().tunnel_source();
        source.unwrap_or(Ipv6Addr::UNSPECIFIED).to_string()
    }

    /// Whether the outer source address before this gateway's is known.
    pub(crate) fn remembers_tunnel_source(&self) -> bool {
        self.settings().changed.contains_key(TUNNEL_SOURCE)
    }

    /// Puts back what this gateway, or a killed one before it, has changed and nobody else since.
    pub(crate) fn restore_settings(&self) -> Result<(), NetlinkError> {
        let source = if self.remembers_tunnel_source() {
            self.put_tunnel_source_back()
        } else {
            Ok(())
        };
        let mut settings = self.settings();
        for (path, change) in std::mem::take(&mut settings.changed) {
            sysctl::restore(&path, &change);
        }
        settings.save();
        source
    }
}

#[cfg(test)]
mod tests;
