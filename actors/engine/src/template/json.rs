//! JSON as Python writes it, which is what chat templates were trained on.
//!
//! The template engine's own filter escapes what HTML minds; a prompt is not
//! HTML, so exactly that is taken back.

use minijinja::value::Kwargs;
use minijinja::{Error, Value, filters};

/// What the engine's filter writes beyond JSON's own escapes.
const HTML_ESCAPES: [(&str, char); 4] = [
    ("\\u003c", '<'),
    ("\\u003e", '>'),
    ("\\u0026", '&'),
    ("\\u0027", '\''),
];

/// The `tojson` filter, with its `indent`.
pub(super) fn tojson(
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let escaped = filters::tojson(value, indent, options)?;
    let plain = without_html_escapes(escaped.as_str().unwrap_or_default());
    Ok(Value::from_safe_string(plain))
}

fn without_html_escapes(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let found = HTML_ESCAPES
            .iter()
            .find(|(escape, _)| rest.starts_with(escape));
        let length = match found {
            Some((escape, character)) => {
                plain.push(*character);
                escape.len()
            }
            // Any other escape whole, so that an escaped backslash hides what follows it.
            None => {
                plain.push_str(&rest[..2]);
                2
            }
        };
        rest = &rest[length..];
    }
    plain + rest
}
