//! A terminal for `ticketrail top`, and what it shows.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use ticketrail_tests::cluster::{Program, secs, until};
use tokio::process::{Child, Command};

const WIDTH: usize = 100;
const HEIGHT: usize = 24;
const BLANK: Cell = Cell {
    character: ' ',
    look: Look {
        bold: false,
        dim: false,
        reversed: false,
        colour: None,
    },
};

/// `ticketrail top` in a terminal of its own.
pub(super) struct Terminal {
    pub(super) child: Child,
    keys: File,
    screen: Arc<Mutex<Screen>>,
}

impl Terminal {
    pub(super) fn start(endpoints: &str) -> Self {
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

    pub(super) fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Whether it is on the screen that is not the shell's.
    pub(super) fn is_alternate(&self) -> bool {
        self.screen.lock().unwrap().alternate
    }

    /// What is on the screen now.
    pub(super) fn cells(&self) -> Vec<Vec<Cell>> {
        self.screen.lock().unwrap().cells.clone()
    }

    pub(super) async fn shows(&self, what: &str, shows: impl Fn(&str) -> bool) {
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

/// A place on the screen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) character: char,
    pub(super) look: Look,
}

/// How a place looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Look {
    pub(super) bold: bool,
    pub(super) dim: bool,
    pub(super) reversed: bool,
    /// A number of the terminal's palette.
    pub(super) colour: Option<u8>,
}

impl Look {
    /// Takes one of the sequences that end with `m`.
    fn take(&mut self, numbers: &str) {
        let mut numbers = numbers.split(';').map(|number| number.parse().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                7 => self.reversed = true,
                22 => (self.bold, self.dim) = (false, false),
                27 => self.reversed = false,
                // `38;5;1`: a number of the palette.
                38 => self.colour = numbers.nth(1),
                39 => self.colour = None,
                48 | 58 => drop(numbers.nth(1)),
                _ => {}
            }
        }
    }
}

/// As much of a terminal as the program uses: it writes, moves, clears, changes the look, and switches screens.
struct Screen {
    cells: Vec<Vec<Cell>>,
    look: Look,
    at: (usize, usize),
    rest: Vec<u8>,
    /// It is on the screen that is not the shell's.
    alternate: bool,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            cells: vec![vec![BLANK; WIDTH]; HEIGHT],
            look: Look::default(),
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
                    *cell = Cell {
                        character,
                        look: self.look,
                    };
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
        if let Some(look) = sequence.strip_prefix('[').and_then(|s| s.strip_suffix('m')) {
            self.look.take(look);
        }
        if let Some(place) = sequence.strip_prefix('[').and_then(|s| s.strip_suffix('H')) {
            let mut numbers = place.split(';').map(|n| n.parse().unwrap_or(1_usize) - 1);
            self.at = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        }
    }

    fn text(&self) -> String {
        let line = |line: &Vec<Cell>| {
            let line: String = line.iter().map(|cell| cell.character).collect();
            line.trim_end().to_owned()
        };
        self.cells.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
