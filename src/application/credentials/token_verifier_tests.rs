use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::super::{KeyError, TokenAlgorithm};
use super::*;

const SECRET: &str = "a secret of thirty-two bytes: 01";
const NOW: Timestamp = Timestamp::from_millis(1_795_468_200_000);
const SET: &str = include_str!("../../../tests/credentials/keys.json");

macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("../../../tests/credentials/", $name, ".pem"))
    };
}

/// Everything that a token needs.
fn claims() -> Value {
    json!({"exp": NOW.as_seconds() + 60, "tenant_id": "acme", "scope": "read write"})
}

fn signed(algorithm: Algorithm, key: &EncodingKey, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn by_secret(claims: &Value) -> String {
    signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), None, claims)
}

fn verifier() -> TokenVerifier {
    TokenVerifier::new(VerificationKeys::of_secrets(SECRET).unwrap(), None, None)
}

fn is_good(verifier: &TokenVerifier, token: &str) -> bool {
    verifier.verify(token.as_bytes(), NOW).is_some()
}

/// An algorithm, and its two keys that sign and verify.
type Pairs = (TokenAlgorithm, Algorithm, [(EncodingKey, &'static str); 2]);

fn pairs() -> [Pairs; 3] {
    let rsa = |text: &str| EncodingKey::from_rsa_pem(text.as_bytes()).unwrap();
    let ec = |text: &str| EncodingKey::from_ec_pem(text.as_bytes()).unwrap();
    let ed = |text: &str| EncodingKey::from_ed_pem(text.as_bytes()).unwrap();
    [
        (
            TokenAlgorithm::Rs256,
            Algorithm::RS256,
            [
                (rsa(pem!("rsa_one.private")), pem!("rsa_one.public")),
                (rsa(pem!("rsa_two.private")), pem!("rsa_two.public")),
            ],
        ),
        (
            TokenAlgorithm::Es256,
            Algorithm::ES256,
            [
                (ec(pem!("ec_one.private")), pem!("ec_one.public")),
                (ec(pem!("ec_two.private")), pem!("ec_two.public")),
            ],
        ),
        (
            TokenAlgorithm::EdDsa,
            Algorithm::EdDSA,
            [
                (ed(pem!("ed_one.private")), pem!("ed_one.public")),
                (ed(pem!("ed_two.private")), pem!("ed_two.public")),
            ],
        ),
    ]
}

#[test]
fn a_token_says_who_asks() {
    let all = json!({
        "exp": NOW.as_seconds() + 60, "tenant_id": "acme", "namespaces": ["models", "data"],
        "scope": "openid read delete", "sub": "alice", "name": "whatever",
    });
    let verified = verifier().verify(by_secret(&all).as_bytes(), NOW).unwrap();
    let Principal { credential_id, reach, permissions } = verified.principal;
    assert_eq!(credential_id.unwrap().as_str(), "jwt:alice");
    assert_eq!(reach, Reach::parse("acme", Some(["models", "data"])).unwrap());
    assert_eq!(permissions.to_string(), "read delete");
    assert_eq!(verified.expires_at.as_millis(), NOW.as_millis() + 60_000);

    let least = json!({"exp": NOW.as_seconds() + 60, "tenant_id": "*"});
    let principal = verifier().verify(by_secret(&least).as_bytes(), NOW).unwrap().principal;
    assert!(principal.reach.is_everything() && principal.permissions == Permissions::default());
    let name = principal.credential_id.unwrap();
    assert!(name.as_str().starts_with("jwt:#") && name.as_str().len() == 21, "{name:?}");
}

#[test]
fn tokens_are_good_from_their_beginning_to_their_end_and_a_little_around() {
    let (now, leeway) = (NOW.as_seconds(), TOKEN_LEEWAY.as_secs() as i64);
    for (claim, seconds, good) in [
        ("exp", now - leeway + 1, true),
        ("exp", now - leeway, false),
        ("exp", SECONDS_MAX as i64, true),
        ("exp", SECONDS_MAX as i64 + 1, false),
        ("nbf", now + leeway, true),
        ("nbf", now + leeway + 1, false),
        ("nbf", 0, true),
    ] {
        let mut claims = claims();
        claims[claim] = seconds.into();
        assert_eq!(is_good(&verifier(), &by_secret(&claims)), good, "{claims}");
    }
}

#[test]
fn an_issuer_and_an_audience_are_asked_for_where_they_are_set() {
    let keys = || VerificationKeys::of_secrets(SECRET).unwrap();
    let both = TokenVerifier::new(keys(), Some("us".into()), Some("store".into()));
    for (iss, aud, good) in [
        (json!("us"), json!("store"), true),
        (json!("us"), json!(["other", "store"]), true),
        (json!("us"), json!(["other"]), false),
        (json!("us"), json!([]), false),
        (json!("us"), json!("stores"), false),
        (json!("us"), json!(null), false),
        (json!("us"), json!({"store": 1}), false),
        (json!("them"), json!("store"), false),
        (json!(["us"]), json!("store"), false),
        (json!(null), json!("store"), false),
    ] {
        let mut claims = claims();
        (claims["iss"], claims["aud"]) = (iss, aud);
        assert_eq!(is_good(&both, &by_secret(&claims)), good, "{claims}");
    }
    assert!(!is_good(&both, &by_secret(&claims())), "they are not there");
    let mut others = claims();
    (others["iss"], others["aud"]) = ("them".into(), "somebody".into());
    assert!(is_good(&verifier(), &by_secret(&others)), "nobody has asked");
}

#[test]
fn each_algorithm_verifies_its_own_and_no_other() {
    for (algorithm, of_crate, [(one, public_one), (two, public_two)]) in pairs() {
        let only_one = VerificationKeys::of_pem(algorithm, public_one).unwrap();
        let only_one = TokenVerifier::new(only_one, None, None);
        assert!(is_good(&only_one, &signed(of_crate, &one, None, &claims())), "{algorithm:?}");
        assert!(!is_good(&only_one, &signed(of_crate, &two, None, &claims())));
        assert!(!is_good(&only_one, &by_secret(&claims())));
        // The public key as a secret: whoever verifies by what the token says would fall for it.
        let confused = EncodingKey::from_secret(public_one.as_bytes());
        assert!(!is_good(&only_one, &signed(Algorithm::HS256, &confused, None, &claims())));

        // While one key follows the other, both are good.
        let text = format!("# old\n{public_one}\n# new\n{public_two}");
        let both = TokenVerifier::new(VerificationKeys::of_pem(algorithm, &text).unwrap(), None, None);
        for key in [&one, &two] {
            assert!(is_good(&both, &signed(of_crate, key, Some("any"), &claims())), "{algorithm:?}");
        }
        assert!(VerificationKeys::of_pem(TokenAlgorithm::Hs256, public_one).is_err());
    }
    let two_secrets = VerificationKeys::of_secrets(&format!("{}\r\n\n{SECRET}\n", "t".repeat(32))).unwrap();
    assert!(is_good(&TokenVerifier::new(two_secrets, None, None), &by_secret(&claims())));
}

#[test]
fn a_set_of_keys_gives_those_of_its_algorithm_by_name() {
    for (algorithm, of_crate, [(one, _), (two, _)]) in pairs() {
        let keys = VerificationKeys::of_key_set(algorithm, SET).unwrap();
        assert_eq!(format!("{keys:?}"), format!("2 keys for {}", algorithm.as_str()));
        let verifier = TokenVerifier::new(keys, None, None);
        let kind = match algorithm {
            TokenAlgorithm::Rs256 => "rsa",
            TokenAlgorithm::Es256 => "ec",
            _ => "ed",
        };
        let named = |name: &str| format!("{kind}-{name}");
        for (key, kid, good) in [
            (&one, Some(named("one")), true),
            (&two, Some(named("two")), true),
            (&two, None, true),
            (&two, Some(named("one")), false),
            (&one, Some("../../../dev/null".into()), false),
            (&one, Some(String::new()), false),
        ] {
            let token = signed(of_crate, key, kid.as_deref(), &claims());
            assert_eq!(is_good(&verifier, &token), good, "{algorithm:?} {kid:?}");
        }
    }
    let keys = VerificationKeys::of_key_set(TokenAlgorithm::Hs256, SET).unwrap();
    assert!(is_good(&TokenVerifier::new(keys, None, None), &by_secret(&claims())));
}

#[test]
fn keys_that_are_weak_or_none_are_refused() {
    let pem = VerificationKeys::of_pem;
    let set = |text: &str| VerificationKeys::of_key_set(TokenAlgorithm::EdDsa, text).unwrap_err();
    let short = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}"#;
    let long = format!("{}\n", "s".repeat(32)).repeat(17);
    for (error, expected) in [
        (VerificationKeys::of_secrets(&SECRET[1..]).unwrap_err(), KeyError::SecretTooShort),
        (VerificationKeys::of_secrets("\n\n").unwrap_err(), KeyError::None),
        (VerificationKeys::of_secrets(&long).unwrap_err(), KeyError::TooMany),
        (pem(TokenAlgorithm::Rs256, pem!("rsa_short.public")).unwrap_err(), KeyError::RsaLength),
        (pem(TokenAlgorithm::Es256, pem!("ec_p384.public")).unwrap_err(), KeyError::Broken("ES256")),
        (pem(TokenAlgorithm::Rs256, pem!("ec_one.public")).unwrap_err(), KeyError::Pem("RS256")),
        (pem(TokenAlgorithm::Es256, pem!("rsa_one.public")).unwrap_err(), KeyError::Pem("ES256")),
        (pem(TokenAlgorithm::Rs256, pem!("rsa_one.private")).unwrap_err(), KeyError::Pem("RS256")),
        (pem(TokenAlgorithm::EdDsa, "not a key").unwrap_err(), KeyError::None),
        (set("[]"), KeyError::KeySet),
        (set("{"), KeyError::KeySet),
        (set(r#"{"keys":[]}"#), KeyError::NoneFits("EdDSA")),
        (set(r#"{"keys":[{"kty":"EC"}, 7]}"#), KeyError::NoneFits("EdDSA")),
        (set(short), KeyError::Broken("EdDSA")),
    ] {
        assert_eq!(error, expected);
    }
    assert!(VerificationKeys::of_secrets(&long[33..]).is_ok(), "sixteen are not too many");
}
