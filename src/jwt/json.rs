//! Strict JSON: repeated keys and bytes after the end are refused.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use zeroize::Zeroize;

/// Most members of one object. Each makes the search for the next longer.
const MAX_MEMBERS: usize = 1024;

/// A JSON object without repeated keys at any depth. Its strings are wiped when dropped.
pub struct Object(pub Map<String, Value>);

impl Object {
    /// Parses bytes that are exactly one JSON object. `Err` says in our words what is wrong.
    ///
    /// # Errors
    /// It is no JSON, no object, has a key twice, or more than 1,024 members.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Strict>(bytes) {
            Ok(Strict(Value::Object(map))) => Ok(Object(map)),
            Ok(Strict(mut other)) => {
                wipe(&mut other);
                Err("it is JSON, but not an object".to_owned())
            }
            Err(error) => {
                // serde_json's message could quote a secret; the position and our own words are enough.
                let text = error.to_string();
                let ours = [REPEATED_KEY, TOO_MANY_MEMBERS].into_iter().find(|words| text.starts_with(words));
                Err(ours.map(str::to_owned).unwrap_or_else(|| {
                    format!("it is not JSON at line {} column {}", error.line(), error.column())
                }))
            }
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

/// Wipes every string in a value.
pub fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

const REPEATED_KEY: &str = "a key stands twice";
const TOO_MANY_MEMBERS: &str = "an object has more than 1,024 members";

/// Any JSON value without repeated keys. `serde_json` alone takes the last of them, and other parsers the
/// first.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.len() == MAX_MEMBERS {
                return Err(serde::de::Error::custom(TOO_MANY_MEMBERS));
            }
            if map.contains_key(&key) {
                return Err(serde::de::Error::custom(REPEATED_KEY));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_only_so_many_members() {
        let object = |count: usize| {
            let members: Vec<String> = (0..count).map(|at| format!(r#""m{at}":0"#)).collect();
            format!(r#"{{"within":{{{}}}}}"#, members.join(","))
        };
        assert!(Object::parse(object(MAX_MEMBERS).as_bytes()).is_ok());
        let why = Object::parse(object(MAX_MEMBERS + 1).as_bytes()).err();
        assert_eq!(why.as_deref(), Some(TOO_MANY_MEMBERS));
    }
}
