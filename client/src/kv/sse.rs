//! Server-sent events: bytes in, blocks out. Pure.
//!
//! * In: chunks, cut anywhere. Out: one [`Block`] a blank line, with the fields that stood in it.
//! * Unlike a browser's parser, a block's id is the block's own, not the last one seen: "only a record's last event carries
//!   an id" must stay visible (DESIGN §4); and blocks without data count.
//! * Bounded: a block over the limit is an error.
//! * Source: WHATWG HTML, "Server-sent events", the stream format.

/// One event as it stood in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Its type; empty when it names none.
    pub event: String,
    /// Its data lines, joined by line feeds.
    pub data: String,
    /// Its own id.
    pub id: Option<String>,
}

/// The stream is not of server-sent events, or not within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SseError {
    #[error("an event of more than {limit} bytes")]
    TooLong { limit: usize },
    #[error("an event that is not UTF-8")]
    NotText,
}

/// The parser's state between chunks.
#[derive(Debug)]
pub(super) struct SseParser {
    line: Vec<u8>,
    after_cr: bool,
    at_start: bool,
    block: Block,
    has_fields: bool,
    has_data: bool,
    block_bytes: usize,
    block_bytes_max: usize,
}

impl SseParser {
    pub(super) fn new(block_bytes_max: usize) -> SseParser {
        SseParser {
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            block: Block::default(),
            has_fields: false,
            has_data: false,
            block_bytes: 0,
            block_bytes_max,
        }
    }

    /// Takes a chunk in; gives each block that it completes to `out`.
    pub(super) fn feed(&mut self, chunk: &[u8], out: &mut impl FnMut(Block)) -> Result<(), SseError> {
        let mut rest = chunk;
        while let Some(&first) = rest.first() {
            if self.after_cr && first == b'\n' {
                rest = &rest[1..];
                self.after_cr = false;
                continue;
            }
            self.after_cr = false;
            let end = rest.iter().position(|&byte| byte == b'\n' || byte == b'\r');
            let (piece, ending) = end.map_or((rest, None), |end| (&rest[..end], Some(rest[end])));
            self.block_bytes += piece.len();
            if self.block_bytes > self.block_bytes_max {
                return Err(SseError::TooLong { limit: self.block_bytes_max });
            }
            self.line.extend_from_slice(piece);
            let Some(ending) = ending else { return Ok(()) };
            self.after_cr = ending == b'\r';
            rest = &rest[piece.len() + 1..];
            if let Some(block) = self.end_line()? {
                out(block);
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Block>, SseError> {
        let line = std::mem::take(&mut self.line);
        let mut text = std::str::from_utf8(&line).map_err(|_| SseError::NotText)?;
        if std::mem::take(&mut self.at_start) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            self.block_bytes = 0;
            self.has_data = false;
            let block = std::mem::take(&mut self.block);
            return Ok(std::mem::take(&mut self.has_fields).then_some(block));
        }
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => self.block.event = value.to_owned(),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.block.data.push('\n');
                }
                self.block.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.block.id = Some(value.to_owned()),
            // Comments (an empty name), `retry`, and what later versions may add.
            _ => return Ok(None),
        }
        self.has_fields = true;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(chunks: &[&[u8]]) -> Result<Vec<Block>, SseError> {
        let (mut parser, mut blocks) = (SseParser::new(1000), Vec::new());
        for chunk in chunks {
            parser.feed(chunk, &mut |block| blocks.push(block))?;
        }
        Ok(blocks)
    }

    fn block(event: &str, data: &str, id: Option<&str>) -> Block {
        Block { event: event.to_owned(), data: data.to_owned(), id: id.map(str::to_owned) }
    }

    const STREAM: &str = "\u{feff}: hello\n\nevent: put\ndata: {\"a\":\ndata:1}\n\nevent:put\rdata: é\rid: c7f3a1.0:1\r\r\
                          id:c7f3a1.0:2\r\nevent: progress\r\ndata\r\n\r\nretry: 5\n\ndata: cut off";

    #[test]
    fn lines_fields_and_blocks_are_as_the_standard_says() {
        let wanted = vec![
            block("put", "{\"a\":\n1}", None),
            block("put", "é", Some("c7f3a1.0:1")),
            block("progress", "", Some("c7f3a1.0:2")),
        ];
        assert_eq!(parse(&[STREAM.as_bytes()]).unwrap(), wanted);
    }

    proptest! {
        /// Goal: where a chunk ends does not matter, also within a character or between CR and LF.
        #[test]
        fn chunks_may_be_cut_anywhere(cuts in proptest::collection::btree_set(0..STREAM.len(), 0..12)) {
            let mut chunks = Vec::new();
            let mut at = 0;
            for cut in cuts.into_iter().chain([STREAM.len()]) {
                chunks.push(&STREAM.as_bytes()[at..cut]);
                at = cut;
            }
            prop_assert_eq!(parse(&chunks).unwrap(), parse(&[STREAM.as_bytes()]).unwrap());
        }

        #[test]
        fn any_bytes_are_refused_or_parsed(bytes: Vec<u8>) {
            let _ = parse(&[&bytes]);
        }
    }

    #[test]
    fn an_endless_block_is_refused() {
        let line = format!("data: {}\n", "x".repeat(100));
        let chunks: Vec<&[u8]> = std::iter::repeat_n(line.as_bytes(), 11).collect();
        assert_eq!(parse(&chunks), Err(SseError::TooLong { limit: 1000 }));
        let endless = "x".repeat(1001);
        assert_eq!(parse(&[endless.as_bytes()]), Err(SseError::TooLong { limit: 1000 }));
        let blocks = format!("{line}\n").repeat(30);
        assert_eq!(parse(&[blocks.as_bytes()]).unwrap().len(), 30, "the limit is a block's");
    }
}
