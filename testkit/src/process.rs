//! A child process that says `ready {…}`, whose log is kept, and that never outlives the test.
//!
//! Statics are not dropped when a test binary ends, so `Drop` alone would leave shared servers behind. On Linux the
//! kernel kills a child when the *thread* that forked it ends; children are therefore forked by one thread that lives
//! as long as the process.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Lines of log kept of one process; older ones are dropped.
const LOG_LINES: usize = 20_000;
/// How long a process may take to exit after SIGTERM before it is killed on drop.
const PATIENCE_ON_DROP: Duration = Duration::from_secs(10);

/// Standard output and standard error.
const STREAMS: usize = 2;
/// How long after its exit a process's output may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A running child. Dropping it sends SIGTERM, then SIGKILL.
pub struct Process {
    name: String,
    pid: u32,
    ready: serde_json::Value,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    exit: Option<ExitStatus>,
    ready: Option<serde_json::Value>,
    log: VecDeque<String>,
    /// Streams that have ended.
    ended: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done` gives a value, at most until `deadline`.
    fn wait_for<T>(&self, deadline: Instant, mut done: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(value) = done(&state) {
                return Some(value);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Process {
    /// Starts `command` and waits for its line `ready {json}` on stdout.
    pub fn start(name: &str, command: Command, deadline: Duration) -> Result<Self> {
        let process = Self::spawn(name, command)?;
        process.wait_ready(deadline)
    }

    /// Starts `command`, whatever it says.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = fork(command).with_context(|| format!("starting {name}"))?;
        let shared = Arc::new(Shared::default());
        let pid = child.id();
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        shared.lock().child = Some(child);
        follow(stdout, shared.clone(), true);
        follow(stderr, shared.clone(), false);
        reap(pid, shared.clone());
        Ok(Self { name: name.to_owned(), pid, ready: serde_json::Value::Null, shared })
    }

    fn wait_ready(mut self, deadline: Duration) -> Result<Self> {
        let outcome = self.shared.wait_for(Instant::now() + deadline, |state| {
            let ready = state.ready.clone().map(Ok);
            ready.or_else(|| state.exit.map(|exit| Err(format!("exited with {exit}"))))
        });
        match outcome {
            Some(Ok(ready)) => {
                self.ready = ready;
                Ok(self)
            }
            Some(Err(why)) => {
                // Its last words may still be on their way.
                self.shared.wait_for(Instant::now() + LAST_WORDS, |state| (state.ended == STREAMS).then_some(()));
                bail!("{} {why} before it was ready:\n{}", self.name, self.tail(60))
            }
            None => bail!("{} was not ready after {deadline:?}:\n{}", self.name, self.tail(60)),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A string of the ready line, `https` say.
    pub fn address(&self, key: &str) -> Result<String> {
        let value = self.ready.get(key).and_then(|v| v.as_str());
        value.map(str::to_owned).with_context(|| format!("{}: no {key:?} in ready {}", self.name, self.ready))
    }

    /// Asks the process to leave (SIGTERM).
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Sends SIGINT.
    pub fn interrupt(&self) {
        self.signal(libc::SIGINT);
    }

    /// Ends the process without a word (SIGKILL) and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL);
        self.wait_exit(Duration::from_secs(10)).map(drop)
    }

    pub fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        let exit = self.shared.wait_for(Instant::now() + deadline, |state| state.exit);
        exit.with_context(|| format!("{} had not exited after {deadline:?}:\n{}", self.name, self.tail(40)))
    }

    pub fn is_running(&self) -> bool {
        self.shared.lock().exit.is_none()
    }

    /// Sends a signal, unless the process is gone: its id is not reused before it is reaped, and that needs the lock.
    pub fn signal(&self, signal: i32) {
        let state = self.shared.lock();
        if state.exit.is_none() {
            // SAFETY: kill(2) takes no pointers; the child is not reaped while the lock is held.
            unsafe { libc::kill(self.pid as i32, signal) };
        }
    }

    pub fn log(&self) -> Vec<String> {
        self.shared.lock().log.iter().cloned().collect()
    }

    /// The last `lines` of the log, as one text.
    pub fn tail(&self, lines: usize) -> String {
        let log = self.log();
        log[log.len().saturating_sub(lines)..].join("\n")
    }

    /// CPU time used so far, user and system, from `/proc`.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(&self.pid.to_string())
    }

    /// Resident memory in bytes, from `/proc`.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The part of it that was allocated, and is no file's.
    pub fn anonymous_bytes(&self) -> Result<u64> {
        self.memory("RssAnon:")
    }

    /// The most that it ever was.
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &'static str) -> Result<u64> {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key)).context(key)?;
        let kib = line.trim().trim_end_matches(" kB").parse::<u64>()?;
        Ok(kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}\n--- end of {} ---", self.name, self.tail(80), self.name);
        }
        self.terminate();
        if self.wait_exit(PATIENCE_ON_DROP).is_err() {
            let _ = self.kill();
        }
    }
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Forks on the one long-lived thread.
fn fork(command: Command) -> Result<Child> {
    static FORKER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        let work = move || {
            for (mut command, answer) in inbox {
                die_with_this_thread(&mut command);
                let _ = answer.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("forker".to_owned()).spawn(work).expect("a thread can be started");
        Mutex::new(orders)
    });
    let (answer, child) = mpsc::channel();
    FORKER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer))?;
    Ok(child.recv()??)
}

#[cfg(target_os = "linux")]
fn die_with_this_thread(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_this_thread(_: &mut Command) {}

fn follow(stream: impl Read + Send + 'static, shared: Arc<Shared>, announces: bool) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut state = shared.lock();
            if announces && let Some(json) = line.strip_prefix("ready ") {
                state.ready = serde_json::from_str(json).ok();
            }
            if state.log.len() == LOG_LINES {
                state.log.pop_front();
            }
            state.log.push_back(line);
            shared.changed.notify_all();
        }
        shared.lock().ended += 1;
        shared.changed.notify_all();
    });
}

/// Waits for the child's end without reaping it, then reaps it under the lock.
fn reap(pid: u32, shared: Arc<Shared>) {
    std::thread::spawn(move || {
        loop {
            // SAFETY: siginfo_t is plain data, for the kernel to fill in.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: `info` outlives the call.
            let done = unsafe { libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT) };
            if done == 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                break;
            }
        }
        let mut state = shared.lock();
        if let Some(mut child) = state.child.take() {
            state.exit = child.wait().ok();
        }
        shared.changed.notify_all();
    });
}

/// The path of one of the product's programs, built if need be with the profile of the running test.
///
/// `NEARFIELD_BIN_DIR` names a directory of ready programs instead.
pub fn binary(name: &str) -> Result<PathBuf> {
    static DIRECTORY: LazyLock<Result<PathBuf, String>> =
        LazyLock::new(|| program_directory().map_err(|e| format!("{e:#}")));
    let directory = DIRECTORY.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
    let path = directory.join(name);
    if !path.is_file() {
        bail!("no program at {}: run `cargo build --workspace --bins` first", path.display());
    }
    Ok(path)
}

fn program_directory() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("NEARFIELD_BIN_DIR") {
        return Ok(given.into());
    }
    let exe = std::env::current_exe()?;
    let parent = exe.parent().context("an executable is in a directory")?;
    // Test executables are in target/<profile>/deps, the bench program in target/<profile>.
    let directory = if parent.ends_with("deps") { parent.parent().context("target/<profile>")? } else { parent };
    // A stale program would make a test lie; a fresh build costs a second.
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--workspace", "--bins", "--quiet", "--profile", profile]);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let output = build.output().context("running cargo build")?;
    if !output.status.success() {
        bail!("cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(directory.to_owned())
}

/// A port that was free a moment ago on both address families' loopback. Only for what must be known before the start.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Asks `probe` again and again until it gives a value, at most until `deadline`.
pub async fn eventually<T, F>(what: &str, deadline: Duration, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let end = tokio::time::Instant::now() + deadline;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        if let Ok(Some(value)) = tokio::time::timeout_at(end, probe()).await {
            return Ok(value);
        }
        if tokio::time::Instant::now() >= end {
            bail!("not within {deadline:?}: {what}");
        }
    }
}

/// CPU time that the caller's own process has used so far, like [`Process::cpu_time`].
pub fn own_cpu_time() -> Result<Duration> {
    cpu_time("self")
}

fn cpu_time(process: &str) -> Result<Duration> {
    let stat = fs_err::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the name in parentheses, which may hold spaces.
    let after = stat.rsplit_once(") ").context("/proc/pid/stat has a name in parentheses")?.1;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).context("a number of ticks");
    // Fields 14 and 15 of proc_pid_stat(5); `fields` starts at the third.
    let ticks = ticks(11)? + ticks(12)?;
    // SAFETY: sysconf(3) takes no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}
