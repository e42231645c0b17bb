//! Forms: the fields of a request message by their names, as browsers and `curl -F` send them, and files.
//!
//! Lives here: `application/x-www-form-urlencoded`, what a named text or a file is to a message, uploads into `google.api.HttpBody`. Does not: the parts of
//! `multipart/form-data` (the gateway's), JSON (`codec`).
//! A name is that of a query parameter: JSON names or proto names joined by dots, from where a JSON body would begin. A name again is a further element of a
//! list; of a boolean the last one counts, as pages want it that put a hidden `false` before a checkbox; anything else is there once. What no field is
//! called is treated as in a JSON body. A file is the bytes of a field, not their base64. Values go through the JSON decoder, so a form accepts what JSON
//! accepts as a string.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{BindError, Bindings, RequestParts, escape, text};
use crate::codec::decode::Decoder;
use crate::codec::json::{Fault, Reader};
use crate::codec::well_known::WellKnown;
use crate::codec::{Codec, Elements, mask::Paths, raw};
use crate::plan::{Body, MethodPlan};
use crate::settings::Unknown;
use crate::types::{Cardinality, Field, Kind, MessageType, TypeId};
use crate::wire;

/// Fields of a form, and files; more are refused: each costs more memory than the bytes that name it.
const MOST_FIELDS: usize = 1000;
/// Steps of a name.
const MOST_STEPS: usize = 32;

/// A form while it arrives.
#[derive(Debug)]
pub struct Form {
    codec: Codec,
    plan: Arc<MethodPlan>,
    root: Root,
    entries: Vec<Entry>,
    /// Where in `entries` a field is.
    places: HashMap<Path, usize>,
    /// Which member of a oneof there is, by the message and the oneof in it.
    oneofs: HashMap<(Path, u32), u32>,
    /// The message of the one file, where the body is raw.
    upload: Option<Vec<u8>>,
    count: usize,
}

/// Indexes of fields, from the root down.
type Path = Vec<u32>;

/// Which message the names begin in.
#[derive(Debug, Clone, Copy)]
enum Root {
    Message(TypeId),
    /// None: the body is raw, and the whole message.
    Nothing,
}

#[derive(Debug)]
struct Entry {
    path: Path,
    /// The field's key and value, as often as it was named.
    wire: Vec<u8>,
    /// Whether a text that it was given was ignored.
    dropped: bool,
}

/// What a name leads to.
struct Named<'t> {
    path: Path,
    field: &'t Field,
}

impl Form {
    /// Returns an empty form for a call of `plan`.
    ///
    /// # Errors
    /// `BindError` with status 415 if the body of the binding is none that a form can be.
    pub fn new(codec: &Codec, plan: &Arc<MethodPlan>) -> Result<Self, BindError> {
        let method = plan.method();
        let root = match plan.body() {
            Body::None => None,
            Body::Whole if plan.takes_raw_body() => Some(Root::Nothing),
            Body::Field(_) if plan.takes_raw_body() => Some(Root::Message(method.input_type)),
            Body::Whole => Some(Root::Message(method.input_type)),
            Body::Field(field) => match method.types.get(method.input_type).by_number(field.number()) {
                Some(Field { kind: Kind::Message(id) | Kind::Group(id), cardinality: Cardinality::One, .. }) => {
                    Some(Root::Message(*id))
                }
                _ => None,
            },
        };
        let has_fields = |id: TypeId| method.types.get(id).well_known.is_none();
        let root = root.filter(|root| match root {
            Root::Message(id) => has_fields(*id),
            Root::Nothing => true,
        });
        // A stream of messages is a stream of bytes or no form.
        let root = root.filter(|_| !method.streaming().client() || plan.takes_raw_body());
        let root = root.ok_or_else(|| BindError {
            http_status: 415,
            ..BindError::invalid(format!("the body of {} cannot be a form; send application/json", method.full_name()))
        })?;
        Ok(Self {
            codec: codec.clone(),
            plan: Arc::clone(plan),
            root,
            entries: Vec::new(),
            places: HashMap::new(),
            oneofs: HashMap::new(),
            upload: None,
            count: 0,
        })
    }

