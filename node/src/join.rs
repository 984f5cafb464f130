//! The line that lets the next device in: cluster, secret and addresses in one word.
//!
//! Not encrypted: whoever reads the line may join. A checksum tells a typing
//! error from a wrong secret.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// Names the format; a later one gets another digit.
const PREFIX: &str = "cairn1-";
/// Crockford's base 32: no `i`, `l`, `o`, `u`, so that it survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Catches all but one in 16 million typing errors.
const CHECKSUM_BYTES: usize = 3;

/// What a device needs to join a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinLine {
    /// The cluster's name, at most 255 bytes.
    pub(crate) cluster: String,
    /// The cluster's secret, at most 255 bytes.
    pub(crate) secret: String,
    /// Where a member listens, for networks without multicast.
    pub(crate) peers: Vec<SocketAddr>,
}

impl fmt::Display for JoinLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = Vec::new();
        for text in [&self.cluster, &self.secret] {
            let length = text.len().min(usize::from(u8::MAX));
            body.push(u8::try_from(length).expect("at most 255: see above"));
            body.extend_from_slice(&text.as_bytes()[..length]);
        }
        for peer in &self.peers {
            match peer.ip() {
                IpAddr::V4(ip) => {
                    body.push(4);
                    body.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    body.push(6);
                    body.extend_from_slice(&ip.octets());
                }
            }
            body.extend_from_slice(&peer.port().to_be_bytes());
        }
        let mut bytes = checksum(&body).to_vec();
        bytes.extend_from_slice(&body);
        write!(formatter, "{PREFIX}{}", encode(&bytes))
    }
}

impl FromStr for JoinLine {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let encoded = line.strip_prefix(PREFIX).ok_or_else(|| {
            format!("a join line begins with `{PREFIX}`; copy the whole word that `cairn up` shows")
        })?;
        let damaged = || "the join line is damaged; copy the whole word again".to_owned();
        let bytes = decode(encoded).ok_or_else(damaged)?;
        let (sum, body) = bytes.split_at_checked(CHECKSUM_BYTES).ok_or_else(damaged)?;
        if sum != checksum(body) {
            return Err(damaged());
        }
        parse_body(body).ok_or_else(damaged)
    }
}

/// A fresh secret of 130 random bits, in letters that survive being read aloud.
pub(crate) fn fresh_secret() -> Result<String, getrandom::Error> {
    let mut random = [0u8; 26];
    getrandom::fill(&mut random)?;
    let letters = random.map(|byte| char::from(ALPHABET[usize::from(byte & 31)]));
    Ok(letters.iter().collect())
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::digest(body);
    [digest[0], digest[1], digest[2]]
}

fn parse_body(body: &[u8]) -> Option<JoinLine> {
    let (cluster, rest) = take_text(body)?;
    let (secret, mut rest) = take_text(rest)?;
    let mut peers = Vec::new();
    while let Some((&family, after)) = rest.split_first() {
        let (ip, after): (IpAddr, &[u8]) = match family {
            4 => {
                let (octets, after) = after.split_first_chunk::<4>()?;
                (IpAddr::from(*octets), after)
            }
            6 => {
                let (octets, after) = after.split_first_chunk::<16>()?;
                (IpAddr::from(*octets), after)
            }
            _ => return None,
        };
        let (port, after) = after.split_first_chunk::<2>()?;
        peers.push(SocketAddr::new(ip, u16::from_be_bytes(*port)));
        rest = after;
    }
    Some(JoinLine {
        cluster,
        secret,
        peers,
    })
}

fn take_text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(length))?;
    let text = String::from_utf8(text.to_vec()).ok()?;
    Some((text, rest))
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut bits, mut count) = (0u32, 0);
    for &byte in bytes {
        bits = (bits << 8) | u32::from(byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(letter(bits >> count));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        text.push(letter(bits << (5 - count)));
    }
    text
}

fn letter(bits: u32) -> char {
    char::from(ALPHABET[(bits & 31) as usize])
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for character in text.bytes() {
        let lower = character.to_ascii_lowercase();
        let value = ALPHABET.iter().position(|&letter| letter == lower)?;
        bits = (bits << 5) | u32::try_from(value).expect("the alphabet has 32 letters");
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).expect("masked to a byte"));
            bits &= (1 << count) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<JoinLine> {
        let peers = ["192.168.1.20:4801", "[fe80::1]:65535"].map(|peer| peer.parse().unwrap());
        (0..3)
            .flat_map(|count| {
                ["cairn", "küche", ""].map(|cluster| JoinLine {
                    cluster: cluster.to_owned(),
                    secret: fresh_secret().unwrap(),
                    peers: peers[..count].to_vec(),
                })
            })
            .collect()
    }

    #[test]
    fn every_line_comes_back_also_in_capitals() {
        for line in lines() {
            let text = line.to_string();
            assert_eq!(text.parse(), Ok(line.clone()), "{text}");
            let capitals = text.to_uppercase().replace("CAIRN1-", PREFIX);
            assert_eq!(capitals.parse(), Ok(line));
        }
    }

    #[test]
    fn no_change_of_one_letter_and_no_cut_passes() {
        let text = lines().pop().unwrap().to_string();
        for place in PREFIX.len()..text.len() {
            let mut letters = text.clone().into_bytes();
            letters[place] = if letters[place] == b'7' { b'8' } else { b'7' };
            let changed = String::from_utf8(letters).unwrap();
            assert!(changed.parse::<JoinLine>().is_err(), "{changed}");
            assert!(text[..place].parse::<JoinLine>().is_err(), "cut at {place}");
        }
    }

    #[test]
    fn secrets_differ() {
        let first = fresh_secret().unwrap();
        assert_eq!(first.len(), 26);
        assert_ne!(first, fresh_secret().unwrap());
    }
}
