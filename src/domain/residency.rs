//! The life of one copy of a block in one tier, as a table.
//!
//! ```text
//!            FillStarted            FillLanded
//!   Absent ------------> Filling -------------> Resident <----+
//!     ^ ^                   |                      |  |       | DrainFailed
//!     | +---- FillFailed ---+                      |  +----> Draining
//!     +------------------ Dropped -----------------+             |
//!     +------------------ Dropped -------------------------------+
//! ```
//! A draining copy is still served: its bytes are right until they are dropped.

/// Where one copy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CopyState {
    #[default]
    Absent,
    /// Bytes are on their way in; nobody may read them.
    Filling,
    /// The bytes are committed.
    Resident,
    /// Committed, and being copied to a lower tier so that this copy can go.
    Draining,
}

/// What can happen to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyEvent {
    FillStarted,
    FillLanded,
    FillFailed,
    DrainStarted,
    DrainFailed,
    Dropped,
}

impl CopyState {
    /// Whether readers may be sent to a copy in this state.
    #[must_use]
    pub const fn is_readable(self) -> bool {
        matches!(self, Self::Resident | Self::Draining)
    }

    /// Whether a copy in this state is here or coming, and not on its way out.
    #[must_use]
    pub const fn stays(self) -> bool {
        matches!(self, Self::Filling | Self::Resident)
    }

    /// The state after `event`, or nothing if the pair is illegal: the caller reports it.
    #[must_use]
    pub const fn after(self, event: CopyEvent) -> Option<Self> {
        use CopyEvent as E;
        match (self, event) {
            (Self::Absent, E::FillStarted) => Some(Self::Filling),
            (Self::Filling, E::FillLanded) | (Self::Draining, E::DrainFailed) => {
                Some(Self::Resident)
            }
            (Self::Filling, E::FillFailed) | (Self::Resident | Self::Draining, E::Dropped) => {
                Some(Self::Absent)
            }
            (Self::Resident, E::DrainStarted) => Some(Self::Draining),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CopyEvent as E;
    use CopyState as S;

    #[test]
    fn every_pair_is_decided() {
        let states = [S::Absent, S::Filling, S::Resident, S::Draining];
        let events = [
            E::FillStarted,
            E::FillLanded,
            E::FillFailed,
            E::DrainStarted,
            E::DrainFailed,
            E::Dropped,
        ];
        let table: Vec<String> = states
            .iter()
            .flat_map(|state| events.iter().map(move |event| (state, event)))
            .filter_map(|(state, event)| {
                state.after(*event).map(|next| format!("{state:?} + {event:?} -> {next:?}"))
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        Absent + FillStarted -> Filling
        Filling + FillLanded -> Resident
        Filling + FillFailed -> Absent
        Resident + DrainStarted -> Draining
        Resident + Dropped -> Absent
        Draining + DrainFailed -> Resident
        Draining + Dropped -> Absent
        ");
    }
}