    /// Takes a body of type `application/x-www-form-urlencoded`.
    ///
    /// # Errors
    /// As `text`.
    pub fn urlencoded(&mut self, body: &[u8]) -> Result<(), BindError> {
        let body = std::str::from_utf8(body).map_err(|_| BindError::field("body", "a form is ASCII, with escapes"))?;
        for pair in body.split('&').filter(|it| !it.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let fault = |what: &str, reason: String| BindError::field(name, format!("{what}: {reason}"));
            let decoded = escape::decode_form(name).map_err(|reason| fault("name of a form's field", reason))?;
            let value = escape::decode_form(value).map_err(|reason| fault("value of a form's field", reason))?;
            self.text(&decoded, &value)?;
        }
        Ok(())
    }

    /// Takes a field by its name and its text.
    ///
    /// # Errors
    /// `BindError` naming the field, if the text cannot be its value, or the name cannot be set by a form.
    pub fn text(&mut self, name: &str, value: &str) -> Result<(), BindError> {
        self.count_one()?;
        let plan = Arc::clone(&self.plan);
        let Some(named) = self.find(&plan, name)? else { return Ok(()) };
        let (mut wire, dropped) = self
            .leaf(named.field, value)
            .map_err(|reason| BindError::field(name, format!("form value {}: {reason}", text::quoted(value))))?;
        self.put(&plan, name, named, &mut wire, dropped)
    }

    /// Takes a file: the bytes of a field, a `google.api.HttpBody`, or, as text, a string. Where the body is raw it is the body, whatever its name.
    ///
    /// # Errors
    /// As `text`, and for a second file where there can be one.
    pub fn file(&mut self, name: &str, content_type: Option<&str>, data: &[u8]) -> Result<(), BindError> {
        if self.plan.takes_raw_body() {
            self.count_one()?;
            if self.upload.is_some() {
                return Err(BindError::field(name, "a second file; the method takes one"));
            }
            self.upload = Some(raw::message(&self.plan, content_type, data));
            return Ok(());
        }
        let plan = Arc::clone(&self.plan);
        let mut wire = Vec::with_capacity(data.len() + 32);
        let Some(named) = self.find_any(&plan, name)? else { return self.count_one() };
        match &named.field.kind {
            Kind::Bytes if data.is_empty() && !named.field.presence => {}
            Kind::Bytes => {
                wire.extend_from_slice(&named.field.key);
                wire::put_bytes(&mut wire, data);
            }
            kind @ (Kind::Message(id) | Kind::Group(id)) if *plan.method().types.get(*id).name == *raw::HTTP_BODY => {
                let open = wire::open_message(&mut wire, named.field.number, matches!(kind, Kind::Group(_)));
                raw::put(&mut wire, content_type, data);
                wire::close_message(&mut wire, open);
            }
            _ => {
                let text = std::str::from_utf8(data);
                let text =
                    text.map_err(|_| BindError::field(name, "a file that is no text; the field takes no bytes"))?;
                return self.text(name, text);
            }
        }
        self.count_one()?;
        self.put(&plan, name, named, &mut wire, false)
    }

    /// Returns the request message, with path and query.
    ///
    /// # Errors
    /// `BindError` about path or query.
    pub fn finish(mut self, parts: RequestParts<'_>) -> Result<Bytes, BindError> {
        let upload = match self.upload.take() {
            None if self.plan.takes_raw_body() => raw::message(&self.plan, None, &[]),
            upload => upload.unwrap_or_default(),
        };
        self.first(upload, parts)
    }

    /// Returns the first message of a stream of bytes whose file begins with `data`; the form is over with it.
    ///
    /// # Errors
    /// As `finish`.
    pub fn begin_upload(
        self,
        parts: RequestParts<'_>,
        content_type: Option<&str>,
        data: &[u8],
    ) -> Result<Bytes, BindError> {
        let upload = raw::message(&self.plan, content_type, data);
        self.first(upload, parts)
    }

    /// Returns a further message of a stream of bytes.
    pub fn go_on(plan: &MethodPlan, data: &[u8]) -> Bytes {
        raw::message(plan, None, data).into()
    }

