//! What `vmm/docs/api.json` says, and whether an answer is one of those.
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

use crate::http::{Answer, send};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.json");

/// The file, and which of its answers have been seen.
pub(crate) struct Contract {
    pub(crate) file: Value,
    seen: Mutex<BTreeSet<String>>,
}

/// One documented operation.
pub(crate) struct Operation {
    pub(crate) path: String,
    /// In capitals.
    pub(crate) method: String,
    pub(crate) value: Value,
}

/// The file's.
pub(crate) fn contract() -> &'static Contract {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    CONTRACT.get_or_init(|| Contract {
        file: serde_json::from_str(&std::fs::read_to_string(FILE).expect("the file is there"))
            .expect("the file is JSON"),
        seen: Mutex::default(),
    })
}

/// Sends a request, and checks that the answer is a documented one.
#[track_caller]
pub(crate) fn ask(socket: &Path, method: &str, path: &str, body: &[u8]) -> Answer {
    let answer = send(socket, method, path, body);
    contract().check(method, path, &answer);
    answer
}

/// The same, of a body that is JSON, and with the status that there has to be.
#[track_caller]
pub(crate) fn put(socket: &Path, path: &str, body: Value, status: u16) -> Value {
    let answer = ask(socket, "PUT", path, body.to_string().as_bytes());
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "PUT {path} {body}: {text}");
    match answer.body.is_empty() {
        true => Value::Null,
        false => answer.json(),
    }
}

/// The answer to a `GET`, which has to be 200.
#[track_caller]
pub(crate) fn get(socket: &Path, path: &str) -> Value {
    let answer = ask(socket, "GET", path, b"");
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 200, "GET {path}: {text}");
    answer.json()
}

impl Contract {
    /// All that is documented.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let paths = self.file["paths"].as_object().expect("paths");
        let each = paths.iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods");
            methods.iter().map(move |(method, value)| Operation {
                path: path.clone(),
                method: method.to_uppercase(),
                value: value.clone(),
            })
        });
        each.collect()
    }

    /// What a reference stands for.
    pub(crate) fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').expect("of this file");
                let there = self.file.pointer(pointer);
                there.unwrap_or_else(|| panic!("{reference} leads nowhere"))
            }
            None => value,
        }
    }

    /// Panics unless this is a documented answer to the request.
    #[track_caller]
    pub(crate) fn check(&self, method: &str, path: &str, answer: &Answer) {
        let what = format!("{method} {path}: {}", answer.status);
        let bare = path.split('?').next().expect("a first part");
        let operation = &self.file["paths"][bare][method.to_lowercase()];
        assert!(operation.is_object(), "{what}: no such operation");
        let responses = &operation["responses"];
        let response = &responses[answer.status.to_string()];
        assert!(
            response.is_object(),
            "{what} is not documented: {}",
            text(answer)
        );
        let content = self.resolved(response)["content"].as_object();
        let Some(content) = content else {
            assert!(answer.body.is_empty(), "{what}: {}", text(answer));
            return self.saw(bare, method, answer.status);
        };
        let kind = answer.header("content-type").unwrap_or_default();
        let documented = content.get(kind);
        let schema = documented.unwrap_or_else(|| panic!("{what}: of type {kind}"));
        if kind == "application/json" {
            self.validate(&schema["schema"], &answer.json(), &what);
        }
        self.saw(bare, method, answer.status);
    }

    fn saw(&self, path: &str, method: &str, status: u16) {
        let mut seen = self.seen.lock().unwrap();
        seen.insert(format!("{method} {path} {status}"));
    }

    #[track_caller]
    fn validate(&self, schema: &Value, value: &Value, what: &str) {
        let mut whole = schema.clone();
        whole["components"] = self.file["components"].clone();
        let validator = jsonschema::draft202012::new(&whole).expect("a schema");
        let errors: Vec<_> = validator
            .iter_errors(value)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:?}: {value}");
    }

    /// Documented answers that no test of this run has seen.
    pub(crate) fn unseen(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let mut unseen = Vec::new();
        for Operation {
            path,
            method,
            value,
        } in self.operations()
        {
            let responses = value["responses"].as_object().expect("responses");
            for status in responses.keys() {
                let one = format!("{method} {path} {status}");
                if !seen.contains(&one) {
                    unseen.push(one);
                }
            }
        }
        unseen
    }

    /// The schema of an operation's body.
    pub(crate) fn body_schema(&self, operation: &Operation) -> Option<&Value> {
        let body = self.file["paths"][&operation.path][operation.method.to_lowercase()]
            .get("requestBody")?;
        let schema = &body["content"]["application/json"]["schema"];
        Some(self.resolved(schema))
    }
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// A body that cannot be, made of one that can: what is wrong with it, and the body.
pub(crate) fn spoiled(schema: &Value, good: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |what: String, body: &Value| all.push((what, body.to_string()));
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    add(
        "a field that is not described".into(),
        &with("nonsense", json!(1)),
    );
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().expect("a name");
        let mut body = good.clone();
        body.as_object_mut().expect("an object").remove(name);
        add(format!("without {name}"), &body);
    }
    let properties = schema["properties"].as_object().expect("properties");
    for (name, property) in properties
        .iter()
        .filter(|(name, _)| good.get(name).is_some())
    {
        let property = contract().resolved(property);
        let types = property["type"].to_string();
        let mut wrong = vec![json!({}), json!([1])];
        if types.contains("integer") {
            wrong.extend([json!("1"), json!(-1), json!(1.5), json!(true)]);
            let above = |by: u64| property["maximum"].as_u64().map(|most| most + by);
            wrong.extend(above(1).map(|above| json!(above)));
            let below = property["minimum"]
                .as_u64()
                .and_then(|least| least.checked_sub(1));
            wrong.extend(below.map(|below| json!(below)));
            wrong.push(serde_json::from_str("36893488147419103232").expect("a number"));
        } else if types.contains("string") {
            wrong.extend([json!(1), json!(false)]);
            if let Some(most) = property["maxLength"].as_u64() {
                wrong.push(json!("x".repeat(most as usize + 1)));
                wrong.push(json!(""));
            }
            if property["pattern"].is_string() {
                wrong.extend(["a b", "a/b", "ä", "a\n"].map(|bad| json!(bad)));
            }
            if property["enum"].is_array() {
                wrong.push(json!("nonsense"));
            }
        } else {
            wrong.extend([json!(1), json!("true"), json!(null)]);
        }
        for value in wrong {
            let what = format!("{name} is {value}");
            add(what, &with(name, value));
        }
    }
    for other in [json!([]), json!(null), json!(1), json!("x"), json!([good])] {
        add(format!("{other}"), &other);
    }
    let text = good.to_string();
    let cut = &text[..text.len() - 1];
    let twice = format!("{cut},{}", text.get(1..).unwrap_or_default());
    for (what, body) in [
        ("cut short", cut.to_owned()),
        ("more behind it", format!("{text} {text}")),
        ("no JSON", "size=1".to_owned()),
        ("no UTF-8", "{\"size\": \u{0}}".to_owned()),
        ("too deep", "[".repeat(60_000)),
    ] {
        all.push((what.to_owned(), body));
    }
    // An empty object has no field to be there twice.
    if text != "{}" {
        all.push(("a field twice".to_owned(), twice));
    }
    all
}
