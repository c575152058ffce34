//! Signatures that openssl made, checked in: by its two algorithms, over the text
//! `what is signed`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use bytes::Bytes;
use vmgroup_policy::signature::{KeyError, Keys};
use vmgroup_policy::{Digest, Host, Kind, Limits, Source, Stage};

const ED25519: (&[u8], &[u8]) = (include_bytes!("signatures/ed25519.pem"), include_bytes!("signatures/ed25519.sig"));
const P256: (&[u8], &[u8]) = (include_bytes!("signatures/p256.pem"), include_bytes!("signatures/p256.sig"));
const RSA: &[u8] = include_bytes!("signatures/rsa.pem");

fn verify(text: &'static [u8], signature: Option<&[u8]>, keys: &Keys) -> Result<Digest, String> {
    let host = Host::new(Limits::default()).unwrap();
    let source = Source { name: "x.wasm".to_owned(), bytes: Bytes::from_static(text), config: serde_json::json!({}) };
    host.verify(Kind::Scaling, &source, signature, keys).map_err(|error| {
        assert_eq!(error.stage, Stage::Signature);
        assert!(!error.remedy.is_empty());
        error.to_string()
    })
}

#[test]
fn signatures_of_both_algorithms_are_known_and_told_apart() {
    let both = Keys::from_pem(&[ED25519.0, P256.0].concat()).unwrap();
    let signers = [ED25519, P256].map(|(key, signature)| {
        let signer = verify(b"what is signed", Some(signature), &both).unwrap();
        let alone = Keys::from_pem(key).unwrap();
        assert_eq!(verify(b"what is signed", Some(signature), &alone), Ok(signer.clone()));
        let other = verify(b"what is signed!", Some(signature), &both).unwrap_err();
        assert!(other.contains("by none of the keys"), "{other}");
        signer
    });
    assert_ne!(signers[0], signers[1]);
    let ed25519 = Keys::from_pem(ED25519.0).unwrap();
    let refused = verify(b"what is signed", Some(P256.1), &ed25519).unwrap_err();
    assert!(refused.contains(signers[0].short()) && !refused.contains(signers[1].short()), "{refused}");
    assert!(verify(b"what is signed", Some(b""), &both).is_err());
    assert!(verify(b"what is signed", None, &both).unwrap_err().contains("is not signed"));
}

#[test]
fn what_is_no_key_is_named() {
    let error = |pem: &[u8]| Keys::from_pem(pem).unwrap_err();
    assert_eq!(error(b""), KeyError::None("PUBLIC KEY"));
    assert_eq!(error(b"hunter2"), KeyError::None("PUBLIC KEY"));
    assert_eq!(error(&[ED25519.0, RSA].concat()), KeyError::Algorithm(2));
    assert!(matches!(error(b"-----BEGIN PUBLIC KEY-----\n!!!\n-----END PUBLIC KEY-----\n"), KeyError::Pem(_)));
}
