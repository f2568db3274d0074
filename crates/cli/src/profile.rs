//! What was said about a VPC once, so that `attach --vpc NAME` suffices afterwards.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use masque_client::{GatewayUrl, VpcName};
use serde::{Deserialize, Serialize};

use crate::{
    args::{AuthMethod, TunnelArgs},
    cluster::Found,
    dirs::Dirs,
    failure::{Exit, Failure},
};

/// Beside the key.
const CONNECTOR_FILE: &str = "connector.json";
/// A profile is a few hundred bytes.
const PROFILE_MAX_BYTES: u64 = 64 * 1024;

/// The flags of one VPC as they are kept in `profiles/NAME.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    /// The authority itself, where a cluster gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_pem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<AuthName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_poll_us: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum AuthName {
    ConcealedKey,
    ClientCertificate,
}

/// The settings of the connector itself, `connector.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ConnectorSettings {
    /// Name of the Connector resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

impl Profile {
    /// The profile of a VPC; an empty one when there is none.
    pub(crate) fn load(dirs: &Dirs, vpc: &VpcName) -> Result<Self, Failure> {
        load(&path(dirs, vpc))
    }

    /// Keeps it for the next time.
    pub(crate) fn save(&self, dirs: &Dirs, vpc: &VpcName) -> Result<(), Failure> {
        save(&path(dirs, vpc), self)
    }

    /// Every VPC that has a profile, sorted.
    pub(crate) fn list(dirs: &Dirs) -> Vec<VpcName> {
        let Ok(entries) = fs::read_dir(dirs.config.join("profiles")) else {
            return Vec::new();
        };
        let mut vpcs: Vec<VpcName> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                VpcName::from_file_stem(name.to_str()?.strip_suffix(".json")?)
            })
            .collect();
        vpcs.sort();
        vpcs
    }

    /// The key that an attachment to `vpc`, or to the only VPC, would use. Where several are known,
    /// the usual one, or if there is none the first that a profile names.
    pub(crate) fn key_in_use(dirs: &Dirs, vpc: Option<&VpcName>) -> PathBuf {
        let known = Self::list(dirs);
        let asked = vpc.or(match known.as_slice() {
            [only] => Some(only),
            _ => None,
        });
        let named = |vpc: &VpcName| Self::load(dirs, vpc).ok()?.key;
        let key = dirs.key_file(asked.and_then(named).as_deref());
        if asked.is_some() || key.exists() {
            return key;
        }
        known.iter().find_map(named).unwrap_or(key)
    }

    /// Takes gateway and authority from a cluster instead of from the last time.
    pub(crate) fn follow(&mut self, found: &Found) {
        self.gateway = found.gateway.as_ref().map(ToString::to_string);
        self.ca = None;
        self.ca_pem.clone_from(&found.ca_pem);
    }

    /// What was typed wins over what is remembered.
    pub(crate) fn complete(&self, typed: &TunnelArgs) -> Result<TunnelArgs, Failure> {
        let gateway = match (&typed.gateway, &self.gateway) {
            (Some(gateway), _) => Some(gateway.clone()),
            (None, Some(text)) => Some(text.parse::<GatewayUrl>().map_err(|error| {
                Failure::new(
                    Exit::Config,
                    format!("the profile is wrong: {error}"),
                    "give `--gateway URL`",
                )
            })?),
            (None, None) => None,
        };
        let auth = self.auth.map(|auth| match auth {
            AuthName::ConcealedKey => AuthMethod::ConcealedKey,
            AuthName::ClientCertificate => AuthMethod::ClientCertificate,
        });
        Ok(TunnelArgs {
            gateway,
            ca_pem: self.ca_pem.clone().filter(|_| typed.ca.is_none()),
            ca: typed.ca.clone().or_else(|| self.ca.clone()),
            key: typed.key.clone().or_else(|| self.key.clone()),
            target: typed.target.or(self.target),
            protocol: typed.protocol.or(self.protocol),
            auth: typed.auth.or(auth),
            mtu: typed.mtu.or(self.mtu),
            busy_poll_us: typed.busy_poll_us.or(self.busy_poll_us),
        })
    }
}

/// Relative file names are kept as absolute ones: the next call comes from another folder.
impl From<&TunnelArgs> for Profile {
    fn from(args: &TunnelArgs) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let TunnelArgs {
            gateway,
            ca,
            ca_pem,
            key,
            target,
            protocol,
            auth,
            mtu,
            busy_poll_us,
        } = args;
        Self {
            gateway: gateway.as_ref().map(ToString::to_string),
            ca: ca.as_ref().map(absolute),
            ca_pem: ca_pem.clone(),
            key: key.as_ref().map(absolute),
            target: *target,
            protocol: *protocol,
            auth: auth.map(|auth| match auth {
                AuthMethod::ConcealedKey => AuthName::ConcealedKey,
                AuthMethod::ClientCertificate => AuthName::ClientCertificate,
            }),
            mtu: *mtu,
            busy_poll_us: *busy_poll_us,
        }
    }
}

impl ConnectorSettings {
    /// What is kept; empty when nothing is.
    pub(crate) fn load(dirs: &Dirs) -> Result<Self, Failure> {
        load(&dirs.config.join(CONNECTOR_FILE))
    }

