//! `google.protobuf.Any`: an object whose type one of its members names.
//!
//! Lives here: finding the type, which may stand anywhere in the object, and packing. Does not: reading the payload
//! (`decode`).

use super::{Decoder, expect};
use crate::bind::text;
use crate::codec::json::{Fault, Read, Reader, Shape};
use crate::schema::builtin;
use crate::types::{TypeId, Types};
use crate::wire;

const TYPE_URL: u8 = 0x0A;
const VALUE: u8 = 0x12;

impl<'t> Decoder<'t> {
    pub(super) fn any(&mut self, json: &mut Reader<'_>) -> Read<()> {
        let Some((url, types, id)) = self.any_type(json)? else { return Ok(()) };
        if !url.is_empty() {
            self.out.push(TYPE_URL);
            wire::put_bytes(&mut self.out, url.as_bytes());
        }
        self.out.push(VALUE);
        let start = wire::open_length(&mut self.out);
        let around = std::mem::replace(&mut self.types, types);
        let depth = std::mem::take(&mut self.depth); // the payload is bytes to whoever reads the Any
        let ty = types.get(id);
        match ty.well_known {
            None => self.object(json, ty, Some("@type"))?,
            Some(_) => self.any_value(json, id)?,
        }
        (self.types, self.depth) = (around, depth);
        wire::close_length(&mut self.out, start);
        Ok(())
    }

    /// Reads the `value` of an Any whose type has a JSON form of its own.
    fn any_value(&mut self, json: &mut Reader<'_>, id: TypeId) -> Read<()> {
        let at = json.at();
        let ty = self.types.get(id);
        let (mut types, mut values) = (0, 0);
        json.open_object()?;
        let mut first = true;
        while let Some((name, at)) = json.member(first)? {
            first = false;
            match &*name {
                "@type" if types == 0 => {
                    types += 1;
                    json.skip()?;
                }
                "value" if values == 0 => {
                    values += 1;
                    self.message(json, id).map_err(|it| it.within("value"))?;
                }
                "@type" | "value" => return Err(Fault::new(at, format!("member {name:?} stands twice"))),
                _ => self.unknown_member(json, ty, &name, at)?,
            }
        }
        match values {
            0 => Err(Fault::new(at, format!("an Any of {} needs a member \"value\"", ty.name))),
            _ => Ok(()),
        }
    }

    /// Returns type URL and type of the Any ahead, which is then still to be read. An empty object is read: an Any that
    /// holds nothing.
    fn any_type(&self, json: &mut Reader<'_>) -> Read<Option<(String, &'t Types, TypeId)>> {
        expect(json, Shape::Object, "an object")?;
        let at = json.at();
        let start = json.mark();
        let Some((url, url_at)) = type_url(json)? else {
            json.rewind(start);
            json.open_object()?;
            return match json.member(true)? {
                None => Ok(None),
                Some(_) => Err(Fault::new(at, "an Any needs a member \"@type\"")),
            };
        };
        json.rewind(start);
        let fault = |reason: String| Fault::new(url_at, reason).within("@type");
        let name =
            url.rsplit_once('/').map(|(_, name)| name).ok_or_else(|| fault("a type URL needs a '/'".to_owned()))?;
        let own = self.types.id(name).map(|id| (self.types, id));
        let known = own.or_else(|| builtin::types().id(name).map(|id| (builtin::types(), id)));
        let (types, id) = known.ok_or_else(|| fault(format!("unknown message type {}", text::quoted(name))))?;
        Ok(Some((url, types, id)))
    }
}

/// Returns the `@type` of the object ahead and where it stands; the reader is left anywhere.
fn type_url(json: &mut Reader<'_>) -> Read<Option<(String, usize)>> {
    json.open_object()?;
    let mut first = true;
    while let Some((name, _)) = json.member(first)? {
        first = false;
        if name == "@type" {
            expect(json, Shape::String, "a string").map_err(|it| it.within("@type"))?;
            let at = json.at();
            return Ok(Some((json.string()?.into_owned(), at)));
        }
        json.skip()?;
    }
    Ok(None)
}
