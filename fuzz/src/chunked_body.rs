//! Bodies in chunks. The first two bytes say in what pieces the rest comes, and how much content is taken at once.

use just_storage::api::http1::{BodyDecoder, BodyFraming};

/// Content, how many bytes were used, whether the body has ended; or that it is refused.
type Outcome = Result<(Vec<u8>, usize, bool, Option<Vec<u8>>), ()>;

fn decode(input: &[u8], piece: usize, content_max: usize) -> Outcome {
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    let (mut content, mut used, mut come) = (Vec::new(), 0, 0);
    loop {
        let decoded = decoder.decode(&input[used..come], content_max).map_err(|_| ())?;
        assert!(decoded.content.end <= decoded.consumed && decoded.content.len() <= content_max);
        content.extend_from_slice(&input[used..come][decoded.content]);
        used += decoded.consumed;
        if decoder.has_ended() {
            return Ok((content, used, true, decoder.trailer_digest().map(<[u8]>::to_vec)));
        }
        if decoded.consumed == 0 {
            if come == input.len() {
                return Ok((content, used, false, None));
            }
            come = input.len().min(come + piece);
        }
    }
}

pub fn check(data: &[u8]) {
    let [piece, content_max, input @ ..] = data else { return };
    let whole = decode(input, input.len().max(1), usize::MAX);
    let pieces = decode(input, usize::from(*piece) + 1, usize::from(*content_max) + 1);
    assert_eq!(whole.is_ok(), pieces.is_ok());
    if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
        assert_eq!(whole, pieces, "how the bytes come changes nothing");
    }
    let Ok((content, used, true, _)) = whole else { return };
    assert!(input[..used].ends_with(b"\r\n") && content.len() + 5 <= used);
    // What follows the end of a body is not a part of it.
    assert_eq!(decode(&input[..used], 7, 5).map(|(again, ..)| again), Ok(content));
}
