use proptest::prelude::*;

use super::*;

/// Feeds `wire` in slices; returns the body, the trailers, and the bytes after them.
fn run(
    framing: Framing,
    side: Side,
    wire: &[u8],
    cuts: &[usize],
) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Malformed> {
    let mut decoder = Decoder::new(framing, side);
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    let mut buf = BytesMut::new();
    let mut rest = wire;
    let mut cuts = cuts.iter().cycle();
    loop {
        match decoder.step(&mut buf)? {
            Step::Data(data) => body.extend_from_slice(&data),
            Step::Trailers(map) => trailers = map,
            Step::End => {
                buf.extend_from_slice(rest);
                return Ok((body, trailers, buf.to_vec()));
            }
            Step::More if rest.is_empty() => {
                return if decoder.close() {
                    Ok((body, trailers, Vec::new()))
                } else {
                    Err(Malformed::bad("cut off"))
                };
            }
            Step::More => {
                let n = (*cuts.next().unwrap_or(&1)).clamp(1, rest.len());
                buf.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
            }
        }
    }
}

#[test]
fn bad_chunks_are_refused() {
    for wire in [
        "x\r\n",
        "\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "1000000000000000\r\n",
        "-1\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5_0\r\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5;=a\r\nhello\r\n0\r\n\r\n",
        "5;a=\r\nhello\r\n0\r\n\r\n",
        "5;a b\r\nhello\r\n0\r\n\r\n",
        "5;a{\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\u{1}\"\r\nhello\r\n0\r\n\r\n",
        "5;\u{0}\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "0\r\nbad\r\n\r\n",
        "0\r\na: b\nc: d\r\n\r\n",
        "0\r\n a: b\r\n\r\n",
        "0\r\ncookie: \u{1}\r\n\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhel",
    ] {
        for side in [Side::Request, Side::Response] {
            let run = run(Framing::Chunked, side, wire.as_bytes(), &[1]);
            assert!(run.is_err(), "{side:?} {wire:?}");
        }
    }
}

#[test]
fn well_formed_chunk_extensions_are_ignored() {
    for line in [
        "5;a",
        "5 ;a",
        "5\t; a = b ;c",
        "5;a=\"b;c\\\"d\"",
        "5;a=b;c=\"\"",
        "05",
    ] {
        let wire = format!("{line}\r\nhello\r\n0;last\r\n\r\n");
        let (body, ..) = run(Framing::Chunked, Side::Request, wire.as_bytes(), &[1]).unwrap();
        assert_eq!(body, b"hello", "{line:?}");
    }
}

#[test]
fn blanks_after_a_chunk_size_are_accepted_in_responses_only() {
    let wire = b"5 \t\r\nhello\r\n0 \r\n\r\n";
    assert!(run(Framing::Chunked, Side::Request, wire, &[1]).is_err());
    let (body, ..) = run(Framing::Chunked, Side::Response, wire, &[1]).unwrap();
    assert_eq!(body, b"hello");
}

#[test]
fn chunk_extensions_are_limited_for_each_chunk_and_for_the_body() {
    let chunk = |bytes: usize| format!("1;{}\r\nx\r\n", "a".repeat(bytes));
    let body = |chunks: usize, bytes: usize| chunk(bytes).repeat(chunks) + "0\r\n\r\n";
    for (chunks, bytes, fine) in [
        (1, 1_000, true),
        (1, 2_000, false),
        (15, 1_000, true),
        (20, 1_000, false),
    ] {
        let wire = body(chunks, bytes);
        let run = run(Framing::Chunked, Side::Request, wire.as_bytes(), &[4_096]);
        assert_eq!(run.is_ok(), fine, "{chunks} of {bytes}");
    }
}

#[test]
fn fields_that_belong_in_the_head_are_removed_from_trailers() {
    let wire = b"3;ext=1\r\nabc\r\n0\r\nx-sum: 1\r\ncontent-length: 7\r\nTransfer-Encoding: x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\nnext";
    let (body, trailers, rest) = run(Framing::Chunked, Side::Request, wire, &[wire.len()]).unwrap();
    assert_eq!((&*body, &*rest), (&b"abc"[..], &b"next"[..]));
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["x-sum"], "1");
}

#[test]
fn trailers_are_limited() {
    let long = format!("0\r\na: {}\r\n\r\n", "x".repeat(MAX_TRAILERS));
    assert!(run(Framing::Chunked, Side::Request, long.as_bytes(), &[1_000]).is_err());
    assert!(
        run(
            Framing::Chunked,
            Side::Request,
            long.as_bytes(),
            &[long.len()]
        )
        .is_err()
    );
    let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(33));
    assert!(run(Framing::Chunked, Side::Request, many.as_bytes(), &[1_000]).is_err());
}

#[test]
fn a_length_is_kept_exactly() {
    let (body, _, rest) = run(Framing::Length(3), Side::Request, b"abcdef", &[2]).unwrap();
    assert_eq!((&*body, &*rest), (&b"abc"[..], &b"def"[..]));
    assert!(
        run(Framing::Length(3), Side::Request, b"ab", &[1]).is_err(),
        "cut off"
    );
    let (body, ..) = run(Framing::Close, Side::Response, b"ab", &[1]).unwrap();
    assert_eq!(body, b"ab");
}

proptest! {
    #[test]
    fn written_chunks_are_read_back(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8),
        cuts in prop::collection::vec(1_usize..9, 1..5),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            write_size(chunk.len(), &mut wire);
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(LAST_CHUNK);
        wire.extend_from_slice(b"HTTP");
        let (body, _, rest) = run(Framing::Chunked, Side::Request, &wire, &cuts).unwrap();
        prop_assert_eq!(body, chunks.concat());
        prop_assert_eq!(rest, b"HTTP");
    }

    #[test]
    fn slicing_a_body_does_not_change_its_reading(
        wire in prop::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), Just(b'a'), Just(b':'),
            Just(b'='), Just(b'"'), Just(b' '), any::<u8>(),
        ], 0..60),
        cuts in prop::collection::vec(1_usize..9, 1..5),
    ) {
        for side in [Side::Request, Side::Response] {
            for framing in [Framing::Chunked, Framing::Length(7), Framing::Close, Framing::None] {
                let whole = run(framing, side, &wire, &[wire.len().max(1)]);
                let sliced = run(framing, side, &wire, &cuts);
                prop_assert_eq!(whole.is_ok(), sliced.is_ok());
                if let (Ok(whole), Ok(sliced)) = (whole, sliced) {
                    prop_assert_eq!(whole, sliced);
                }
            }
        }
    }
}
