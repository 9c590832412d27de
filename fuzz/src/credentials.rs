//! Tokens and API keys. The first byte says what the rest is, and which of two ways to sign is meant; the next three,
//! what is changed in a credential that is good. One that is good is good for the right reason alone: it was signed by
//! the key's owner over just these bytes, and says itself what it lets its holder do.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use just_storage::application::credentials::{
    ApiKeySecret, NewApiKey, TOKEN_LEEWAY, TokenAlgorithm, TokenVerifier, VerificationKeys,
};
use just_storage::domain::entities::{ApiKey, Permissions, Reach};
use just_storage::domain::value_objects::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const SECRET: &str = "a secret of thirty-two bytes: 01";
const ISSUER: &str = "us";
const AUDIENCE: &str = "store";
/// A whole second.
const NOW: Timestamp = Timestamp::from_millis(1_795_468_200_000);

thread_local! {
    static SIGNERS: [Signer; 2] = [Signer::hs256(), Signer::ed_dsa()];
}

pub fn check(data: &[u8]) {
    let Some((&[kind, place_low, place_high, bits], bytes)) = data.split_first_chunk::<4>() else { return };
    let change = Change { place: u16::from_le_bytes([place_low, place_high]), bits };
    SIGNERS.with(|signers| {
        let (signer, other) = match kind & 0x80 {
            0 => (&signers[0], &signers[1]),
            _ => (&signers[1], &signers[0]),
        };
        match kind % 6 {
            0 => drop(signer.verify(bytes)),
            1 => signed(signer, other, change, bytes),
            2 => claimed(signer, other, change, bytes),
            3 => key_text(bytes),
            4 => new_key(change, bytes),
            _ => verification_keys(bits, bytes),
        }
    });
}

/// What is changed: the byte at a place, by these bits.
#[derive(Clone, Copy)]
struct Change {
    place: u16,
    bits: u8,
}

impl Change {
    fn in_bytes(self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        changed[usize::from(self.place) % bytes.len()] ^= self.bits.max(1);
        changed
    }
}

/// Whoever makes tokens, and what verifies them.
struct Signer {
    algorithm: TokenAlgorithm,
    key: EncodingKey,
    verifier: TokenVerifier,
}

impl Signer {
    fn hs256() -> Self {
        let keys = VerificationKeys::of_secrets(SECRET).unwrap();
        Self::new(EncodingKey::from_secret(SECRET.as_bytes()), keys)
    }

    fn ed_dsa() -> Self {
        let public = include_str!("../../tests/credentials/ed_one.public.pem");
        let private = include_bytes!("../../tests/credentials/ed_one.private.pem");
        let keys = VerificationKeys::of_pem(TokenAlgorithm::EdDsa, public).unwrap();
        Self::new(EncodingKey::from_ed_pem(private).unwrap(), keys)
    }

    fn new(key: EncodingKey, keys: VerificationKeys) -> Self {
        let algorithm = keys.algorithm();
        let verifier = TokenVerifier::new(keys, Some(ISSUER.to_owned()), Some(AUDIENCE.to_owned()));
        Self { algorithm, key, verifier }
    }

    /// The one signature over this message: neither algorithm leaves anything to chance.
    fn signature(&self, message: &str) -> String {
        match self.algorithm {
            TokenAlgorithm::Hs256 => URL_SAFE_NO_PAD.encode(hmac(message.as_bytes())),
            _ => jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, Algorithm::EdDSA).unwrap(),
        }
    }

    fn token(&self, head: &[u8], claims: &[u8]) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        format!("{message}.{}", self.signature(&message))
    }

    /// Whether a token is good; and if it is, that it has every right to be.
    fn verify(&self, token: &[u8]) -> bool {
        let Some(verified) = self.verifier.verify(token, NOW) else { return false };
        let (message, signature) = std::str::from_utf8(token).unwrap().rsplit_once('.').unwrap();
        assert_eq!(signature, self.signature(message), "there is no other way to write one");
        let (head, claims) = message.split_once('.').unwrap();
        let read = |part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).ok();
        // A member that nobody reads may be more than this reader takes.
        let (Some(head), Some(claims)): (Option<Value>, Option<Value>) = (read(head), read(claims)) else {
            return true;
        };
        assert_eq!(head["alg"], self.algorithm.as_str());
        for extension in ["crit", "b64", "enc", "zip", "cty"] {
            assert!(head.get(extension).is_none(), "{head}");
        }
        let text = |name: &str| claims.get(name).map(|value| value.as_str().unwrap());
        let seconds =
            |name: &str| claims.get(name).map(|value| i64::try_from(value.as_u64().unwrap()).unwrap());
        let exp = seconds("exp").unwrap();
        assert!(is_in_time(exp, seconds("nbf").unwrap_or(0)) && verified.expires_at.as_seconds() == exp);
        assert_eq!(text("iss"), Some(ISSUER));
        assert!(match &claims["aud"] {
            Value::Array(named) => named.contains(&AUDIENCE.into()),
            named => named == AUDIENCE,
        });
        let namespaces = claims.get("namespaces").map(|names| {
            names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>()
        });
        let principal = verified.principal;
        assert_eq!(Ok(principal.reach), Reach::parse(text("tenant_id").unwrap(), namespaces));
        assert_eq!(principal.permissions, Permissions::of_words(text("scope").unwrap_or("")));
        assert!(principal.credential_id.unwrap().as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        true
    }
}

