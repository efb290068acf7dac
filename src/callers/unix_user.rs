//! Users of this machine, by name or number.

/// A user of this machine, as the kernel reports the peer of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnixUser {
    /// The user's number.
    pub uid: u32,
}

/// Error: there is no such user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no user `{name}` on this machine")]
pub struct UnknownUnixUser {
    /// The name or number asked for.
    pub name: String,
}

impl UnixUser {
    /// Parses a user's number, or looks a name up in `passwd`, the text of `/etc/passwd` (passwd(5)).
    ///
    /// # Errors
    /// [`UnknownUnixUser`] if the name has no line there, or its line no number.
    pub fn resolve(user: &str, passwd: &str) -> Result<Self, UnknownUnixUser> {
        let found = number(user).or_else(|| {
            passwd
                .lines()
                .map(|line| line.split(':'))
                .find_map(|mut fields| (fields.next() == Some(user)).then_some(fields))
                .and_then(|mut fields| number(fields.nth(1)?))
        });
        found
            .filter(|_| !user.is_empty())
            .map(|uid| UnixUser { uid })
            .ok_or_else(|| UnknownUnixUser { name: user.to_owned() })
    }
}

/// Parses a user's number. The largest number means "no user" to the kernel (chown(2)), so it is refused.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|uid| digits && *uid != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # comment\n\
        \n\
        broken\n\
        odd:x:many:0::/:/bin/sh\n\
        :x:5:5::/:\n\
        mail-sync:x:1042:1042:Mail,,,:/:/usr/sbin/nologin\n\
        mail:x:8:8::/:\n";

    #[test]
    fn names_and_numbers_are_users() {
        for (user, uid) in [("root", 0), ("mail-sync", 1042), ("mail", 8), ("4711", 4711), ("0", 0)] {
            assert_eq!(UnixUser::resolve(user, PASSWD), Ok(UnixUser { uid }), "{user}");
        }
    }

    #[test]
    fn what_is_no_user_is_refused_by_name() {
        for user in ["", "sync", "broken", "odd", "-1", "+1", "4294967295", "4294967296", "# comment", "x"] {
            let error = UnixUser::resolve(user, PASSWD).expect_err(user);
            assert!(error.to_string().contains(&format!("`{user}`")), "{error}");
        }
    }
}
