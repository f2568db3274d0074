//! `datum-connect detach`.

use std::time::Duration;

use crate::{
    args::DetachArgs,
    control::{self, Answer, Attachment, Request},
    dirs::Dirs,
    failure::{Exit, Failure},
};

/// Ends one attachment, or all, and waits until their devices are gone.
pub(crate) fn run(args: &DetachArgs, dirs: &Dirs) -> Result<(), Failure> {
    let found = match &args.vpc {
        Some(_) => vec![control::find(dirs, args.vpc.as_ref())?],
        None => {
            let all = control::attachments(dirs)?;
            if all.hidden {
                say!("attachments of other users stay: `sudo datum-connect detach` ends root's");
            }
            all.found
        }
    };
    for mut attachment in found {
        match attachment.ask(&Request::Detach, Duration::ZERO)? {
            Answer::Detaching => {}
            other => {
                return Err(Failure::new(
                    Exit::Software,
                    format!("the attachment to {} answered {other:?}", attachment.vpc),
                    "end its process: `datum-connect status --json` shows the pid",
                ));
            }
        }
        wait(&attachment)?;
        say!("detached from {}", attachment.vpc);
    }
    Ok(())
}

/// The socket goes last, after routes and device.
fn wait(attachment: &Attachment) -> Result<(), Failure> {
    const STEP: Duration = Duration::from_millis(20);
    const STEPS_MAX: u32 = 250;
    for _ in 0..STEPS_MAX {
        if attachment.is_gone()? {
            return Ok(());
        }
        std::thread::sleep(STEP);
    }
    Err(Failure::new(
        Exit::TemporaryFailure,
        format!("the attachment to {} takes long to end", attachment.vpc),
        "look again: `datum-connect status`",
    ))
}
