//! Frames over streams that split, stop and lie.

use futures::executor::block_on;
use futures::io::Cursor;

use super::*;
use crate::codec::{MAGIC, MAJOR};
use crate::data::Credit;
use crate::frame::{Encoded, RowsFrame};

/// Hands out at most `step` bytes per read.
struct Trickle<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl AsyncRead for Trickle<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut [u8],
    ) -> std::task::Poll<io::Result<usize>> {
        let count = self.step.min(buffer.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.bytes = later;
        std::task::Poll::Ready(Ok(count))
    }
}

fn credit(frames: u32) -> Encoded {
    DataFrame::Credit(Credit { frames })
        .encode()
        .expect("a legal frame")
}

fn rows() -> RowsFrame {
    crate::frame::tests::frame(100, &[3])
}

#[test]
fn frames_come_out_as_they_went_in_whatever_the_reads() {
    let mut writer = FrameWriter::new(Cursor::new(Vec::new()));
    block_on(async {
        writer.write(credit(1).bytes()).await.unwrap();
        writer.write(rows().bytes()).await.unwrap();
        writer.write(credit(2).bytes()).await.unwrap();
    });
    let bytes = writer.stream.into_inner();
    for step in [1, 7, 16, 33, 4096, usize::MAX] {
        let stream = Trickle {
            bytes: &bytes,
            step,
        };
        let mut reader = FrameReader::new(stream, Plane::Data);
        block_on(async {
            let expect = [
                DataFrame::Credit(Credit { frames: 1 }),
                DataFrame::Rows(rows()),
                DataFrame::Credit(Credit { frames: 2 }),
            ];
            for expect in expect {
                assert_eq!(reader.data().await.unwrap(), expect, "step {step}");
            }
            assert!(matches!(reader.data().await, Err(ReadError::Closed)));
        });
    }
}

#[test]
fn an_end_inside_a_frame_is_not_a_clean_end() {
    let bytes = rows().bytes().to_vec();
    for end in 1..bytes.len() {
        let mut reader = FrameReader::new(&bytes[..end], Plane::Data);
        match block_on(reader.data()) {
            Err(ReadError::Io(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
            other => panic!("{other:?} after {end} bytes"),
        }
    }
}

fn prelude(kind: Kind, header_bytes: u32, payload_bytes: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([MAJOR, 0]);
    bytes.extend((kind as u16).to_le_bytes());
    bytes.extend(header_bytes.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload_bytes.to_le_bytes());
    bytes.extend([0; 8]);
    bytes
}

#[test]
fn a_claim_past_a_bound_is_refused_at_the_prelude() {
    for (kind, header_bytes, payload_bytes) in [
        (Kind::Rows, 0, 0),
        (Kind::Rows, u32::MAX, 0),
        (Kind::Rows, 16, u64::MAX),
        (Kind::Rows, 16, (8 << 20) + 1),
        (Kind::Credit, 16, 1),
        (Kind::Credit, (64 << 10) + 1, 0),
    ] {
        let bytes = prelude(kind, header_bytes, payload_bytes);
        let mut reader = FrameReader::new(bytes.as_slice(), Plane::Data);
        assert!(
            matches!(block_on(reader.data()), Err(ReadError::Violation(_))),
            "{kind:?} {header_bytes} {payload_bytes}"
        );
    }
}

/// A peer that claims the most it may and sends nothing costs one step of memory.
#[test]
fn memory_follows_arrivals_not_claims() {
    struct Watch {
        prelude: Vec<u8>,
        asked_bytes_max: usize,
    }
    impl AsyncRead for Watch {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            if self.prelude.is_empty() {
                // The reader hands over everything that it has allotted.
                self.asked_bytes_max = self.asked_bytes_max.max(buffer.len());
                return std::task::Poll::Ready(Ok(0));
            }
            let prelude = std::mem::take(&mut self.prelude);
            buffer[..prelude.len()].copy_from_slice(&prelude);
            std::task::Poll::Ready(Ok(prelude.len()))
        }
    }
    let watch = Watch {
        prelude: prelude(Kind::Rows, 64 << 10, 8 << 20),
        asked_bytes_max: 0,
    };
    let mut reader = FrameReader::new(watch, Plane::Data);
    assert!(matches!(block_on(reader.data()), Err(ReadError::Io(_))));
    assert_eq!(reader.stream.asked_bytes_max, GROWTH_BYTES);
}

#[test]
fn garbage_is_named() {
    let mut reader = FrameReader::new(&[0x47; 64][..], Plane::Control);
    match block_on(reader.control()) {
        Err(ReadError::Violation(Violation::Magic { found })) => assert_eq!(found, [0x47; 4]),
        other => panic!("{other:?}"),
    }
}
