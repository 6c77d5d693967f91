//! Times come in as values: there is no clock here.

use core::{fmt, time::Duration};
use x509::x509_cert::{
    der::DateTime,
    time::{Time, Validity},
};

/// Seconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl From<Time> for UnixTime {
    fn from(time: Time) -> Self {
        Self(time.to_unix_duration().as_secs())
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => date.fmt(f),
            // Beyond the year 9999.
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

/// From when to when something is valid, both included (RFC 5280, section 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The first second.
    pub from: UnixTime,
    /// The last second.
    pub until: UnixTime,
}

impl Period {
    /// The validity of a certificate.
    pub(crate) fn of(validity: &Validity) -> Self {
        Self {
            from: validity.not_before.into(),
            until: validity.not_after.into(),
        }
    }

    /// Refuses a time outside.
    ///
    /// # Errors
    /// `now` is before or after.
    pub fn check(self, now: UnixTime) -> Result<(), OutOfDate> {
        if now < self.from {
            return Err(OutOfDate::Early {
                from: self.from,
                now,
            });
        }
        if now > self.until {
            return Err(OutOfDate::Late {
                until: self.until,
                now,
            });
        }
        Ok(())
    }
}

/// Something is not valid now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfDate {
    /// It is not valid yet.
    #[error("valid from {from}, and it is {now}")]
    Early {
        /// When it starts to be.
        from: UnixTime,
        /// What time it is.
        now: UnixTime,
    },
    /// It is not valid any more.
    #[error("valid until {until}, and it is {now}")]
    Late {
        /// When it was last.
        until: UnixTime,
        /// What time it is.
        now: UnixTime,
    },
}
