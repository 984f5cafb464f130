//! The bytes of one frame of each kind. A change here is a new version of the protocol.

use super::tests::data_frames;
use super::*;

/// Hex without its blanks and comments, which run from `#` to the end of the line.
fn plain(text: &str) -> String {
    text.lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(|line| line.chars().filter(|c| !c.is_whitespace()))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn frames_are_what_they_always_were() {
    for (frame, golden) in data_frames().into_iter().zip(GOLDEN) {
        let encoded = frame.encode().expect("a legal frame");
        assert_eq!(hex(encoded.bytes()), plain(golden), "{frame:?}");
    }
    let leave = Control::Leave.encode().expect("a legal message");
    assert_eq!(hex(leave.bytes()), plain(LEAVE) + &"00".repeat(LEAVE_ZEROS));
}

/// The smallest control message: the enum's tag, and zeros up to its largest variant.
const LEAVE: &str = "
4341524e  # magic
01  # major
00  # reserved
0100  # kind
00010000  # header bytes
00000000  # flags
0000000000000000  # payload bytes
0000000000000000  # reserved
0b  # tag
";
const LEAVE_ZEROS: usize = 255;

const GOLDEN: [&str; 6] = [
    // Rows.
    "
4341524e  # magic
01  # major
00  # reserved
1000  # kind
88000000  # header bytes
00000000  # flags
0800000000000000  # payload bytes
0000000000000000  # reserved
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  # sequence: driver
0700000000000000  # sequence: number
00000000  # span: position
01000000  # span: rows
01  # span: ask
00000000000000  # zero
00000000  # token id
00000000  # zero
0300000000000000  # plan: term number
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  # plan: leader
0500000000000000  # plan: epoch
0100  # stage
00  # dtype
00  # zero
02000000  # width
88ffffff  # spans: offset
01000000  # spans: count
b8ffffff  # tokens: offset
01000000  # tokens: count
0000000000000000  # padding to 16
000000000000803f  # payload: 0.0, 1.0
",
    // Open.
    "
4341524e  # magic
01  # major
00  # reserved
1100  # kind
d0000000  # header bytes
00000000  # flags
0000000000000000  # payload bytes
0000000000000000  # reserved
02000000  # end token
00000000  # zero
0300000000000000  # plan: term number
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  # plan: leader
0500000000000000  # plan: epoch
0100  # stage
000000000000  # zero
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  # sequence: driver
0700000000000000  # sequence: number
00020000  # rows_max
00000000  # zero
0000003f  # temperature
28000000  # top_k
0000403f  # top_p
00000000  # min_p
0000803f  # repetition_penalty
40000000  # repetition_window
0b00000000000000  # seed
70ffffff  # end tokens: offset
01000000  # end tokens: count
01  # prefix: there is one
00000000000000  # zero
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  # prefix: driver
0700000000000000  # prefix: number
00010000  # prefix: rows
00000000  # zero
",
    // Close.
    "
4341524e  # magic
01  # major
00  # reserved
1200  # kind
60000000  # header bytes
00000000  # flags
0000000000000000  # payload bytes
0000000000000000  # reserved
0300000000000000  # plan: term number
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  # plan: leader
0500000000000000  # plan: epoch
0100  # stage
000000000000  # zero
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  # sequence: driver
0700000000000000  # sequence: number
",
    // Sampled.
    "
4341524e  # magic
01  # major
00  # reserved
1300  # kind
78000000  # header bytes
00000000  # flags
0000000000000000  # payload bytes
0000000000000000  # reserved
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  # sequence: driver
0700000000000000  # sequence: number
09000000  # position
0d000000  # token id
000000bf  # logprob
00000000  # zero
0300000000000000  # plan: term number
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  # plan: leader
0500000000000000  # plan: epoch
01  # goes_on
000000  # zero
94ffffff  # tokens: offset
01000000  # tokens: count
000000000000000000000000  # zero
",
    // Failed.
    "
4341524e  # magic
01  # major
00  # reserved
1400  # kind
a0000000  # header bytes
00000000  # flags
0000000000000000  # payload bytes
0000000000000000  # reserved
6120726f77206973206d697373696e67  # detail: its text
0300000000000000  # plan: term number
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  # plan: leader
0500000000000000  # plan: epoch
0100  # stage
000000000000  # zero
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  # sequence: driver
0700000000000000  # sequence: number
01  # why: its tag, and zeros up to its largest variant
0000000000000000000000000000000000000000000000000000000000000000
000000  # zero
90000000  # detail: length, tagged as out of line
6cffffff  # detail: offset
00000000  # zero
",
    // Credit.
    "
4341524e  # magic
01  # major
00  # reserved
1500  # kind
04000000  # header bytes
00000000  # flags
0000000000000000  # payload bytes
0000000000000000  # reserved
20000000  # frames
000000000000000000000000  # padding to 16
",
];
