//! What is done to the bytes of a policy before it is offered.

use std::io::Read;

/// A component that may be compressed, as it is.
pub fn unpacked(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut out)?;
    } else {
        out.extend_from_slice(bytes);
    }
    Ok(out)
}

/// The same component with a custom section more: to the host, another one.
///
/// # Panics
/// If the stamp is longer than 100 bytes.
pub fn stamped(component: &[u8], stamp: &str) -> Vec<u8> {
    assert!(stamp.len() <= 100, "below 128 bytes a LEB128 length is the byte itself");
    let name = b"stamp";
    let byte = |length: usize| u8::try_from(length).expect("a small length");
    let mut out = component.to_vec();
    out.extend_from_slice(&[0, byte(1 + name.len() + stamp.len()), byte(name.len())]);
    out.extend_from_slice(name);
    out.extend_from_slice(stamp.as_bytes());
    out
}
