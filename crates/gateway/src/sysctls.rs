//! `masque-gateway sysctls NAME=VALUE…`: the privileged init container of a pod whose kubelet
//! refuses kernel settings by pod spec (`spec.podTemplate.privilegedInit`).
//!
//! It runs with every privilege, so that it takes names of the network only, and of those only what
//! cannot leave `/proc/sys/net`. The settings are those of the pod's network namespace.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
    str::FromStr,
};

use crate::exit::Fatal;

/// Where the kernel shows its settings.
const PROC_SYS: &str = "/proc/sys";

/// The longest name; the kernel's own are below 100 bytes.
const MAX_NAME_BYTES: usize = 253;

/// The longest value; those of a gateway are one digit.
const MAX_VALUE_BYTES: usize = 256;

/// One kernel setting of the network, such as `net.ipv4.ip_forward=1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    name: String,
    value: String,
}

/// Why a text is no setting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingError {
    /// There is no value.
    #[error("write it as NAME=VALUE, such as net.ipv4.ip_forward=1")]
    NoValue,
    /// The name is that of another part of the kernel, or no name at all.
    #[error("{0:?} is no setting of the network: names are net. and words joined by dots")]
    Name(String),
    /// The value cannot be written.
    #[error("the value of {0} is empty, longer than {MAX_VALUE_BYTES} bytes or not printable")]
    Value(String),
}

impl FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        let (name, value) = text.split_once('=').ok_or(SettingError::NoValue)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let of_network = masque_netlink::is_network_setting(&path(name));
        if !of_network || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
            return Err(SettingError::Name(name.to_owned()));
        }
        let printable = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if value.trim().is_empty() || value.len() > MAX_VALUE_BYTES || !printable {
            return Err(SettingError::Value(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// Writes the settings in their order and prints a line for each.
///
/// # Errors
/// [`Fatal::Sysctl`] for the first that the kernel does not take; those before it are in force.
pub(crate) fn write(settings: &[Setting]) -> Result<(), Fatal> {
    write_below(Path::new(PROC_SYS), settings)
}

fn write_below(root: &Path, settings: &[Setting]) -> Result<(), Fatal> {
    for setting in settings {
        set(root, setting).map_err(|error| Fatal::Sysctl {
            name: setting.name.clone(),
            error,
        })?;
        println!("{} = {}", setting.name, setting.value);
    }
    Ok(())
}

/// Below `/proc/sys`.
fn path(name: &str) -> String {
    name.replace('.', "/")
}

fn set(root: &Path, Setting { name, value }: &Setting) -> io::Result<()> {
    // Never makes a file: a setting that the kernel does not have is an error.
    let mut file = OpenOptions::new().write(true).open(root.join(path(name)))?;
    // The kernel looks at one write at a time.
    file.write_all(format!("{value}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use masque_testkit::Lab;

    use super::*;
    use crate::exit::status;

    fn setting(text: &str) -> Setting {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_the_network_alone_are_taken() {
        for good in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.eth0.seg6_enabled=1",
            "net.ipv6.conf.my-link_0.forwarding=0",
            "net.ipv4.ip_local_port_range=1024 65535",
        ] {
            let (name, value) = good.split_once('=').unwrap();
            let Setting { name: n, value: v } = setting(good);
            assert_eq!((n.as_str(), v.as_str()), (name, value));
        }
        let long = format!("net.{}=1", "a".repeat(MAX_NAME_BYTES));
        let much = format!("net.a={}", "1".repeat(MAX_VALUE_BYTES + 1));
        for bad in [
            "net.ipv4.ip_forward",
            "kernel.core_pattern=|/bin/sh",
            "=1",
            "net=1",
            "net.=1",
            ".net.a=1",
            "network.a=1",
            "net..a=1",
            "net.a.=1",
            "net...kernel.x=1",
            "net/../kernel/x=1",
            "net.ipv4/../../kernel/x=1",
            "/proc/sys/net.a=1",
            "net.a\0=1",
            "net.é=1",
            "net.a=",
            "net.a= ",
            "net.a=1\n2",
            &long,
            &much,
        ] {
            assert!(bad.parse::<Setting>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn writes_what_is_there_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("net/ipv4/ip_forward");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "0\n").unwrap();
        let settings = ["net.ipv4.ip_forward=1", "net.ipv4.absent=1"].map(setting);
        let fatal = write_below(root.path(), &settings).unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
        assert!(!root.path().join("net/ipv4/absent").exists());
        assert_eq!(fatal.status(), status::OS);
        assert!(fatal.to_string().contains("net.ipv4.absent"), "{fatal}");
    }

    #[test]
    fn the_kernel_takes_them() {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return;
        }
        let mut lab = Lab::new();
        let host = lab.host("sysctls");
        let read = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        let (before, after, refused) = host.enter(|| {
            let before = read();
            write(&[setting("net.ipv4.ip_forward=1")]).unwrap();
            let bad = write(&[setting("net.ipv4.ip_forward=maybe")]);
            (before, read(), bad.unwrap_err())
        });
        assert_eq!((before.trim(), after.trim()), ("0", "1"));
        assert_eq!(refused.status(), status::OS, "{refused}");
    }
}
