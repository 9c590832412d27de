//! Tokens that somebody has tampered with, one for each trick that is known. None lets anybody in.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::server::Server;
use crate::tokens::{SECRET, claims, forged, now, strict_server, token, token_of, with_token};

const TARGET: &str = "/v1/objects?namespace=models&tenant_id=acme";
const HEAD: &[u8] = br#"{"alg":"HS256","typ":"JWT"}"#;

fn good() -> Value {
    claims("acme", "read")
}

fn signed(head: &[u8], claims: &Value) -> String {
    forged(head, claims.to_string().as_bytes(), SECRET.as_bytes())
}

/// A token with one claim changed, signed as it should be.
fn with(claim: &str, value: Value) -> String {
    let mut claims = good();
    claims[claim] = value;
    token(&claims)
}

fn without(claim: &str) -> String {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(claim);
    token(&claims)
}

/// A token whose claims are this text.
fn raw(claims: &str) -> String {
    forged(HEAD, claims.as_bytes(), SECRET.as_bytes())
}

fn encoded(text: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Names of the trick, and the tokens.
fn hostile() -> Vec<(String, String)> {
    let mut cases: Vec<(String, String)> = Vec::new();
    let mut case = |name: &str, token: String| cases.push((name.to_owned(), token));
    let honest = token(&good());
    let (message, signature) = honest.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    let other = token_of("other");
    let other_signature = other.rsplit_once('.').unwrap().1;
    let exp = now() + 600;

    // No signature at all.
    for alg in ["none", "None", "NONE", "nOnE", "", " none", "null", "HS256 "] {
        let unsigned = encoded(json!({"alg": alg, "typ": "JWT"}).to_string().as_bytes());
        case(&format!("alg {alg:?} without a signature"), format!("{unsigned}.{body}."));
        case(
            &format!("alg {alg:?} with a signature"),
            signed(json!({"alg": alg}).to_string().as_bytes(), &good()),
        );
    }
    case("an empty signature", format!("{message}."));
    case("no signature", message.to_owned());
    // Another algorithm than the one that is asked for.
    for alg in ["HS384", "HS512", "RS256", "ES256", "EdDSA", "PS256", "hs256", "HS-256", "dir", "A128KW"] {
        case(&format!("alg {alg}"), signed(json!({"alg": alg}).to_string().as_bytes(), &good()));
    }
    let rsa = EncodingKey::from_rsa_pem(include_bytes!("../credentials/rsa_one.private.pem")).unwrap();
    let by_rsa = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &good(), &rsa).unwrap();
    case("a real RS256 signature", by_rsa);
    for value in [json!(null), json!(256), json!(["HS256"]), json!({"HS256": 1}), json!(true)] {
        case(&format!("alg {value}"), signed(json!({"alg": value}).to_string().as_bytes(), &good()));
    }
    case("no alg", signed(br#"{"typ":"JWT"}"#, &good()));
    case("alg twice, none first", signed(br#"{"alg":"none","alg":"HS256"}"#, &good()));
    case("alg twice, none last", signed(br#"{"alg":"HS256","alg":"none"}"#, &good()));

    // A key that is not the server's.
    for (name, secret) in [
        ("an empty secret", ""),
        ("another secret", "another secret of thirty-two byte"),
        ("a secret cut short", &SECRET[..31]),
        ("a secret with a line end", "a secret of thirty-two bytes: 01\n"),
        ("a well-known secret", "secret"),
    ] {
        case(name, forged(HEAD, good().to_string().as_bytes(), secret.as_bytes()));
    }
    for (name, field, value) in [
        ("a kid that is a path to nothing", "kid", json!("../../../../../../dev/null")),
        ("a kid that is a query", "kid", json!("x' UNION SELECT '' --")),
        ("a kid that is a command", "kid", json!("|true")),
        ("a key set elsewhere", "jku", json!("http://127.0.0.1:9/keys.json")),
        ("a certificate elsewhere", "x5u", json!("http://127.0.0.1:9/certificate")),
        ("a key of its own", "jwk", json!({"kty": "oct", "k": ""})),
        ("a certificate of its own", "x5c", json!(["MIIB"])),
    ] {
        let mut head = json!({"alg": "HS256", "typ": "JWT"});
        head[field] = value;
        case(name, forged(head.to_string().as_bytes(), good().to_string().as_bytes(), b""));
    }
    case("a kid that is no text", signed(br#"{"alg":"HS256","kid":7}"#, &good()));
    case("a kid that is null", signed(br#"{"alg":"HS256","kid":null}"#, &good()));
    case("a kid twice", signed(br#"{"alg":"HS256","kid":"a","kid":"b"}"#, &good()));

    // Extensions and other kinds of token.
    for head in [
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":null}"#,
        r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#,
        r#"{"alg":"HS256","b64":false}"#,
        r#"{"alg":"HS256","enc":"A128GCM"}"#,
        r#"{"alg":"dir","enc":"A256GCM"}"#,
        r#"{"alg":"HS256","zip":"DEF"}"#,
        r#"{"alg":"HS256","cty":"JWT"}"#,
        r#"{"alg":"HS256","typ":"logout+jwt"}"#,
        r#"{"alg":"HS256","typ":"JOSE"}"#,
        r#"{"alg":"HS256","typ":7}"#,
        r#"["HS256","JWT"]"#,
        r#""HS256""#,
        "null",
        "",
        "{",
        r#"{"alg":"HS256"} {"alg":"none"}"#,
    ] {
        case(&format!("the head {head}"), signed(head.as_bytes(), &good()));
    }

    // Parts and their encoding.
    case("nothing", String::new());
    case("two dots", "..".into());
    case("no dots", "abc".into());
    case("four parts", format!("{honest}.{signature}"));
    case("five parts", format!("{head}.{body}.{body}.{body}.{signature}"));
    case("a part in front", format!("{head}.{honest}"));
    case("an empty part in the middle", format!("{head}..{signature}"));
    case("a head and a signature alone", format!("{head}.{signature}"));
    case("no head", format!(".{body}.{signature}"));
    case("a dot behind", format!("{honest}."));
    case("a dot in front", format!(".{honest}"));
    case("a space within", honest.replacen('.', " .", 1));
    case("padding behind", format!("{honest}="));
    case("a padded head", {
        let head = URL_SAFE.encode(br#"{"alg":"HS256","typ":"JW"}"#);
        format!("{head}.{body}.{signature}")
    });
    case("a signature in the other base64", {
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        format!("{message}.{}", STANDARD.encode(bytes))
    });
    case("a signature in hexadecimal", {
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        format!("{message}.{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    });
    case("a signature with other bits behind its end", {
        let (rest, last) = signature.split_at(signature.len() - 1);
        const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let index = ALPHABET.find(last).unwrap();
        format!("{message}.{rest}{}", &ALPHABET[index + 1..index + 2])
    });
    case("a signature cut short", format!("{message}.{}", &signature[..signature.len() - 1]));
    case("half a signature", format!("{message}.{}", &signature[..signature.len() / 2]));
    case("a signature twice", format!("{message}.{signature}{signature}"));
    case("the signature of another token", format!("{message}.{other_signature}"));
    case("the claims of another token", {
        let other_body = other.split('.').nth(1).unwrap();
        format!("{head}.{other_body}.{signature}")
    });
    case("one bit of the claims changed", {
        let mut bytes = URL_SAFE_NO_PAD.decode(body).unwrap();
        bytes[10] ^= 1;
        format!("{head}.{}.{signature}", encoded(&bytes))
    });
    case("a token without its last character", honest[..honest.len() - 1].to_owned());
    case("a token without its first character", honest[1..].to_owned());
    case("a token in quotes", format!("\"{honest}\""));
    case("a token twice", format!("{honest} {honest}"));
    case("a token with a comma", format!("{honest},{honest}"));
    case("a token percent-encoded", honest.replace('.', "%2E"));
    case("a token that is too long", with("padding", json!("x".repeat(8 * 1024))));
    case("a token in JSON", json!({"payload": body, "protected": head, "signature": signature}).to_string());

    // Claims: when.
    for value in [
        json!(exp.to_string()),
        json!(exp as f64 + 0.5),
        json!(-1),
        json!(0),
        json!(now() - 31),
        json!(u64::MAX),
        json!(253_402_300_800u64),
        json!(null),
        json!(true),
        json!([exp]),
        json!({"exp": exp}),
    ] {
        case(&format!("exp {value}"), with("exp", value));
    }
    for text in ["1e400", "18446744073709551616", "-18446744073709551616", "1.8e9", "NaN", "0x7fffffff"] {
        let claims = format!(r#"{{"exp":{text},"tenant_id":"acme","scope":"read"}}"#);
        case(&format!("exp {text}"), raw(&claims));
    }
    case("no exp", without("exp"));
    for value in
        [json!(now() + 60), json!("0"), json!(null), json!(-1), json!(u64::MAX), json!(1.5), json!([])]
    {
        case(&format!("nbf {value}"), with("nbf", value));
    }

    // Claims: who.
    for value in [
        json!(null),
        json!(""),
        json!(["acme"]),
        json!([]),
        json!({"$ne": ""}),
        json!(7),
        json!(true),
        json!("a".repeat(129)),
        json!("acme\u{0}"),
        json!("acme\n"),
        json!(" acme"),
        json!("acme/../other"),
        json!("-acme"),
        json!("äcme"),
        json!("**"),
        json!("acm*"),
    ] {
        case(&format!("tenant_id {value}"), with("tenant_id", value));
    }
    case("no tenant_id", without("tenant_id"));
    for value in
        [json!(null), json!("models"), json!({"models": 1}), json!([7]), json!(["Models"]), json!(["*"])]
    {
        case(&format!("namespaces {value}"), with("namespaces", value));
    }
    for value in [json!(null), json!(["read"]), json!(7), json!({"read": true})] {
        case(&format!("scope {value}"), with("scope", value));
    }
    for value in [json!(7), json!(null), json!(["tester"])] {
        case(&format!("sub {value}"), with("sub", value));
    }

    // Claims: their form.
    for (name, text) in [
        ("exp twice", format!(r#"{{"exp":1,"tenant_id":"acme","scope":"read","exp":{exp}}}"#)),
        (
            "tenant_id twice",
            format!(r#"{{"exp":{exp},"tenant_id":"other","scope":"read","tenant_id":"acme"}}"#),
        ),
        ("scope twice", format!(r#"{{"exp":{exp},"tenant_id":"acme","scope":"","scope":"read"}}"#)),
        ("tenant_id by an escape and again", {
            format!(r#"{{"exp":{exp},"tenant_id":"other","scope":"read","tenant\u005fid":"acme"}}"#)
        }),
        ("claims in an array", format!(r#"[{exp},0,"us","store","tester","acme",["models"],"read"]"#)),
        ("claims in a text", r#""acme""#.to_owned()),
        ("no claims", String::new()),
        ("empty claims", "{}".to_owned()),
        ("claims cut short", format!(r#"{{"exp":{exp},"tenant_id":"acme","scope":"read""#)),
        ("something behind the claims", format!(r#"{{"exp":{exp},"tenant_id":"acme","scope":"read"}}x"#)),
        ("claims twice", format!(r#"{{"exp":{exp},"tenant_id":"acme"}}{{"exp":{exp},"tenant_id":"acme"}}"#)),
        ("claims with a comment", format!(r#"{{"exp":{exp},/**/"tenant_id":"acme","scope":"read"}}"#)),
        (
            "claims with a byte order mark",
            format!("\u{feff}{{\"exp\":{exp},\"tenant_id\":\"acme\",\"scope\":\"read\"}}"),
        ),
        (
            "claims that nest deeply",
            format!(r#"{{"exp":{exp},"tenant_id":"acme","x":{}}}"#, "[".repeat(3000)),
        ),
        (
            "other names for the claims",
            format!(r#"{{"EXP":{exp},"Exp":{exp},"tenant_id":"acme","scope":"read"}}"#),
        ),
    ] {
        case(name, raw(&text));
    }
    case("claims that are not UTF-8", forged(HEAD, b"{\"exp\":1,\"tenant_id\":\"\xff\"}", SECRET.as_bytes()));
    cases
}

#[test]
fn no_token_that_was_tampered_with_lets_anybody_in() {
    let server = strict_server(&[]);
    assert_eq!(with_token(&server, &token(&good()), "GET", TARGET, b"").status, 200, "an honest one does");
    let cases = hostile();
    assert!(cases.len() > 150, "{}", cases.len());
    let mut connection = server.connect();
    for (name, token) in &cases {
        let field = format!("Bearer {token}");
        let response = connection.exchange("GET", TARGET, &[("Authorization", &field)], b"");
        response.assert_problem(401, "invalid_token", name);
        let challenge = "Bearer realm=\"just_storage\", error=\"invalid_token\"";
        assert_eq!(response.header("WWW-Authenticate"), Some(challenge), "{name}");
    }
    assert_told_no_token(&server, &cases);
}

#[test]
fn no_token_that_was_tampered_with_is_an_api_key() {
    let server = strict_server(&[]);
    let mut connection = server.connect();
    for token in [
        "jsk_",
        "jsk_0123456789abcdef_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "jsk_0123456789ABCDEF_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "jsk_0123456789abcdef_AAAA",
        "jsk_0123456789abcdef'_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "JSK_0123456789abcdef_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "0123456789abcdef",
        "*",
    ] {
        for field in [("X-API-Key", token.to_owned()), ("Authorization", format!("Bearer {token}"))] {
            let response = connection.exchange("GET", TARGET, &[(field.0, &field.1)], b"");
            response.assert_problem(401, "invalid_token", token);
        }
    }
}

/// Holds the log to tell of the requests, and of no credential.
fn assert_told_no_token(server: &Server, cases: &[(String, String)]) {
    let lines = server.log_lines().join("\n");
    for (name, token) in cases.iter().filter(|(_, token)| token.len() > 40) {
        assert!(!lines.contains(token.as_str()), "{name} is told");
    }
}
