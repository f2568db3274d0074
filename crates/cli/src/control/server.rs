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

#[cfg(test)]
mod tests {
    use super::*;

    /// Says the same to every request.
    struct Yes;

    impl Handler for Yes {
        fn handle(&self, _: Request) -> Answer {
            Answer::Detaching
        }
    }

    fn ask(stream: &mut UnixStream, request: &str) {
        // One that is turned away may be closed already; what counts is the answer.
        let _closed_already = stream.write_all(request.as_bytes());
    }

    /// The answer; empty if the connection was closed instead.
    fn answer(stream: &UnixStream) -> String {
        let mut line = String::new();
        let _closed = BufReader::new(stream).read_line(&mut line);
        line
    }

    fn status() -> String {
        serde_json::to_string(&Request::Status).unwrap() + "\n"
    }

    #[test]
    fn a_command_too_many_is_turned_away_until_one_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let _server = ControlServer::start(&path, None, Arc::new(Yes)).unwrap();
        let connect = || {
            let mut stream = UnixStream::connect(&path).unwrap();
            ask(&mut stream, &status());
            let taken = !answer(&stream).is_empty();
            (stream, taken)
        };
        let mut open: Vec<_> = (0..16).map(|_| connect()).collect();
        assert!(open.iter().all(|(_, taken)| *taken));
        assert!(!connect().1);
        open.pop();
        // Its thread takes a moment to end.
        let mut tries = 0;
        while !connect().1 {
            tries += 1;
            assert!(tries < 1000, "its place does not come back");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Read as one line, it would be a request behind many blanks.
    #[test]
    fn a_line_without_end_is_no_request() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || serve(theirs, &Yes));
        ask(&mut ours, &" ".repeat(64 * 1024));
        ask(&mut ours, &status());
        let answer = answer(&ours);
        assert!(answer.contains("not a request"), "{answer}");
        server.join().unwrap().unwrap();
    }

    #[test]
    fn who_says_nothing_is_waited_for_five_seconds() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let socket = theirs.try_clone().unwrap();
        let server = thread::spawn(move || serve(theirs, &Yes));
        ask(&mut ours, &status());
        assert!(!answer(&ours).is_empty());
        let wait = Some(Duration::from_secs(5));
        assert_eq!(socket.read_timeout().unwrap(), wait);
        assert_eq!(socket.write_timeout().unwrap(), wait);
        drop(ours);
        server.join().unwrap().unwrap();
    }
}
