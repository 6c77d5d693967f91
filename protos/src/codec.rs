//! How the gRPC stubs encode messages: as tonic does, with a buffer of their size.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that a call's buffer begins with; it grows as a message needs. Most of ours are a few hundred
/// bytes, and a service may have thousands of calls in flight (tonic's own buffers take 8 KiB each).
const BUFFER: usize = 1024;

/// Bytes of messages that are collected before they are sent: tonic's default.
const YIELD_THRESHOLD: usize = 32 * 1024;

/// The codec of all generated stubs (`xtask protos`): sends `T`, receives `U`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER, YIELD_THRESHOLD)
}
