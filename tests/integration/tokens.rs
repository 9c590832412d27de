//! Tokens and keys as tests show them, and servers that ask for them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::raw::Response;
use crate::server::Server;

/// What the servers of these tests verify tokens with.
pub(crate) const SECRET: &str = "a secret of thirty-two bytes: 01";

/// A server that asks for credentials.
pub(crate) fn strict_server(flags: &[&str]) -> Server {
    Server::start_with(&[&["--auth-mode", "required", "--jwt-secret", SECRET], flags].concat())
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of a token that is good for a while.
pub(crate) fn claims(tenant_id: &str, scope: &str) -> Value {
    json!({"exp": now() + 600, "tenant_id": tenant_id, "scope": scope, "sub": "tester"})
}

/// A token of these claims, signed as the servers of these tests want it.
pub(crate) fn token(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
        .unwrap()
}

/// A good token of a tenant with all scopes.
pub(crate) fn token_of(tenant_id: &str) -> String {
    token(&claims(tenant_id, "read write delete admin"))
}

/// A token whose parts are what they are given to be, and whose signature is right all the same.
pub(crate) fn forged(head: &[u8], claims: &[u8], secret: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

/// One request with a token.
pub(crate) fn with_token(server: &Server, token: &str, method: &str, target: &str, body: &[u8]) -> Response {
    server.request(method, target, &[("Authorization", &format!("Bearer {token}"))], body)
}
