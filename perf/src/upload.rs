//! The requests of uploads: their heads, and sending them with their bodies.

use std::io::Write as _;

use crate::body::{self, BodySource};
use crate::command_line::DestinationOptions;
use crate::connection::{Connection, Sent};
use crate::failure::Failure;
use crate::target::Target;

/// Writes the heads of the uploads of a run, which differ only in a number.
#[derive(Debug, Clone)]
pub(crate) struct UploadHeads {
    before_number: String,
    after_number: String,
    has_number: bool,
}

impl UploadHeads {
    /// `PUT` of one key after the other.
    pub(crate) fn by_key(target: &Target, destination: &DestinationOptions, size_bytes: u64) -> Self {
        let DestinationOptions { namespace, tenant, keys_prefix, storage_class } = destination;
        // A prefix of its own for each run: an upload to a key that is there already is another operation.
        let prefix = keys_prefix.clone().unwrap_or_else(|| format!("run-{:016x}", body::run_seed()));
        let query = storage_class.map(|class| format!("?storage_class={}", class.as_str()));
        Self {
            before_number: format!("PUT /v1/keys/{namespace}/{tenant}/{prefix}/"),
            after_number: after_target(&query.unwrap_or_default(), target, size_bytes),
            has_number: true,
        }
    }

    /// `POST` of objects that have no key.
    pub(crate) fn without_key(target: &Target, destination: &DestinationOptions, size_bytes: u64) -> Self {
        let DestinationOptions { namespace, tenant, storage_class, .. } = destination;
        let class = storage_class.map(|class| format!("&storage_class={}", class.as_str()));
        Self {
            before_number: format!("POST /v1/objects?namespace={namespace}&tenant_id={tenant}"),
            after_number: after_target(&class.unwrap_or_default(), target, size_bytes),
            has_number: false,
        }
    }

    fn write(&self, number: u64, head: &mut Vec<u8>) {
        head.clear();
        head.extend_from_slice(self.before_number.as_bytes());
        if self.has_number {
            // Writing to a vector cannot fail.
            let _ = write!(head, "{number}");
        }
        head.extend_from_slice(self.after_number.as_bytes());
    }
}

fn after_target(query: &str, target: &Target, size_bytes: u64) -> String {
    format!(
        "{query} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/octet-stream\r\nContent-Length: {size_bytes}\r\n\r\n",
        target.authority
    )
}

/// Sends the uploads of one connection, one after the other.
#[derive(Debug)]
pub(crate) struct Uploader {
    heads: UploadHeads,
    head: Vec<u8>,
    head_is_sent: bool,
    body: BodySource,
}

impl Uploader {
    /// Sends these heads with the bodies of that source.
    pub(crate) fn new(heads: UploadHeads, body: BodySource) -> Self {
        Self { heads, head: Vec::new(), head_is_sent: false, body }
    }

    /// Starts an upload; nothing is sent yet.
    pub(crate) fn begin(&mut self, number: u64) {
        self.heads.write(number, &mut self.head);
        self.head_is_sent = false;
        self.body.begin();
    }

    /// Sends the head if it has not been sent, and so many bytes of the body or what is left of it.
    pub(crate) async fn send(
        &mut self,
        connection: &mut Connection,
        bytes_max: u64,
    ) -> Result<Sent, Failure> {
        let mut allowed_bytes = bytes_max;
        loop {
            let head = if self.head_is_sent { &[][..] } else { &self.head[..] };
            let piece = self.body.piece(usize::try_from(allowed_bytes).unwrap_or(usize::MAX));
            if head.is_empty() && piece.is_empty() {
                return Ok(Sent::Whole);
            }
            if connection.send(head, piece).await? == Sent::AnsweredEarly {
                return Ok(Sent::AnsweredEarly);
            }
            let piece_bytes = piece.len();
            self.head_is_sent = true;
            self.body.advance(piece_bytes);
            allowed_bytes -= piece_bytes as u64;
        }
    }

    /// How much of the body has not been sent.
    pub(crate) fn remaining_bytes(&self) -> u64 {
        self.body.remaining_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::StorageClass;

    fn destination(storage_class: Option<StorageClass>) -> DestinationOptions {
        DestinationOptions {
            namespace: "bench".to_owned(),
            tenant: "perf".to_owned(),
            keys_prefix: Some("a/b".to_owned()),
            storage_class,
        }
    }

    fn head(heads: &UploadHeads, number: u64) -> String {
        let mut head = b"left over".to_vec();
        heads.write(number, &mut head);
        String::from_utf8(head).unwrap()
    }

    #[test]
    fn heads_are_whole_requests() {
        let target: Target = "http://127.0.0.1:8080".parse().unwrap();
        let fields =
            "Host: 127.0.0.1:8080\r\nContent-Type: application/octet-stream\r\nContent-Length: 4096\r\n\r\n";
        let by_key = UploadHeads::by_key(&target, &destination(None), 4096);
        assert_eq!(head(&by_key, 17), format!("PUT /v1/keys/bench/perf/a/b/17 HTTP/1.1\r\n{fields}"));
        let by_key = UploadHeads::by_key(&target, &destination(Some(StorageClass::Hot)), 4096);
        assert_eq!(
            head(&by_key, 0),
            format!("PUT /v1/keys/bench/perf/a/b/0?storage_class=hot HTTP/1.1\r\n{fields}")
        );
        let without_key = UploadHeads::without_key(&target, &destination(Some(StorageClass::Cold)), 4096);
        assert_eq!(
            head(&without_key, 17),
            format!(
                "POST /v1/objects?namespace=bench&tenant_id=perf&storage_class=cold HTTP/1.1\r\n{fields}"
            )
        );
    }
}
