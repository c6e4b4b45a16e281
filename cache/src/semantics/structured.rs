//! A structured field's dictionary (RFC 9651 section 3.2), as far as cache directives need it: all of the grammar is
//! checked, since a field with a fault anywhere is no field; values other than those that directives have are dropped.

/// A member's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// An integer or its like that is no directive's: decimals, tokens, bytes, lists.
    Other,
    Integer(i64),
    String(String),
    True,
}

/// The members in their order; a name that comes twice has its last value. None for what is no dictionary.
pub(super) fn dictionary(text: &str) -> Option<Vec<(String, Value)>> {
    let mut rest = Rest(text.trim_matches(' ').as_bytes());
    let mut members: Vec<(String, Value)> = Vec::new();
    while !rest.0.is_empty() {
        let name = rest.key()?;
        let value = if rest.take(b'=') { rest.item_or_list()? } else { Value::True };
        rest.parameters()?;
        members.retain(|(known, _)| *known != name);
        members.push((name, value));
        rest.skip(b" \t");
        if rest.0.is_empty() {
            return Some(members);
        }
        if !rest.take(b',') {
            return None;
        }
        rest.skip(b" \t");
        // A comma that nothing follows.
        if rest.0.is_empty() {
            return None;
        }
    }
    Some(members)
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn skip(&mut self, bytes: &[u8]) {
        self.run(|b| bytes.contains(&b));
    }

    /// As long as `admitted`.
    fn run(&mut self, admitted: impl Fn(u8) -> bool) -> String {
        let length = self.0.iter().take_while(|b| admitted(**b)).count();
        let (run, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8_lossy(run).into_owned()
    }

    fn key(&mut self) -> Option<String> {
        let first = *self.0.first()?;
        let is_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b);
        (first.is_ascii_lowercase() || first == b'*').then(|| self.run(is_key))
    }

    fn item_or_list(&mut self) -> Option<Value> {
        if !self.take(b'(') {
            return self.bare_item();
        }
        loop {
            self.skip(b" ");
            if self.take(b')') {
                return Some(Value::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            if !matches!(self.0.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.skip(b" ");
            self.key()?;
            if self.take(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn bare_item(&mut self) -> Option<Value> {
        match *self.0.first()? {
            b'"' => self.string(),
            b'?' => {
                self.take(b'?');
                if self.take(b'1') {
                    return Some(Value::True);
                }
                self.take(b'0').then_some(Value::Other)
            }
            b':' => {
                self.take(b':');
                self.run(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
                self.take(b':').then_some(Value::Other)
            }
            b'-' | b'0'..=b'9' => self.number(),
            first if first.is_ascii_alphabetic() || first == b'*' => {
                self.run(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b));
                Some(Value::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        let negative = self.take(b'-');
        let digits = self.run(|b| b.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        if self.take(b'.') {
            let fraction = self.run(|b| b.is_ascii_digit());
            return (digits.len() <= 12 && (1..=3).contains(&fraction.len())).then_some(Value::Other);
        }
        let number: i64 = digits.parse().ok()?;
        Some(Value::Integer(if negative { -number } else { number }))
    }

    fn string(&mut self) -> Option<Value> {
        self.take(b'"');
        let mut text = String::new();
        loop {
            let byte = *self.0.first()?;
            self.0 = &self.0[1..];
            match byte {
                b'"' => return Some(Value::String(text)),
                b'\\' => {
                    let escaped = *self.0.first().filter(|b| b"\"\\".contains(b))?;
                    self.0 = &self.0[1..];
                    text.push(escaped.into());
                }
                0x20..=0x7e => text.push(byte.into()),
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read() {
        let read = dictionary(
            "max-age=60, no-store, private=\"a, \\\"b\\\"\" , a=1.5;x=2, b=(1 \"x\" t);y, c=:aGk=:, max-age=3",
        );
        let expected = [
            ("no-store", Value::True),
            ("private", Value::String("a, \"b\"".to_owned())),
            ("a", Value::Other),
            ("b", Value::Other),
            ("c", Value::Other),
            ("max-age", Value::Integer(3)),
        ];
        assert_eq!(read, Some(expected.map(|(name, value)| (name.to_owned(), value)).to_vec()));
        assert_eq!(dictionary("a=?0, b=?1").unwrap()[1].1, Value::True);
        assert_eq!(dictionary(""), Some(Vec::new()));
    }

    #[test]
    fn a_fault_anywhere_spoils_it() {
        for text in
            ["max-age=1, &&&", "MaX-age=1", "a =1", "a= 1", "a,", "a,,b", "a=\"x", "a=(1", "a=1 b", "a=-", "a=?2"]
        {
            assert_eq!(dictionary(text), None, "{text}");
        }
    }
}
