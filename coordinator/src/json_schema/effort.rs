//! How much work it is to check a value against a schema, counted before it is done.
//!
//! A small schema can ask for endless work: references that fan out at each of sixty-four levels, a list of ten thousand
//! choices for each of a million items. So the way that a validator would go is gone here first, with every choice taken
//! to need all of its branches; the count of steps is an upper bound.

use serde_json::{Map, Value};

use super::shape::References;

/// Steps that one check may take: at most some tenths of a second.
pub const MAX_STEPS: u64 = 2_000_000;
/// Schemas that lie in each other, through members and references, on the way to one value.
const MAX_NESTING: usize = 256;
/// Characters of a text that go by in one step: as such, and while a pattern of one state is looked for.
const CHARS_PER_STEP: u64 = 64;
const PATTERN_CHARS_PER_STEP: u64 = 16;
/// Entries of a list that are looked through in one step.
const ENTRIES_PER_STEP: u64 = 8;

/// It would take too many steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

type Counted = Result<(), TooMuch>;

/// An upper bound of the steps that it takes to check the instance, if that is at most [`MAX_STEPS`].
pub fn steps(schema: &Value, instance: &Value) -> Result<u64, TooMuch> {
    let mut count = Count { references: References::of(schema), left: MAX_STEPS };
    count.visit(schema, instance, 0)?;
    Ok(MAX_STEPS - count.left)
}

struct Count<'a> {
    references: References<'a>,
    left: u64,
}

impl<'a> Count<'a> {
    fn charge(&mut self, steps: u64) -> Counted {
        self.left = self.left.checked_sub(steps).ok_or(TooMuch)?;
        Ok(())
    }

    fn visit(&mut self, schema: &'a Value, instance: &Value, nesting: usize) -> Counted {
        self.charge(1)?;
        let Value::Object(keywords) = schema else { return Ok(()) };
        if nesting > MAX_NESTING {
            return Err(TooMuch);
        }
        // What is unevaluated is found out by evaluating all that stands beside once more.
        let unevaluated = keywords.contains_key("unevaluatedProperties") || keywords.contains_key("unevaluatedItems");
        for _ in 0..1 + usize::from(unevaluated) {
            for (name, value) in keywords {
                self.keyword(name, value, instance, nesting + 1)?;
            }
        }
        Ok(())
    }

    fn keyword(&mut self, name: &str, value: &'a Value, instance: &Value, nesting: usize) -> Counted {
        match (name, value) {
            ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => {
                let target = self.references.target(reference).ok_or(TooMuch)?;
                self.visit(target, instance, nesting)
            }
            ("allOf", Value::Array(all)) => all.iter().try_for_each(|one| self.visit(one, instance, nesting)),
            // Once to see whether they hold, and once more for what is wrong.
            ("anyOf" | "oneOf", Value::Array(all)) => {
                all.iter().chain(all).try_for_each(|one| self.visit(one, instance, nesting))
            }
            ("not" | "if" | "then" | "else", one) => self.visit(one, instance, nesting),
            ("dependentSchemas" | "dependencies", Value::Object(all)) => {
                all.values().try_for_each(|one| self.visit(one, instance, nesting))
            }
            ("enum" | "const" | "required" | "dependentRequired", value) => {
                self.charge(1 + parts(value) / ENTRIES_PER_STEP)
            }
            _ => match instance {
                Value::Object(members) => self.of_object(name, value, members, nesting),
                Value::Array(items) => self.of_array(name, value, items, nesting),
                Value::String(text) => self.of_text(name, value, text),
                Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
            },
        }
    }

    fn of_object(&mut self, name: &str, value: &'a Value, members: &Map<String, Value>, nesting: usize) -> Counted {
        match (name, value) {
            ("properties", Value::Object(properties)) => {
                self.charge(1 + properties.len() as u64 / ENTRIES_PER_STEP)?;
                let mut there = properties.iter().filter_map(|(name, schema)| Some((schema, members.get(name)?)));
                there.try_for_each(|(schema, member)| self.visit(schema, member, nesting))
            }
            ("patternProperties", Value::Object(patterns)) => {
                for (pattern, schema) in patterns {
                    for (name, member) in members {
                        self.charge(matching(pattern, name))?;
                        self.visit(schema, member, nesting)?;
                    }
                }
                Ok(())
            }
            ("additionalProperties" | "unevaluatedProperties", schema) => {
                members.values().try_for_each(|member| self.visit(schema, member, nesting))
            }
            ("propertyNames", schema) => {
                members.keys().try_for_each(|name| self.visit(schema, &Value::String(name.clone()), nesting))
            }
            _ => Ok(()),
        }
    }

