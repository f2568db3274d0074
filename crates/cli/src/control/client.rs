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
    stream: BufReader<UnixStream>,
}

impl Attachment {
    /// Where the attachment to a VPC listens.
    pub(crate) fn socket(dirs: &Dirs, vpc: &VpcName) -> PathBuf {
        dirs.state.join(format!("{}.sock", vpc.file_stem()))
    }

    /// Connects; `None` when nobody listens. A socket of a dead process is removed.
    pub(crate) fn open(dirs: &Dirs, vpc: &VpcName) -> Result<Option<Self>, Failure> {
        let path = Self::socket(dirs, vpc);
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Some(Self {
                vpc: vpc.clone(),
                stream: BufReader::new(stream),
            })),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(&path);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::file("open", &path, &error)),
        }
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
pub(crate) fn attachments(dirs: &Dirs) -> Result<Vec<Attachment>, Failure> {
    dirs.check_state()?;
    let mut vpcs: Vec<VpcName> = match fs::read_dir(&dirs.state) {
        Ok(entries) => entries
            .flatten()
            .filter_map(|entry| vpc_of(&entry.path()))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure::file("read", &dirs.state, &error)),
    };
    vpcs.sort();
    let mut found = Vec::new();
    for vpc in vpcs {
        found.extend(Attachment::open(dirs, &vpc)?);
    }
    Ok(found)
}

/// The attachment to this VPC, or the only one.
pub(crate) fn find(dirs: &Dirs, vpc: Option<&VpcName>) -> Result<Attachment, Failure> {
    dirs.check_state()?;
    if let Some(vpc) = vpc {
        return Attachment::open(dirs, vpc)?.ok_or_else(|| {
            Failure::new(
                Exit::Unavailable,
                format!("this machine is not attached to {vpc}"),
                format!("attach it: `datum-connect attach --vpc {vpc}`"),
            )
        });
    }
    let mut all = attachments(dirs)?;
    match (all.pop(), all.last()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Failure::new(
            Exit::Unavailable,
            "this machine is attached to no VPC",
            "attach it: `datum-connect attach --vpc NAME`",
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