    /// What is kept beside a key of another folder, say by the user who called sudo, else here.
    pub(crate) fn of_key(dirs: &Dirs, key: &Path) -> Result<Self, Failure> {
        let beside = key.with_file_name(CONNECTOR_FILE);
        match beside.exists() {
            true => load(&beside),
            false => Self::load(dirs),
        }
    }

    /// Keeps it.
    pub(crate) fn save(&self, dirs: &Dirs) -> Result<(), Failure> {
        save(&dirs.config.join(CONNECTOR_FILE), self)
    }

    /// The Connector's name: what was set, else this machine's.
    pub(crate) fn connector(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => masque_client::resource_name(&host_name()),
        }
    }
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

fn path(dirs: &Dirs, vpc: &VpcName) -> PathBuf {
    dirs.config
        .join("profiles")
        .join(format!("{}.json", vpc.file_stem()))
}

fn load<T: Default + for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Failure> {
    let text = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > PROFILE_MAX_BYTES => String::new(),
        Ok(_) => fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(Failure::file("read", path, &error)),
    };
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(
            Exit::Config,
            format!("{} is malformed: {error}", path.display()),
            format!("mend it, or start afresh: `rm {}`", path.display()),
        )
    })
}

/// Writes beside and renames, so that a crash leaves the old or the new file.
fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("write", path, &error);
    let text =
        serde_json::to_string_pretty(value).map_err(|error| failed(io::Error::other(error)))?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let beside = path.with_extension(format!("json.{}", std::process::id()));
    fs::write(&beside, text + "\n")
        .and_then(|()| fs::rename(&beside, path))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(folder: &tempfile::TempDir) -> Dirs {
        Dirs {
            config: folder.path().to_owned(),
            state: folder.path().join("state"),
            root_state: None,
        }
    }

    fn typed(gateway: &str) -> TunnelArgs {
        TunnelArgs {
            gateway: Some(gateway.parse().unwrap()),
            ca: Some("ca.pem".into()),
            auth: Some(AuthMethod::ClientCertificate),
            busy_poll_us: Some(0),
            ..TunnelArgs::default()
        }
    }

    #[test]
    fn a_profile_remembers_and_flags_win() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = dirs(&folder);
        let vpc: VpcName = "team/production-vpc".parse().unwrap();
        let profile = Profile::from(&typed("https://gw.example:4433"));
        profile.save(&dirs, &vpc).unwrap();
        assert_eq!(Profile::list(&dirs), std::slice::from_ref(&vpc));

        let again = Profile::load(&dirs, &vpc).unwrap();
        assert_eq!(again, profile);
        let completed = again.complete(&TunnelArgs::default()).unwrap();
        assert_eq!(
            completed.gateway.unwrap().to_string(),
            "https://gw.example:4433"
        );
        assert!(completed.ca.unwrap().is_absolute());
        assert_eq!(completed.auth, Some(AuthMethod::ClientCertificate));
        assert_eq!(completed.busy_poll_us, Some(0));

        let other = again.complete(&typed("https://other:1")).unwrap();
        assert_eq!(other.gateway.unwrap().port(), 1);
    }

    #[test]
    fn a_cluster_wins_over_what_is_remembered_and_flags_over_both() {
        let mut profile = Profile::from(&typed("https://old.example:4433"));
        let found = Found {
            gateway: Some("https://new.example/{target}/{ipproto}/".parse().unwrap()),
            ca_pem: Some("PEM".to_owned()),
            connector: "laptop".to_owned(),
        };
        profile.follow(&found);
        let followed = profile.complete(&TunnelArgs::default()).unwrap();
        assert_eq!(followed.gateway, found.gateway);
        assert_eq!((followed.ca, &followed.ca_pem), (None, &found.ca_pem));
        let given = profile.complete(&typed("https://typed:1")).unwrap();
        assert_eq!(
            given.ca_pem, None,
            "the file that was typed is trusted alone"
        );
        assert_eq!(given.gateway.unwrap().port(), 1);
        // Remembered, and read again, without a file beside it.
        let again = Profile::from(&profile.complete(&TunnelArgs::default()).unwrap());
        assert_eq!(again, profile);
    }

    #[test]
    fn the_connectors_name_is_kept_beside_its_key() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let named = |name: &str| ConnectorSettings {
            name: Some(name.to_owned()),
        };
        named("root").save(&dirs(&ours)).unwrap();
        let key = theirs.path().join("key.pem");
        let found = || ConnectorSettings::of_key(&dirs(&ours), &key).unwrap();
        assert_eq!(found(), named("root"));
        named("laptop").save(&dirs(&theirs)).unwrap();
        assert_eq!(found(), named("laptop"));
    }

    #[test]
    fn a_malformed_profile_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = dirs(&folder);
        let vpc: VpcName = "v".parse().unwrap();
        assert_eq!(Profile::load(&dirs, &vpc).unwrap(), Profile::default());
        fs::create_dir_all(folder.path().join("profiles")).unwrap();
        for text in ["{", "{\"gatewy\": \"x\"}"] {
            fs::write(path(&dirs, &vpc), text).unwrap();
            let failure = Profile::load(&dirs, &vpc).unwrap_err();
            assert_eq!(failure.exit, Exit::Config);
            assert!(failure.to_string().contains("profiles/v.json"), "{failure}");
        }
    }
}