    fn of_array(&mut self, name: &str, value: &'a Value, items: &[Value], nesting: usize) -> Counted {
        match (name, value) {
            ("prefixItems" | "items", Value::Array(schemas)) => {
                schemas.iter().zip(items).try_for_each(|(schema, item)| self.visit(schema, item, nesting))
            }
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", schema) => {
                items.iter().try_for_each(|item| self.visit(schema, item, nesting))
            }
            ("uniqueItems", _) => self.charge(items.iter().map(parts).sum()),
            _ => Ok(()),
        }
    }

    fn of_text(&mut self, name: &str, value: &Value, text: &str) -> Counted {
        match (name, value) {
            ("pattern", Value::String(pattern)) => self.charge(matching(pattern, text)),
            ("minLength" | "maxLength" | "format", _) => self.charge(text.len() as u64 / CHARS_PER_STEP),
            _ => Ok(()),
        }
    }
}

/// Values within a value, long texts counted as several.
fn parts(value: &Value) -> u64 {
    match value {
        Value::Array(items) => 1 + items.iter().map(parts).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(parts).sum::<u64>(),
        Value::String(text) => 1 + text.len() as u64 / CHARS_PER_STEP,
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
    }
}

/// Steps that it takes to look for a pattern in a text: every state may be alive at every character.
fn matching(pattern: &str, text: &str) -> u64 {
    1 + states(pattern).saturating_mul(text.len() as u64) / PATTERN_CHARS_PER_STEP
}

/// About how many states a pattern has: its letters and classes, as often as they are repeated.
fn states(pattern: &str) -> u64 {
    // For each open group what is in it, and the last piece, which a repetition is about; first that around all of them.
    let mut open = Vec::new();
    let (mut sum, mut last) = (0_u64, 0_u64);
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '(' => {
                open.push(sum);
                (sum, last) = (0, 0);
            }
            ')' => {
                last = sum;
                sum = sum.saturating_add(open.pop().unwrap_or_default());
            }
            '{' => {
                let bounds: String = std::iter::from_fn(|| letters.next_if(|next| *next != '}')).collect();
                letters.next();
                let most = bounds.split(',').filter_map(|bound| bound.trim().parse::<u64>().ok()).max().unwrap_or(1);
                last = last.saturating_mul(most.max(1));
                sum = sum.saturating_add(last);
            }
            _ => {
                if letter == '\\' {
                    letters.next();
                }
                last = 1;
                sum = sum.saturating_add(1);
            }
        }
    }
    open.into_iter().fold(sum.saturating_add(1), u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usual_checks_are_cheap() {
        let node = json!({"properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}});
        let tree = json!({"$defs": {"node": node}, "$ref": "#/$defs/node"});
        let mut instance = json!({"children": []});
        for _ in 0..29 {
            instance = json!({"children": [instance, {"children": []}]});
        }
        assert!(steps(&tree, &instance).unwrap() < 1_000);
        let row = json!({"type": "object", "required": ["id"], "properties": {
            "id": {"type": "string", "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
            "kind": {"enum": ["a", "b", "c"]}, "amount": {"anyOf": [{"type": "number"}, {"type": "null"}]}}});
        let item = json!({"id": "0192f6c4-7a10-7cc3-98c4-dc0c0c07398f", "kind": "a", "amount": 12.5});
        let found = steps(&json!({"items": row}), &json!(vec![item; 9_000])).unwrap();
        assert!(found > 9_000, "{found}");
    }

    #[test]
    fn what_fans_out_is_found_out() {
        let twice = json!({"allOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/b"}]});
        let mut defs = json!({"z": {"type": "object"}});
        for (letter, next) in ('a'..='z').zip('b'..='z') {
            let text = twice.to_string().replace("/b", &format!("/{next}"));
            defs[letter.to_string()] = serde_json::from_str(&text).unwrap();
        }
        assert_eq!(steps(&json!({"$defs": defs, "$ref": "#/$defs/a"}), &json!({})), Err(TooMuch));
        let both = json!([{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]);
        let mut deep = json!({});
        for _ in 0..60 {
            deep = json!({ "a": deep });
        }
        assert_eq!(steps(&json!({ "anyOf": both }), &deep), Err(TooMuch));
        let choices: Vec<u32> = (0..50_000).collect();
        assert_eq!(steps(&json!({"items": {"enum": choices}}), &json!(vec![-1; 1_000])), Err(TooMuch));
        assert_eq!(steps(&json!({"$ref": "#"}), &json!({})), Err(TooMuch), "round in circles");
    }

    #[test]
    fn states_are_letters_times_repetitions() {
        for (pattern, expected) in [("", 1), ("abc", 4), (r"\w\w", 3), ("a{500}", 502), ("(ab){10}c", 24), (")(", 1)] {
            assert_eq!(states(pattern), expected, "{pattern}");
        }
        assert!(states("((a{500}){500}){500}") > 100_000_000);
        let long = "x".repeat(500_000);
        assert_eq!(steps(&json!({"pattern": "[01]*1[01]{5000}"}), &json!(long)), Err(TooMuch));
        assert!(steps(&json!({"pattern": "^[a-z]+$"}), &json!(long)).unwrap() < MAX_STEPS / 2);
    }
}
