//! Reads a Rust file as far as the rules need: its code without comments and literals, and the
//! paths it names, with `use` groups spelled out.
//!
//! Never a parser: it knows no grammar beyond paths, and takes macros as it finds them.

/// A file of the repository: its path from the root, with `/` between the parts, and its text.
pub struct SourceFile {
    pub path: String,
    pub text: String,
}

/// A path as the code names it, `std::collections::HashMap` say, and the line where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPath {
    pub line: usize,
    pub path: String,
}

impl SourceFile {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub fn is_rust(&self) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, extension)| extension == "rs")
    }

    /// The text with comments and literals blanked out; lines stay where they are.
    pub fn code(&self) -> String {
        Blanker { rest: self.text.chars().collect(), at: 0, out: String::new() }.run()
    }

    /// Every path that the code names.
    pub fn paths(&self) -> Vec<NamedPath> {
        paths_of(&tokens(&self.code()))
    }
}

struct Blanker {
    rest: Vec<char>,
    at: usize,
    out: String,
}

impl Blanker {
    fn run(mut self) -> String {
        while let Some(c) = self.peek(0) {
            match c {
                '/' if self.peek(1) == Some('/') => self.blank_while(|c| c != '\n'),
                '/' if self.peek(1) == Some('*') => self.block_comment(),
                '"' => self.string(),
                'r' if self.raw_hashes().is_some() && !self.follows_word() => self.raw_string(),
                '\'' => self.quote(),
                _ => self.keep(),
            }
        }
        self.out
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn keep(&mut self) {
        self.out.push(self.rest[self.at]);
        self.at += 1;
    }

    fn blank(&mut self) {
        self.out.push(if self.rest[self.at] == '\n' { '\n' } else { ' ' });
        self.at += 1;
    }

    fn blank_while(&mut self, keep_on: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&keep_on) {
            self.blank();
        }
    }

    fn blank_count(&mut self, count: usize) {
        for _ in 0..count.min(self.rest.len() - self.at) {
            self.blank();
        }
    }

    fn follows_word(&self) -> bool {
        // `br"..."` is a raw string too; `for"..."` is not Rust, so `b` alone is let through.
        let before: Vec<char> = self.rest[..self.at].iter().rev().take(2).copied().collect();
        let word = |c: &char| c.is_alphanumeric() || *c == '_';
        match before.as_slice() {
            ['b', second] => word(second),
            [first, ..] => word(first),
            [] => false,
        }
    }

    /// After an `r`: how many `#` stand before the quote, if it opens a raw string.
    fn raw_hashes(&self) -> Option<usize> {
        let hashes = self.rest[self.at + 1..].iter().take_while(|c| **c == '#').count();
        (self.peek(1 + hashes) == Some('"')).then_some(hashes)
    }

    fn raw_string(&mut self) {
        let hashes = self.raw_hashes().unwrap_or(0);
        self.blank_count(hashes + 2);
        while self.at < self.rest.len() {
            let closes =
                self.peek(0) == Some('"') && (1..=hashes).all(|n| self.peek(n) == Some('#'));
            self.blank();
            if closes {
                return self.blank_count(hashes);
            }
        }
    }

    fn string(&mut self) {
        self.blank();
        while let Some(c) = self.peek(0) {
            self.blank_count(if c == '\\' { 2 } else { 1 });
            if c == '"' {
                return;
            }
        }
    }

    /// A character literal is blanked; a lifetime is kept.
    fn quote(&mut self) {
        if self.peek(1) == Some('\\') {
            self.blank_count(3);
            self.blank_while(|c| c != '\'');
            self.blank_count(1);
        } else if self.peek(2) == Some('\'') {
            self.blank_count(3);
        } else {
            self.keep();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.rest.len() {
            let step: i32 = match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => 1,
                (Some('*'), Some('/')) => -1,
                _ => 0,
            };
            depth += step;
            self.blank_count(if step == 0 { 1 } else { 2 });
            if depth == 0 {
                return;
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Colons,
    Other(char),
}

fn tokens(code: &str) -> Vec<(usize, Token)> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let (token, bytes) = if c.is_alphabetic() || c == '_' {
                let end =
                    rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                (Some(Token::Word(rest[..end].to_owned())), end)
            } else if rest.starts_with("::") {
                (Some(Token::Colons), 2)
            } else {
                ((!c.is_whitespace()).then_some(Token::Other(c)), c.len_utf8())
            };
            found.extend(token.map(|token| (index + 1, token)));
            rest = &rest[bytes..];
        }
    }
    found
}

fn paths_of(tokens: &[(usize, Token)]) -> Vec<NamedPath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts = matches!(tokens[at].1, Token::Word(_));
        at = if starts { path(tokens, at, "", &mut found) } else { at + 1 };
    }
    found
}

/// Reads the path that starts at `at`, below `prefix`; returns where it ends.
fn path(
    tokens: &[(usize, Token)],
    mut at: usize,
    prefix: &str,
    found: &mut Vec<NamedPath>,
) -> usize {
    let mut so_far = prefix.to_owned();
    let line = tokens[at].0;
    while let Some((_, Token::Word(word))) = tokens.get(at) {
        if !so_far.is_empty() {
            so_far.push_str("::");
        }
        so_far.push_str(word);
        at += 1;
        if tokens.get(at).map(|(_, token)| token) != Some(&Token::Colons) {
            break;
        }
        at += 1;
        if matches!(tokens.get(at), Some((_, Token::Other('{')))) {
            return group(tokens, at + 1, &so_far, found);
        }
    }
    found.push(NamedPath { line, path: so_far });
    at
}

fn group(
    tokens: &[(usize, Token)],
    mut at: usize,
    prefix: &str,
    found: &mut Vec<NamedPath>,
) -> usize {
    while let Some((_, token)) = tokens.get(at) {
        match token {
            Token::Word(_) => at = path(tokens, at, prefix, found),
            Token::Other('}') => return at + 1,
            _ => at += 1,
        }
    }
    at
}
