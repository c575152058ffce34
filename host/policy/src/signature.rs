//! Whose plugins are taken: signatures over a component, by keys that the
//! administrator has named. Must not know where either is from.
//!
//! Signed is the unpacked component, the very bytes whose SHA-256 is the plugin's
//! digest, so that one signature holds wherever and however packed it travels. It
//! says nothing about kind, name or configuration.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use crate::check::Problem;
use crate::source::{self, Digest};
use crate::{CheckError, Host, Kind, Source, Stage};

/// The `SubjectPublicKeyInfo` of an Ed25519 key (RFC 8410), up to its 32 bytes.
const ED25519_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// That of a P-256 key (RFC 5480), up to its 65 bytes: a point, not compressed.
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The public keys whose signatures count.
#[derive(Clone, Debug)]
pub struct Keys(Vec<Key>);

#[derive(Clone)]
struct Key {
    algorithm: &'static dyn VerificationAlgorithm,
    point: Vec<u8>,
    /// Of the whole `SubjectPublicKeyInfo`, to tell keys apart.
    fingerprint: Digest,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.fingerprint).finish()
    }
}

/// Why a text holds no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or damaged.
    #[error("it is no PEM: {0}")]
    Pem(String),
    /// There is none in it.
    #[error("it holds no key (-----BEGIN {0}-----)")]
    None(&'static str),
    /// Another algorithm.
    #[error("key {0} is neither Ed25519 nor ECDSA on P-256")]
    Algorithm(usize),
}

/// What is wrong with a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureProblem {
    /// There is none.
    #[error("it is not signed, and must be")]
    Missing,
    /// There is one, of other bytes or by another key.
    #[error("its signature is by none of the keys that count ({}), or of other bytes", .0.join(", "))]
    NotOurs(Vec<String>),
}

impl Keys {
    /// Those in PEM (`-----BEGIN PUBLIC KEY-----`), one or several.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem)
            .enumerate()
            .map(|(index, info)| {
                let info = info.map_err(|error| KeyError::Pem(error.to_string()))?;
                Key::read(&info).ok_or(KeyError::Algorithm(index + 1))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyError::None("PUBLIC KEY")) } else { Ok(Self(keys)) }
    }

    /// Who of these has signed the bytes: the key's fingerprint.
    fn signer(&self, bytes: &[u8], signature: &[u8]) -> Option<&Digest> {
        let signed = |key: &&Key| UnparsedPublicKey::new(key.algorithm, &key.point).verify(bytes, signature).is_ok();
        self.0.iter().find(signed).map(|key| &key.fingerprint)
    }
}

impl Key {
    fn read(info: &[u8]) -> Option<Self> {
        let (algorithm, point, length): (&'static dyn VerificationAlgorithm, _, _) =
            if let Some(point) = info.strip_prefix(ED25519_PREFIX) {
                (&ED25519, point, 32)
            } else {
                (&ECDSA_P256_SHA256_ASN1, info.strip_prefix(P256_PREFIX)?, 65)
            };
        (point.len() == length).then(|| Self { algorithm, point: point.to_vec(), fingerprint: Digest::of(info) })
    }
}

impl Host {
    /// Whether one of these keys has signed the plugin, before anything in it is
    /// looked at. Gives the key's fingerprint.
    pub fn verify(
        &self,
        kind: Kind,
        source: &Source,
        signature: Option<&[u8]>,
        keys: &Keys,
    ) -> Result<Digest, CheckError> {
        let bytes = source::unpack(&source.bytes, self.limits())
            .map_err(|problem| CheckError::at(Stage::Size, problem.into(), kind, source, Vec::new()))?;
        let problem = match signature.map(|signature| keys.signer(&bytes, signature)) {
            Some(Some(signer)) => return Ok(signer.clone()),
            Some(None) => {
                SignatureProblem::NotOurs(keys.0.iter().map(|key| key.fingerprint.short().to_owned()).collect())
            }
            None => SignatureProblem::Missing,
        };
        Err(CheckError::at(Stage::Signature, Problem::Signature(problem), kind, source, Vec::new()))
    }

    /// The plugin's component, unpacked.
    pub fn component(&self, source: &Source) -> Result<bytes::Bytes, CheckError> {
        source::unpack(&source.bytes, self.limits())
            .map_err(|problem| CheckError::at(Stage::Size, problem.into(), Kind::Naming, source, Vec::new()))
    }
}

/// Signs a component with a private key in PEM (`-----BEGIN PRIVATE KEY-----`),
/// Ed25519 or P-256.
pub fn sign(component: &[u8], private_key: &[u8]) -> Result<Vec<u8>, KeyError> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(private_key).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => KeyError::None("PRIVATE KEY"),
        // Without the parser's words: what it quotes is of the key.
        _ => KeyError::Pem("it is damaged".to_owned()),
    })?;
    let key = key.secret_pkcs8_der();
    // openssl writes Ed25519 keys without their public half.
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key) {
        return Ok(pair.sign(component).as_ref().to_vec());
    }
    let random = SystemRandom::new();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key, &random)
        .ok()
        .and_then(|pair| pair.sign(&random, component).ok())
        .map(|signature| signature.as_ref().to_vec())
        .ok_or(KeyError::Algorithm(1))
}