    fn first(self, upload: Vec<u8>, parts: RequestParts<'_>) -> Result<Bytes, BindError> {
        let bindings = Bindings::read(&self.plan, parts, self.codec.settings())?;
        let mut wire = Vec::with_capacity(upload.len() + 256);
        match self.plan.body() {
            Body::Field(field) if !self.plan.takes_raw_body() && !self.entries.is_empty() => {
                let open = wire::open_message(&mut wire, field.number(), field.is_group());
                self.write(&mut wire);
                wire::close_message(&mut wire, open);
            }
            Body::None | Body::Whole | Body::Field(_) => self.write(&mut wire),
        }
        wire.extend_from_slice(&upload);
        // A form without a field says as little as a body without a byte.
        if self.count > 0
            && let Some(mask) = self.codec.mask_to_infer(&self.plan, parts, &bindings)
        {
            mask.put(&mut wire, Paths { paths: self.mask_paths(), named: true })?;
        }
        bindings.apply(self.plan.method().input(), wire).map(Bytes::from)
    }

    /// Returns the paths of the fields that were named and can be changed; they stop at well-known types, as those of JSON do.
    fn mask_paths(&self) -> Vec<String> {
        let Root::Message(root) = self.root else { return Vec::new() };
        let types = &self.plan.method().types;
        let of = |entry: &Entry| {
            let mut settable = !entry.dropped;
            let mut scope = Some(root);
            let mut names = Vec::new();
            for index in &entry.path {
                let Some(ty) = scope.map(|id| types.get(id)).filter(|ty| ty.well_known.is_none()) else { break };
                let field = &ty.fields[*index as usize];
                settable &= !field.output_only;
                names.push(&*field.name);
                scope = if let Kind::Message(id) | Kind::Group(id) = field.kind { Some(id) } else { None };
            }
            settable.then(|| names.join("."))
        };
        self.entries.iter().filter_map(of).collect()
    }

    /// Writes the fields, each within the messages that lead to it: on the wire they are merged.
    fn write(&self, out: &mut Vec<u8>) {
        let Root::Message(root) = self.root else { return };
        let types = &self.plan.method().types;
        for entry in &self.entries {
            let mut opened = Vec::new();
            let mut scope = root;
            for index in &entry.path[..entry.path.len() - 1] {
                let field = &types.get(scope).fields[*index as usize];
                opened.push(wire::open_message(out, field.number, matches!(field.kind, Kind::Group(_))));
                if let Kind::Message(id) | Kind::Group(id) = field.kind {
                    scope = id;
                }
            }
            out.extend_from_slice(&entry.wire);
            opened.into_iter().rev().for_each(|open| wire::close_message(out, open));
        }
    }

    fn put(
        &mut self,
        plan: &MethodPlan,
        name: &str,
        named: Named<'_>,
        wire: &mut Vec<u8>,
        dropped: bool,
    ) -> Result<(), BindError> {
        self.check_oneofs(plan, name, &named.path)?;
        match self.places.get(&named.path) {
            Some(place) if matches!(named.field.cardinality, Cardinality::List { .. }) => {
                let entry = &mut self.entries[*place];
                entry.wire.append(wire);
                entry.dropped |= dropped;
            }
            Some(place) if is_bool(plan, &named.field.kind) => {
                let entry = &mut self.entries[*place];
                (entry.wire, entry.dropped) = (std::mem::take(wire), dropped);
            }
            Some(_) => return Err(BindError::field(name, "is there twice, and takes one value")),
            None => {
                self.places.insert(named.path.clone(), self.entries.len());
                self.entries.push(Entry { path: named.path, wire: std::mem::take(wire), dropped });
            }
        }
        Ok(())
    }

    /// Refuses a second member of a oneof, on the way to a field, too.
    fn check_oneofs(&mut self, plan: &MethodPlan, name: &str, path: &[u32]) -> Result<(), BindError> {
        let Root::Message(mut scope) = self.root else { return Ok(()) };
        let types = &plan.method().types;
        for (depth, index) in path.iter().enumerate() {
            let ty = types.get(scope);
            let field = &ty.fields[*index as usize];
            if let Some(oneof) = field.oneof {
                let there = *self.oneofs.entry((path[..depth].to_vec(), oneof)).or_insert(*index);
                if there != *index {
                    let (oneof, other) = (ty.oneof(oneof), &ty.fields[there as usize].json_name);
                    return Err(BindError::field(name, format!("oneof {oneof} already has {other}")));
                }
            }
            if let Kind::Message(id) | Kind::Group(id) = field.kind {
                scope = id;
            }
        }
        Ok(())
    }

