//! A token bucket: so many acts a second, and so many at once after a pause. It counts in billionths of a
//! token, so that no fraction of a whole rate is lost. All times are monotonic.

use std::time::Duration;

/// One token, in billionths.
pub const ONE: i64 = 1_000_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Billionths of a token in a second.
    a_second: i64,
    /// The most billionths of a token that a bucket holds.
    most: i64,
}

impl Rate {
    /// So many tokens a second, in a bucket for `most` tokens.
    pub fn new(a_second: f64, most: f64) -> Self {
        Rate { a_second: billionths(a_second), most: billionths(most) }
    }

    /// A whole number of tokens a second, in a bucket for those of two seconds.
    pub fn whole(a_second: u32) -> Self {
        let a_second = i64::from(a_second) * ONE;
        Rate { a_second, most: 2 * a_second }
    }

    /// How long it takes until so many billionths have come; [`Duration::MAX`] if nothing ever comes.
    pub fn time_of(self, billionths: i64) -> Duration {
        if billionths <= 0 {
            return Duration::ZERO;
        }
        if self.a_second <= 0 {
            return Duration::MAX;
        }
        let nanos = u128::from(billionths.unsigned_abs()) * u128::from(ONE.unsigned_abs());
        let nanos = nanos.div_ceil(u128::from(self.a_second.unsigned_abs()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The billionths in so many tokens.
pub fn billionths(tokens: f64) -> i64 {
    // A conversion from a float saturates, and takes what is not a number for 0.
    (tokens * ONE as f64).round() as i64
}

/// A bucket. Each call says at which rate it fills, because rates change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    /// In billionths of a token; below 0 for tokens that are reserved and have not come yet.
    left: i64,
    filled_at: Duration,
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(rate: Rate, now: Duration) -> Self {
        TokenBucket { left: rate.most, filled_at: now }
    }

    /// An empty bucket.
    pub fn empty(now: Duration) -> Self {
        TokenBucket { left: 0, filled_at: now }
    }

    /// Adds the tokens that have come since it was last filled, as far as it holds them.
    pub fn fill(&mut self, rate: Rate, now: Duration) {
        let passed = i128::try_from(now.saturating_sub(self.filled_at).as_nanos()).unwrap_or(i128::MAX);
        let came = passed.saturating_mul(rate.a_second.into()) / i128::from(ONE);
        let came = i64::try_from(came).unwrap_or(i64::MAX);
        self.left = self.left.saturating_add(came).min(rate.most);
        self.filled_at = self.filled_at.max(now);
    }

    /// Takes one token.
    ///
    /// # Errors
    /// The time until there is one. Nothing was taken.
    pub fn try_take(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.left < ONE {
            return Err(rate.time_of(ONE - self.left));
        }
        self.left -= ONE;
        Ok(())
    }

    /// Takes one token in any case, and returns the time until it has come. All who wait for that long keep
    /// to the rate together.
    pub fn reserve(&mut self, rate: Rate, now: Duration) -> Duration {
        self.fill(rate, now);
        self.left = self.left.saturating_sub(ONE);
        rate.time_of(self.left.saturating_neg())
    }

    /// Takes one token, or the part of one that is there above `floor`. Returns the billionths that it took.
    pub fn take_part(&mut self, floor: i64) -> i64 {
        let taken = self.left.saturating_sub(floor).clamp(0, ONE);
        self.left -= taken;
        taken
    }

    /// Puts billionths back that were not used. What is too much for it is lost when it is filled.
    pub fn give_back(&mut self, billionths: i64) {
        self.left = self.left.saturating_add(billionths);
    }

    /// The billionths in it when it was last filled.
    pub fn left(&self) -> i64 {
        self.left
    }

    /// The billionths between this and a full one.
    pub fn missing(&self, rate: Rate) -> i64 {
        rate.most.saturating_sub(self.left).max(0)
    }

    /// When it was last filled.
    pub fn filled_at(&self) -> Duration {
        self.filled_at
    }
}

#[cfg(test)]
mod tests;
