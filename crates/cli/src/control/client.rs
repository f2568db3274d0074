//! The commands' end.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use masque_client::VpcName;

use super::{Answer, LINE_MAX_BYTES, Request, Running};
use crate::{
    dirs::Dirs,
    failure::{Exit, Failure},
};

/// A live attachment answers at once; beyond this it hangs.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A connection to one running attachment.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Which VPC.
    pub(crate) vpc: VpcName,
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// What a look for attachments found.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    /// What answers.
    pub(crate) found: T,
    /// Whether there may be more that this user must not ask: root's, say.
    pub(crate) hidden: bool,
}

impl Attachment {
    /// Where the attachment to a VPC listens.
    pub(crate) fn socket(dirs: &Dirs, vpc: &VpcName) -> PathBuf {
        dirs.state.join(socket_name(vpc))
    }

    /// Connects to the attachment to a VPC; none when nobody listens. A socket of a dead process is
    /// removed.
    pub(crate) fn open(dirs: &Dirs, vpc: &VpcName) -> Result<Seen<Option<Self>>, Failure> {
        let mut hidden = false;
        for folder in dirs.states()? {
            let path = folder.join(socket_name(vpc));
            let seen = Self::connect(&path, vpc)?;
            if seen.found.is_some() {
                return Ok(seen);
            }
            hidden |= seen.hidden;
        }
        Ok(Seen {
            found: None,
            hidden,
        })
    }

    fn connect(path: &Path, vpc: &VpcName) -> Result<Seen<Option<Self>>, Failure> {
        let nobody = |hidden| Seen {
            found: None,
            hidden,
        };
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Seen {
                found: Some(Self {
                    vpc: vpc.clone(),
                    path: path.to_owned(),
                    stream: BufReader::new(stream),
                }),
                hidden: false,
            }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(path);
                Ok(nobody(false))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(nobody(false)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(nobody(true)),
            Err(error) => Err(Failure::file("open", path, &error)),
        }
    }

    /// Whether it has ended since.
    pub(crate) fn is_gone(&self) -> Result<bool, Failure> {
        let seen = Self::connect(&self.path, &self.vpc)?;
        Ok(seen.found.is_none())
    }

    /// What it is doing.
    pub(crate) fn status(&mut self) -> Result<Running, Failure> {
        match self.ask(&Request::Status, Duration::ZERO)? {
            Answer::Status(running) => Ok(*running),
            other => Err(unexpected(&self.vpc, &other)),
        }
    }

    /// Asks and waits: `extra` longer than for an answer that needs no waiting itself.
    pub(crate) fn ask(&mut self, request: &Request, extra: Duration) -> Result<Answer, Failure> {
        self.exchange(request, extra).map_err(|error| {
            Failure::new(
                Exit::Unavailable,
                format!("the attachment to {} does not answer: {error}", self.vpc),
                "end it and attach again: `datum-connect detach`",
            )
        })
    }

    fn exchange(&mut self, request: &Request, extra: Duration) -> io::Result<Answer> {
        let stream = self.stream.get_mut();
        stream.set_read_timeout(Some(ANSWER_MAX + extra))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut text = serde_json::to_string(request)?;
        text.push('\n');
        stream.write_all(text.as_bytes())?;
        let mut line = String::new();
        self.stream
            .by_ref()
            .take(LINE_MAX_BYTES)
            .read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// Every attachment that runs, sorted by VPC. Sockets of dead processes are removed on the way.
pub(crate) fn attachments(dirs: &Dirs) -> Result<Seen<Vec<Attachment>>, Failure> {
    let mut all = Seen {
        found: Vec::new(),
        hidden: false,
    };
    for folder in dirs.states()? {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                all.hidden = true;
                continue;
            }
            Err(error) => return Err(Failure::file("read", folder, &error)),
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(vpc) = vpc_of(&path) else { continue };
            let seen = Attachment::connect(&path, &vpc)?;
            all.found.extend(seen.found);
            all.hidden |= seen.hidden;
        }
    }
    all.found.sort_by(|a, b| a.vpc.cmp(&b.vpc));
    Ok(all)
}

/// The attachment to this VPC, or the only one.
pub(crate) fn find(dirs: &Dirs, vpc: Option<&VpcName>) -> Result<Attachment, Failure> {
    if let Some(vpc) = vpc {
        let seen = Attachment::open(dirs, vpc)?;
        let failure = Failure::new(
            Exit::Unavailable,
            format!("this machine is not attached to {vpc}"),
            format!("attach it: `datum-connect attach --vpc {vpc}`"),
        );
        return seen
            .found
            .ok_or_else(|| unless_hidden(seen.hidden, failure));
    }
    let Seen { mut found, hidden } = attachments(dirs)?;
    match (found.pop(), found.last()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(unless_hidden(
            hidden,
            Failure::new(
                Exit::Unavailable,
                "this machine is attached to no VPC",
                "attach it: `datum-connect attach --vpc NAME`",
            ),
        )),
        (Some(last), Some(other)) => Err(Failure::new(
            Exit::Usage,
            format!(
                "there are several attachments, {} and {} among them",
                other.vpc, last.vpc
            ),
            format!("choose one: `--vpc {}`", other.vpc),
        )),
    }
}

/// Nothing was found; there may be something that this user must not ask.
fn unless_hidden(hidden: bool, failure: Failure) -> Failure {
    match hidden {
        false => failure,
        true => Failure::new(
            Exit::Unavailable,
            "this user sees no such attachment, and may not see root's",
            "ask as root: `sudo datum-connect status`",
        ),
    }
}

fn socket_name(vpc: &VpcName) -> String {
    format!("{}.sock", vpc.file_stem())
}

fn vpc_of(path: &Path) -> Option<VpcName> {
    (path.extension()? == "sock").then_some(())?;
    VpcName::from_file_stem(path.file_stem()?.to_str()?)
}

fn unexpected(vpc: &VpcName, answer: &Answer) -> Failure {
    let reason = match answer {
        Answer::Error { reason } => reason.clone(),
        other => format!("unexpected answer {other:?}"),
    };
    Failure::new(
        Exit::Software,
        format!("the attachment to {vpc} answered: {reason}"),
        "if it runs another version, end it: `datum-connect detach`",
    )
}
