//! `ticketrail top`: one frame as text, and in a terminal, through the death of the node that it came in by.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{Cluster, Producer, Program, secs, until};
use tokio::process::{Child, Command};

const WIDTH: usize = 100;
const HEIGHT: usize = 24;

async fn once(endpoints: &str, line: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(Program::Product.path());
    command
        .args(["top", "--once", "--interval", "300ms"])
        .args(line.split_whitespace())
        .env("TICKETRAIL_ENDPOINTS", endpoints)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(secs(30), command.output());
    let output = output.await.expect("an end in time").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// `ticketrail top` in a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<Screen>>,
}

impl Terminal {
    fn start(endpoints: &str) -> Self {
        let (master, slave) = pseudo_terminal();
        let mut command = Command::new(Program::Product.path());
        command
            .arg("top")
            .args(["--interval", "200ms"])
            .env("TICKETRAIL_ENDPOINTS", endpoints)
            .env("TERM", "xterm")
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave)
            .kill_on_drop(true);
        // SAFETY: both calls may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                let begun = libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0;
                match begun {
                    true => Ok(()),
                    false => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn().unwrap();
        let screen = Arc::new(Mutex::new(Screen::default()));
        let (mut output, shown) = (File::from(master), Arc::clone(&screen));
        let keys = output.try_clone().unwrap();
        // Ends with the terminal's last process.
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().take(&bytes[..count]);
            }
        });
        Self {
            child,
            keys,
            screen,
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    async fn shows(&self, what: &str, shows: impl Fn(&str) -> bool) {
        until(what, secs(20), async || {
            let screen = self.screen.lock().unwrap().text();
            if shows(&screen) {
                Ok(())
            } else {
                Err(Frame(screen))
            }
        })
        .await;
    }
}

/// A screen as it looks, where a test fails.
struct Frame(String);

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n{}", self.0)
    }
}

fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let size = libc::winsize {
        ws_row: HEIGHT as u16,
        ws_col: WIDTH as u16,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (name, settings) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: all pointers are to our own variables or null, which it allows.
    let made = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            name,
            settings,
            (&raw const size).cast_mut(),
        )
    };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // Only the child keeps its end: SAFETY: both are open, and nobody else's.
    unsafe {
        libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
        (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}

/// As much of a terminal as the program uses: it writes, moves, clears, and switches screens.
struct Screen {
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    rest: Vec<u8>,
    /// It is on the screen that is not the shell's.
    alternate: bool,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            cells: vec![vec![' '; WIDTH]; HEIGHT],
            at: (0, 0),
            rest: Vec::new(),
            alternate: false,
        }
    }
}