/// HMAC (RFC 2104) with SHA-256: said once more, since the verifier's own would agree with itself.
fn hmac(message: &[u8]) -> [u8; 32] {
    let mut key = [0; 64];
    key[..SECRET.len()].copy_from_slice(SECRET.as_bytes());
    let round = |pad: u8, message: &[u8]| {
        Sha256::new().chain_update(key.map(|byte| byte ^ pad)).chain_update(message).finalize()
    };
    round(0x5c, &round(0x36, message)).into()
}

fn is_in_time(exp: i64, nbf: i64) -> bool {
    let (now, leeway) = (NOW.as_seconds(), i64::try_from(TOKEN_LEEWAY.as_secs()).unwrap());
    now < exp + leeway && (0..=now + leeway).contains(&nbf)
}

/// A head and claims of any bytes, a line end between, rightly signed.
fn signed(signer: &Signer, other: &Signer, change: Change, bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (head, claims) = (parts.next().unwrap_or(b""), parts.next().unwrap_or(b""));
    let token = signer.token(head, claims);
    if signer.verify(token.as_bytes()) {
        is_good_as_it_is(signer, other, change, token.as_bytes());
    }
}

/// Claims as an honest issuer makes them, of which it is known what they are worth: eight bytes for two moments around
/// now, then a tenant, a scope, a subject and namespaces on a line each.
fn claimed(signer: &Signer, other: &Signer, change: Change, bytes: &[u8]) {
    let Some((moments, names)) = bytes.split_first_chunk::<8>() else { return };
    let [a, b, c, d, e, f, g, h] = *moments;
    let moment = |bytes| NOW.as_seconds() + i64::from(i32::from_le_bytes(bytes));
    let (exp, nbf) = (moment([a, b, c, d]), moment([e, f, g, h]));
    let names = String::from_utf8_lossy(names);
    let mut lines = names.split('\n');
    let mut line = || lines.next().unwrap_or("");
    let (tenant_id, scope, sub) = (line(), line(), line());
    let namespaces: Vec<&str> = lines.collect();
    let head = json!({"alg": signer.algorithm.as_str(), "typ": "JWT"});
    let mut claims = json!({
        "exp": exp, "nbf": nbf, "iss": ISSUER, "aud": [AUDIENCE], "tenant_id": tenant_id, "scope": scope, "sub": sub,
    });
    if !namespaces.is_empty() {
        claims["namespaces"] = json!(namespaces);
    }
    let is_good = is_in_time(exp, nbf) && Reach::parse(tenant_id, Some(namespaces)).is_ok();
    let token = signer.token(head.to_string().as_bytes(), claims.to_string().as_bytes());
    assert_eq!(signer.verify(token.as_bytes()), is_good, "{claims}");
    if is_good {
        is_good_as_it_is(signer, other, change, token.as_bytes());
    }
}

/// What is good is not with a byte changed, cut short, made longer, or where another key or algorithm is asked for.
fn is_good_as_it_is(signer: &Signer, other: &Signer, change: Change, token: &[u8]) {
    assert!(!other.verify(token), "it is signed otherwise");
    assert!(!signer.verify(&change.in_bytes(token)), "a byte is another one");
    assert!(!signer.verify(&token[..usize::from(change.place) % token.len()]), "it is cut short");
    assert!(!signer.verify(&[token, &[change.bits]].concat()), "something follows");
    assert!(!signer.verify(&[token, b"="].concat()), "there is one way to write it");
}

/// What may be an API key: there is one way to write each.
fn key_text(bytes: &[u8]) {
    let Some(shown) = ApiKeySecret::parse(bytes) else { return };
    assert!(ApiKeySecret::is_meant(bytes));
    let (_, secret) = std::str::from_utf8(bytes).unwrap().split_at("jsk_0123456789abcdef_".len());
    let secret = URL_SAFE_NO_PAD.decode(secret).unwrap();
    let random = [&shown.id().as_u64().to_be_bytes()[..], &secret].concat();
    let new = NewApiKey::of_random(random.as_slice().try_into().unwrap());
    assert_eq!(new.to_string().as_bytes(), bytes);
    assert!(shown.is_of(&kept(&new)));
}

/// A key of these random bytes: it is good as it was told, and no other way.
fn new_key(change: Change, bytes: &[u8]) {
    let Some((random, _)) = bytes.split_first_chunk::<{ NewApiKey::RANDOM_BYTES }>() else { return };
    let new = NewApiKey::of_random(random);
    let (text, kept) = (new.to_string(), kept(&new));
    let is_good = |text: &[u8]| ApiKeySecret::parse(text).is_some_and(|shown| shown.is_of(&kept));
    assert!(is_good(text.as_bytes()));
    assert!(!is_good(&change.in_bytes(text.as_bytes())), "a byte is another one");
    assert!(!is_good(&text.as_bytes()[..usize::from(change.place) % text.len()]), "it is cut short");
}

fn kept(new: &NewApiKey) -> ApiKey {
    ApiKey {
        id: new.id(),
        secret_hash: new.secret_hash(),
        reach: Reach::everything(),
        permissions: Permissions::all(),
        label: None,
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
    }
}

/// What may be a file of keys. It comes from whoever runs the server; still, a mistake in it is told as one.
fn verification_keys(algorithm: u8, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let algorithm = TokenAlgorithm::ALL[usize::from(algorithm) % TokenAlgorithm::ALL.len()];
    let read = [
        VerificationKeys::of_secrets(text),
        VerificationKeys::of_pem(algorithm, text),
        VerificationKeys::of_key_set(algorithm, text),
    ];
    for keys in read.into_iter().flatten() {
        assert!(keys.find_signing(b"a.b", "", None).is_none(), "nobody has signed this");
    }
}
