//! How messages of our services are written to and read from streams: as tonic does it, with buffers of their own size.
//!
//! Lives here: sizes. Does not: messages.
//! tonic makes room for 8 KiB each way before anything is said, and a registry has very many streams on which little is.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

/// Bytes that are made room for at first; a longer message makes room for itself.
const FIRST: usize = 1 << 10;
/// From so many bytes on, what is ready to go goes (tonic's own).
const YIELD: usize = 32 << 10;

fn buffers() -> BufferSettings {
    BufferSettings::new(FIRST, YIELD)
}

/// The codec of generated clients and servers.
#[derive(Debug, Clone)]
pub struct Protobuf<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Protobuf<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Protobuf<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Fitting<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Fitting<T> {
        Fitting(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(buffers())
    }
}

/// An encoder that makes room for a message as a whole, and not by doubling.
#[derive(Debug, Clone)]
pub struct Fitting<T>(PhantomData<T>);

impl<T: Message> Encoder for Fitting<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(item.encoded_len());
        item.encode(into).expect("there is room: it was just made");
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
