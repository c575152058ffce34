//! Processes that die with their test, however it ends: by a drop, a panic, or a
//! SIGKILL of the whole test program. Must not know what they are for.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use crate::world::WorldError;

/// How long a command that ends by itself may take.
const COMMAND: Duration = Duration::from_secs(100);

/// A running process, whose output goes to a file.
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    log: PathBuf,
}

impl Process {
    /// Starts one. Its standard input is a pipe that closes with it; standard
    /// output goes to `output` if there is one, and all else to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path, output: Option<&Path>) -> Result<Self, WorldError> {
        // What is started again goes on in its log.
        let errors = File::options().create(true).append(true).open(log)?;
        let output = output.map_or_else(|| errors.try_clone(), File::create)?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C is for the test: whoever it ends must not end out of order.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        // Drop does not run when the test program is killed, but its pipes close.
        // The child is the leader of its group, so the group has its number.
        let watchdog = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -KILL -\"$1\"", "watchdog", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match watchdog {
            Ok(watchdog) => Ok(Self { name: name.to_owned(), child, watchdog, log: log.to_owned() }),
            Err(error) => {
                let mut child = child;
                let _ = child.kill().and_then(|()| child.wait().map(drop));
                Err(format!("the watchdog of {name} cannot be started: {error}").into())
            }
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of the log, if the process has ended.
    pub fn must_run(&mut self) -> Result<(), WorldError> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} has ended ({status}):\n{}", self.name, tail(&self.log, 30)).into()),
        }
    }

    /// Sends it a signal, such as `STOP`.
    pub async fn signal(&self, signal: &str) -> Result<(), WorldError> {
        let mut kill = tokio::process::Command::new("kill");
        kill.args(["-s", signal, &self.child.id().to_string()]);
        run(kill, None).await?.success().map(drop)
    }

    /// Asks it to end with SIGTERM, and waits for it.
    pub async fn terminate(mut self, within: Duration) -> Result<(ExitStatus, Duration), WorldError> {
        let asked = Instant::now();
        self.signal("TERM").await?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, asked.elapsed()));
            }
            if asked.elapsed() > within {
                return Err(format!("{} did not end within {within:?} of SIGTERM", self.name).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog first: once the child is reaped its number is anybody's.
        for process in [&mut self.watchdog, &mut self.child] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// The command, for messages.
    pub command: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Said {
    /// The standard output of a command that must not fail.
    pub fn success(self) -> Result<String, WorldError> {
        if self.ok { Ok(self.out) } else { Err(format!("`{}` failed:\n{}{}", self.command, self.out, self.err).into()) }
    }
}

/// Runs a command to its end.
pub async fn run(mut command: tokio::process::Command, stdin: Option<&str>) -> Result<Said, WorldError> {
    let shown = command.as_std();
    let words = std::iter::once(shown.get_program()).chain(shown.get_args()).map(|word| word.to_string_lossy());
    let shown = words.collect::<Vec<_>>().join(" ");
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("`{shown}` cannot be started: {error}"))?;
    let input = child.stdin.take();
    let ended = async {
        let feed = async {
            if let (Some(mut pipe), Some(text)) = (input, stdin) {
                // Whoever does not read to the end says why on standard error.
                let _ = pipe.write_all(text.as_bytes()).await;
            }
        };
        let ((), output) = tokio::join!(feed, child.wait_with_output());
        output
    };
    let output =
        tokio::time::timeout(COMMAND, ended).await.map_err(|_| format!("`{shown}` took over {COMMAND:?}"))??;
    Ok(Said {
        command: shown,
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The last lines of a file; empty if it cannot be read.
pub fn tail(file: &Path, lines: usize) -> String {
    let mut text = Vec::new();
    let _ = File::open(file).and_then(|mut file| file.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16, WorldError> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
