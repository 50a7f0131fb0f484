//! A page: its blocks of code, each with what the comment before it tells the test.
//!
//! A reader does not see such a comment, `<!-- test: skip it needs a registry -->` for instance, or with a line for each:
//!
//! | in the comment | what it means |
//! | --- | --- |
//! | `skip WHY` | the block is not run; a path in the reason must be that of the test which does it |
//! | `varies numbers` | any number of the output may be another one |
//! | `varies roles` | any node may lead |
//! | `first COMMAND` | a command that runs before, unseen |
//! | `press KEYS` | what is typed into `ticketrail dev` before |
//! | `endless WORD` | a command with this word goes on until it is interrupted |
//! | `banner` | what `ticketrail dev` said when it started |
//! | `said` | what the block of Python before it printed |
//! | `settings` | a part of a node's configuration file |

/// A block of code of a page.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Of its first line, from 1.
    pub(super) line: usize,
    pub(super) language: String,
    pub(super) text: String,
    pub(super) notes: Notes,
}

/// What the comment before a block says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Notes {
    pub(super) skip: Option<String>,
    pub(super) numbers_vary: bool,
    pub(super) roles_vary: bool,
    pub(super) before: Vec<Before>,
    pub(super) endless: Option<String>,
    pub(super) banner: bool,
    pub(super) said: bool,
    pub(super) settings: bool,
}

/// What is done before a block runs.
#[derive(Debug, PartialEq)]
pub(super) enum Before {
    Command(String),
    Press(String),
}

/// A command of a block, and what the page says that it prints.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub(super) command: String,
    pub(super) output: Vec<String>,
}

/// The blocks of a page in their order.
pub(super) fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut notes = None;
    let mut lines = (1..).zip(text.lines());
    while let Some((line, content)) = lines.next() {
        let trimmed = content.trim();
        if let Some(comment) = trimmed.strip_prefix("<!-- test") {
            let mut comment = comment.to_owned();
            while !comment.contains("-->") {
                let (_, more) = lines.next().ok_or("a comment without an end")?;
                comment.push('\n');
                comment.push_str(more);
            }
            let read = Notes::read(comment.split("-->").next().unwrap_or_default());
            notes = Some(read.map_err(|why| format!("line {line}: {why}"))?);
        } else if let Some(language) = trimmed.strip_prefix("```") {
            let mut block = Block {
                line: line + 1,
                language: language.trim().to_owned(),
                notes: notes.take().unwrap_or_default(),
                ..Block::default()
            };
            loop {
                let (_, content) = lines.next().ok_or("a block without an end")?;
                if content.trim() == "```" {
                    break;
                }
                block.text.push_str(content);
                block.text.push('\n');
            }
            blocks.push(block);
        } else if !trimmed.is_empty() && notes.is_some() {
            return Err(format!("line {line}: the comment before is about no block"));
        }
    }
    Ok(blocks)
}

impl Notes {
    fn read(comment: &str) -> Result<Self, String> {
        let mut notes = Self::default();
        for line in comment.trim_start_matches(':').lines().map(str::trim) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (word, rest.trim()) {
                ("", _) => {}
                ("skip", why) if !why.is_empty() => notes.skip = Some(why.to_owned()),
                ("varies", what) => {
                    for what in what.split_whitespace() {
                        match what {
                            "numbers" => notes.numbers_vary = true,
                            "roles" => notes.roles_vary = true,
                            _ => return Err(format!("`{what}` cannot vary")),
                        }
                    }
                }
                ("first", command) => notes.before.push(Before::Command(command.to_owned())),
                ("press", keys) => notes.before.push(Before::Press(keys.to_owned())),
                ("endless", word) if !word.is_empty() => notes.endless = Some(word.to_owned()),
                ("banner", "") => notes.banner = true,
                ("said", "") => notes.said = true,
                ("settings", "") => notes.settings = true,
                _ => return Err(format!("`{line}` says nothing to the test")),
            }
        }
        Ok(notes)
    }
}

impl Block {
    /// The commands of a `console` block; a line that ends with a backslash goes on in the next one.
    pub(super) fn steps(&self) -> Result<Vec<Step>, String> {
        let mut steps: Vec<Step> = Vec::new();
        let mut goes_on = false;
        for line in self.text.lines() {
            if let Some(step) = steps.last_mut().filter(|_| goes_on) {
                step.command.push('\n');
                step.command.push_str(line);
                goes_on = line.ends_with('\\');
            } else if let Some(command) = line.strip_prefix("$ ") {
                goes_on = command.ends_with('\\');
                steps.push(Step {
                    command: command.to_owned(),
                    output: Vec::new(),
                });
            } else {
                let step = steps.last_mut().ok_or("it begins without a command")?;
                step.output.push(line.to_owned());
            }
        }
        Ok(steps)
    }
}

#[test]
fn a_page_is_read() {
    let page = "text\n<!-- test: skip it is slow -->\n\n```console\n$ a \\\n  b\nout\n$ c\n```\n\
                <!-- test\nvaries numbers roles\npress k 3\nfirst d e\n-->\n```text\nx\n```\n";
    let blocks = blocks(page).unwrap();
    assert_eq!(blocks[0].notes.skip.as_deref(), Some("it is slow"));
    assert_eq!(
        (blocks[0].line, blocks[0].language.as_str()),
        (5, "console")
    );
    let steps = blocks[0].steps().unwrap();
    assert_eq!(steps[0].command, "a \\\n  b");
    assert_eq!(steps[0].output, ["out"]);
    assert_eq!(steps[1].output, [""; 0]);
    let notes = &blocks[1].notes;
    assert!(notes.numbers_vary && notes.roles_vary && notes.skip.is_none());
    let before = [
        Before::Press("k 3".to_owned()),
        Before::Command("d e".to_owned()),
    ];
    assert_eq!(notes.before, before);
}

#[test]
fn a_comment_that_says_nothing_is_an_error() {
    for page in [
        "<!-- test: skip -->\n```console\n$ a\n```\n",
        "<!-- test: skpi x -->\n```console\n$ a\n```\n",
        "<!-- test: varies words -->\n```console\n$ a\n```\n",
        "<!-- test: skip x -->\nnot a block\n",
        "```console\n$ a\n",
    ] {
        assert!(blocks(page).is_err(), "{page}");
    }
}