    /// Returns key and value of a field for its text, and whether that was ignored.
    fn leaf<'t>(&'t self, field: &'t Field, value: &str) -> Result<(Vec<u8>, bool), String> {
        let types = &self.plan.method().types;
        let mut json = match json_value(types, &field.kind, value) {
            None => return Err("expected true or false".to_owned()),
            Some(json) => json,
        };
        if matches!(field.cardinality, Cardinality::List { .. }) {
            json = format!("[{json}]");
        }
        let mut decoder = Decoder::new(self.codec.settings(), types, json.len());
        let elements = Elements::default(); // one value has no more than one
        let read = Reader::new(json.as_bytes(), &elements).and_then(|mut reader| decoder.field(&mut reader, field));
        read.map_err(Fault::into_reason)?;
        let dropped = decoder.dropped();
        Ok((decoder.finish(), dropped))
    }

    /// Finds a field that text can be.
    fn find<'t>(&self, plan: &'t MethodPlan, name: &str) -> Result<Option<Named<'t>>, BindError> {
        let named = self.find_any(plan, name)?;
        let text = |kind: &Kind| match kind {
            Kind::Message(id) | Kind::Group(id) => {
                plan.method().types.get(*id).well_known.is_some_and(WellKnown::is_text)
            }
            _ => true,
        };
        match named {
            Some(named) if !text(&named.field.kind) => {
                Err(BindError::field(name, "is a message; name one of its fields"))
            }
            named => Ok(named),
        }
    }

    /// Finds a field by its name; none if there is none and that is to be ignored.
    fn find_any<'t>(&self, plan: &'t MethodPlan, name: &str) -> Result<Option<Named<'t>>, BindError> {
        let unknown = |ty: Option<&MessageType>| match self.codec.settings().unknown_body {
            Unknown::Ignore => Ok(None),
            Unknown::Reject => {
                let of = ty.map_or("the request", |ty| &ty.name);
                Err(BindError::field(name, format!("unknown field of a form: {of} has no such field")))
            }
        };
        let Root::Message(mut scope) = self.root else { return unknown(None) };
        let mut path = Path::new();
        let mut steps = name.split('.').peekable();
        loop {
            let ty = plan.method().types.get(scope);
            let step = steps.next().unwrap_or_default();
            let Some(index) = ty.by_name(step, 0) else { return unknown(Some(ty)) };
            let field = &ty.fields[index as usize];
            path.push(index);
            let last = steps.peek().is_none();
            match (&field.cardinality, &field.kind) {
                (Cardinality::Map(_), _) => {
                    return Err(BindError::field(name, "is a map, which a form cannot address"));
                }
                (Cardinality::One | Cardinality::List { .. }, _) if last => return Ok(Some(Named { path, field })),
                (Cardinality::List { .. }, _) => {
                    return Err(BindError::field(name, "goes through a repeated field, which a form cannot address"));
                }
                (Cardinality::One, Kind::Message(id) | Kind::Group(id)) if path.len() < MOST_STEPS => scope = *id,
                (Cardinality::One, _) => return unknown(Some(ty)),
            }
        }
    }

    fn count_one(&mut self) -> Result<(), BindError> {
        self.count += 1;
        if self.count > MOST_FIELDS {
            return Err(BindError::invalid(format!("a form of more than {MOST_FIELDS} fields")));
        }
        Ok(())
    }
}

/// Whether a field is true or false, also in a wrapper.
fn is_bool(plan: &MethodPlan, kind: &Kind) -> bool {
    match kind {
        Kind::Message(id) | Kind::Group(id) => {
            let ty = plan.method().types.get(*id);
            ty.well_known == Some(WellKnown::Wrapper) && ty.by_number(1).is_some_and(|it| it.kind == Kind::Bool)
        }
        kind => *kind == Kind::Bool,
    }
}

/// Returns the JSON that a text stands for; none for a boolean that is none.
fn json_value(types: &crate::types::Types, kind: &Kind, value: &str) -> Option<String> {
    let kind = match kind {
        Kind::Message(id) | Kind::Group(id) => match (types.get(*id).well_known, types.get(*id).by_number(1)) {
            (Some(WellKnown::Wrapper), Some(inner)) => &inner.kind,
            _ => kind,
        },
        kind => kind,
    };
    match kind {
        Kind::Bool => matches!(value, "true" | "false").then(|| value.to_owned()),
        // An enum value by its number.
        Kind::Enum(_) if value.parse::<i32>().is_ok() => Some(value.to_owned()),
        _ => Some(serde_json::Value::from(value).to_string()),
    }
}

#[cfg(test)]
mod tests;
