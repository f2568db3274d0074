//! The attachment's end.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::stat::{Mode, umask};

use super::{Answer, LINE_MAX_BYTES, Request};

/// Commands at one time; more are turned away. A person has a few terminals.
const CONNECTIONS_MAX: usize = 16;
/// A command that connects and says nothing is cut off.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Answers requests; shared by the connections' threads.
pub(crate) trait Handler: Send + Sync + 'static {
    /// One request, one answer. May block for as long as the request allows.
    fn handle(&self, request: Request) -> Answer;
}

/// Listens until dropped; its socket file goes with it.
#[derive(Debug)]
pub(crate) struct ControlServer {
    path: PathBuf,
}

impl ControlServer {
    /// Makes the socket, mode 0600, for `owner` instead of this process's user, and answers from
    /// threads of its own. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when another process serves this path; else what the file system said.
    pub(crate) fn start(
        path: &Path,
        owner: Option<u32>,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Others may look into the folder under sudo: the socket is ours alone from the start. What
        // another thread makes in this moment would be, too.
        let mask = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(mask);
        let listener = bound?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        // Only we can have put something else there.
        chown(path, owner, None)?;
        thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &handler))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, handler: &Arc<dyn Handler>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (handler, counter) = (Arc::clone(handler), Arc::clone(&open));
        let spawned = thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                if let Err(error) = serve(stream, handler.as_ref()) {
                    tracing::debug!(%error, "a control connection failed");
                }
                counter.fetch_sub(1, Ordering::Relaxed);
            });
        if spawned.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(stream: UnixStream, handler: &dyn Handler) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.by_ref().take(LINE_MAX_BYTES).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_str(&line) {
            Ok(request) => handler.handle(request),
            Err(error) => Answer::Error {
                reason: format!("not a request: {error}"),
            },
        };
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        writer.write_all(text.as_bytes())?;
        // What follows an overlong line is no request.
        if !line.ends_with('\n') {
            return Ok(());
        }
    }
}