impl Screen {
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.rest.split_off(whole);
        let taken = std::mem::replace(&mut self.rest, rest);
        let text = String::from_utf8(taken).unwrap();
        let mut left = text.as_str();
        while let Some(character) = left.chars().next() {
            if character != '\x1b' {
                self.write(character);
                left = &left[character.len_utf8()..];
                continue;
            }
            let end = left.find(|c: char| c.is_ascii_alphabetic());
            let Some(end) = end else {
                // Half a sequence: the rest comes.
                self.rest.splice(0..0, left.bytes());
                return;
            };
            self.sequence(&left[1..=end]);
            left = &left[end + 1..];
        }
    }

    fn write(&mut self, character: char) {
        let (line, column) = self.at;
        match character {
            '\r' => self.at.1 = 0,
            '\n' => self.at.0 += 1,
            _ => {
                if let Some(cell) = self
                    .cells
                    .get_mut(line)
                    .and_then(|line| line.get_mut(column))
                {
                    *cell = character;
                }
                self.at.1 += 1;
            }
        }
    }

    fn sequence(&mut self, sequence: &str) {
        match sequence {
            "[?1049h" => self.alternate = true,
            "[?1049l" => self.alternate = false,
            "[2J" => self.cells = Self::default().cells,
            _ => {}
        }
        if let Some(place) = sequence.strip_prefix('[').and_then(|s| s.strip_suffix('H')) {
            let mut numbers = place.split(';').map(|n| n.parse().unwrap_or(1_usize) - 1);
            self.at = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        }
    }

    fn text(&self) -> String {
        let line = |line: &Vec<char>| line.iter().collect::<String>().trim_end().to_owned();
        self.cells.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// What a line of the screen says, without its blanks.
fn line<'a>(screen: &'a str, first: &str) -> Vec<&'a str> {
    let mut lines = screen
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .find(|words| words.first() == Some(&first))
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_shows_nodes_and_queues_and_goes_on_when_its_node_dies() {
    let cluster = Cluster::start().await;
    cluster.queue("orders").create().await;
    cluster.queue("mail").create().await;
    let clients: Vec<_> = cluster.ids().into_iter().map(|id| cluster.on(id)).collect();
    let mut producer = Producer::open(&cluster, "").await;
    let batch = producer.batch(vec![item("orders", "one"), item("orders", "two")]);
    publish(&clients, &batch).await;

    // One frame, by way of one node: all the others are found.
    let leader = cluster.leader().await;
    let (code, frame, errors) = once(cluster.address(leader), "").await;
    println!("{frame}");
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(frame.contains("3 of 3 nodes up"), "{frame}");
    for id in cluster.ids() {
        let role = if id == leader { "leader" } else { "follower" };
        let words = line(&frame, &id.to_string());
        assert_eq!(words[1..3], [role, cluster.address(id)], "{frame}");
    }
    assert_eq!(line(&frame, "orders")[1..3], ["2", "0"], "{frame}");
    assert!(
        frame.find("orders") < frame.find("mail"),
        "deeper first: {frame}"
    );
    let (_, frame, _) = once(cluster.address(leader), "--filter ai").await;
    assert!(
        frame.contains("mail") && !frame.contains("orders"),
        "{frame}"
    );
    // It draws on nothing but a terminal.
    let mut piped = Command::new(Program::Product.path());
    assert_eq!(
        piped.arg("top").output().await.unwrap().status.code(),
        Some(2)
    );

    // In a terminal: the node that it knows dies, and it goes on with the others.
    let mut terminal = Terminal::start(cluster.address(leader));
    let both = |screen: &str| {
        screen.contains("3 of 3 nodes up") && line(screen, "orders").get(1) == Some(&"2")
    };
    terminal.shows("nodes and queues", both).await;
    cluster.kill(leader);
    let gone = |screen: &str| {
        screen.contains("2 of 3 nodes up")
            && screen.contains(" leads")
            && !screen.contains(" as of ")
    };
    terminal.shows("that a node is gone", gone).await;
    let batch = producer.batch(vec![item("mail", "three"); 5]);
    let others: Vec<_> = cluster
        .running()
        .into_iter()
        .map(|id| cluster.on(id))
        .collect();
    publish(&others, &batch).await;
    terminal
        .shows("what came after", |screen| {
            line(screen, "mail").get(1) == Some(&"5")
        })
        .await;
    terminal.press("/ord\r");
    let filtered =
        |screen: &str| line(screen, "mail").is_empty() && !line(screen, "orders").is_empty();
    terminal.shows("only what fits", filtered).await;
    terminal.press("?");
    terminal
        .shows("the keys", |screen| screen.contains("sort by name"))
        .await;
    assert!(terminal.screen.lock().unwrap().alternate);
    terminal.press("q");
    let status = tokio::time::timeout(secs(10), terminal.child.wait()).await;
    assert!(status.expect("an end in time").unwrap().success());
    terminal
        .shows("the shell again", |_| {
            !terminal.screen.lock().unwrap().alternate
        })
        .await;

    // With nobody left, it says so.
    cluster.kill_all();
    let (code, frame, errors) = once(cluster.address(leader), "").await;
    assert_eq!(code, Some(3), "{frame} {errors}");
    assert!(
        frame.contains("no node answers") && errors.contains("CONNECT_FAILED"),
        "{frame} {errors}"
    );
}
