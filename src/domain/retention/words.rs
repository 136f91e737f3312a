//! The words for kinds and scopes, as envelopes, commands and refusals write them.
//!
//! Spelling only: what the words mean is the record's to say.

use std::fmt;
use std::str::FromStr;

use super::record::{Kind, Scope};

impl Kind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::System => "system",
            Self::Tools => "tools",
            Self::Conversation => "conversation",
            Self::ToolResult => "tool_result",
            Self::Reasoning => "reasoning",
            Self::Subagent => "subagent",
            Self::Output => "output",
        }
    }
}

impl Scope {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Project => "project",
            Self::Session => "session",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == word);
        found.ok_or_else(|| no_such("kind", word, &Self::ALL.map(Self::name)))
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.name() == word);
        found.ok_or_else(|| no_such("scope", word, &Self::ALL.map(Self::name)))
    }
}

/// What to say of a word that names nothing. The word may be anybody's: little of it is shown.
fn no_such(what: &str, word: &str, words: &[&str]) -> String {
    let shown: String = word.chars().take(40).collect();
    format!("there is no {what} `{shown}`: use {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back_and_others_are_refused_with_those_there_are() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
        }
        let said = "toolresult".parse::<Kind>().unwrap_err();
        assert!(said.starts_with("there is no kind `toolresult`: use unknown, system,"), "{said}");
        let said = "x".repeat(1000).parse::<Scope>().unwrap_err();
        assert!(said.len() < 100 && said.ends_with("use global, project, session"), "{said}");
    }
}
