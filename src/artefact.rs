//! Things that identities are made of.

use serde_json::Value;

/// JSON with the keys of every object in ascending order and no blanks, so that equal values have equal texts, whatever
/// order they were put together in.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let fields =
                fields.into_iter().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_in_order_at_every_depth() {
        let value = json!({"b": [{"z": 1, "a": "\"é\n"}, null], "a": {"d": 0.1, "c": false}});
        assert_eq!(canonical(&value), r#"{"a":{"c":false,"d":0.1},"b":[{"a":"\"é\n","z":1},null]}"#);
    }
}
