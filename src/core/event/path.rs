//! One place in a JSON text, found without a tree of the rest.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What stands behind these names, as JSON; `None` where nothing does, or `null`.
///
/// # Errors
/// The text of the column is not JSON.
pub(super) fn json<'a>(text: &'a str, names: &[String]) -> Result<Option<&'a str>, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = Place(names).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    match found {
        Ok(found) => Ok(found.filter(|found| *found != "null")),
        // Not the parser's own words: they quote the value.
        Err(_) => Err("it is no JSON, and a template names a place in it".to_owned()),
    }
}

/// The same as text: of a string what it says, of anything else its JSON.
pub(super) fn text<'a>(text: &'a str, names: &[String]) -> Result<Option<Cow<'a, str>>, String> {
    let Some(found) = json(text, names)? else {
        return Ok(None);
    };
    if !found.starts_with('"') {
        return Ok(Some(Cow::Borrowed(found)));
    }
    match serde_json::from_str::<String>(found) {
        Ok(text) => Ok(Some(Cow::Owned(text))),
        Err(_) => Err("a text in it holds half a character".to_owned()),
    }
}

/// The value behind the names that are left.
struct Place<'n>(&'n [String]);

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            [] => {
                let raw: &'de RawValue = serde::Deserialize::deserialize(deserializer)?;
                Ok(Some(raw.get()))
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    /// Of members of one name the last counts, as in jsonb.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((name, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(name))? {
            if is_it {
                found = map.next_value_seed(Place(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    /// An element by its number, from 0.
    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let Some((name, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        let wanted: Option<usize> = name.parse().ok();
        let mut found = None;
        let mut at = 0;
        loop {
            if wanted == Some(at) {
                match elements.next_element_seed(Place(rest))? {
                    Some(it) => found = it,
                    None => return Ok(found),
                }
            } else if elements.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a name is this one.
struct Is<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(self.0 == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use serde_json::Value;

    fn names(path: &str) -> Vec<String> {
        path.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn a_place_is_found_with_its_digits_and_its_text() {
        let json_text = r#"{"a":{"b":[1,{"c":"x\n\u00e9"}],"n":12345678901234567890123.50},"z":null,"a2":true}"#;
        let as_json = |path| json(json_text, &names(path)).unwrap();
        assert_eq!(as_json("a.n"), Some("12345678901234567890123.50"));
        assert_eq!(as_json("a.b.0"), Some("1"));
        assert_eq!(as_json("a.b.1.c"), Some(r#""x\n\u00e9""#));
        assert_eq!(text(json_text, &names("a.b.1.c")).unwrap().as_deref(), Some("x\né"));
        assert_eq!(text(json_text, &names("a2")).unwrap().as_deref(), Some("true"));
        for nowhere in ["z", "y", "a.b.2", "a.b.x", "a2.b", "a.n.0", "a.b.1.c.d"] {
            assert_eq!(as_json(nowhere), None, "{nowhere}");
        }
        assert_eq!(json(r#"{"a":1,"a":2}"#, &names("a")).unwrap(), Some("2"));
        for bad in ["", "{", "{} x", r#"{"a":1"#] {
            assert!(json(bad, &names("a")).is_err(), "{bad}");
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[ab0-2]", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_a_tree_has_there(tree in tree(), path in prop::collection::vec("[ab0-2]", 1..4)) {
            let mut expected = Some(&tree);
            for name in &path {
                expected = match expected {
                    Some(Value::Object(object)) => object.get(name),
                    Some(Value::Array(array)) => name.parse::<usize>().ok().and_then(|at| array.get(at)),
                    _ => None,
                };
            }
            let expected = expected.filter(|it| !it.is_null());
            let written = tree.to_string();
            let found = json(&written, &path).unwrap().map(|it| serde_json::from_str::<Value>(it).unwrap());
            prop_assert_eq!(found.as_ref(), expected);
        }
    }
}
