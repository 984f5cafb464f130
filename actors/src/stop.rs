//! Texts that end an answer, found across token borders. Knows nothing of tokens.

/// Looks for the stop texts in a stream of text, and holds back what may be the start of one.
#[derive(Debug, Default)]
pub(crate) struct StopTexts {
    stops: Vec<String>,
    held: String,
    over: bool,
}

impl StopTexts {
    /// Empty stop texts are left out: they would end every answer before it starts.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            ..Self::default()
        }
    }

    /// Takes more text; gives what is certain to be part of the answer, and whether it ends here.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        if self.over {
            return (String::new(), true);
        }
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop))
            .min();
        if let Some(at) = first {
            self.held.truncate(at);
            self.over = true;
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.open_end();
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The answer ended otherwise: what was held back belongs to it.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the held text that a stop text may start with.
    fn open_end(&self) -> usize {
        let ends = |stop: &String| {
            let starts = stop.char_indices().map(|(at, _)| at).rev();
            let mut lengths = starts.filter(|length| *length > 0);
            lengths.find(|length| self.held.ends_with(&stop[..*length]))
        };
        self.stops.iter().filter_map(ends).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::StopTexts;

    /// Feeds `pieces`; what came out, and after which piece it stopped.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut texts = StopTexts::new(stops.iter().map(ToString::to_string).collect());
        let mut out = String::new();
        for (index, piece) in pieces.iter().enumerate() {
            let (text, stopped) = texts.push(piece);
            out.push_str(&text);
            if stopped {
                return (out, Some(index));
            }
        }
        out.push_str(&texts.finish());
        (out, None)
    }

    #[test]
    fn a_stop_text_ends_the_answer_wherever_tokens_cut_it() {
        let text = "one two END three";
        for cut in 0..=text.len() {
            for cut2 in cut..=text.len() {
                let pieces = [&text[..cut], &text[cut..cut2], &text[cut2..]];
                let (out, stopped) = run(&["END"], &pieces);
                assert_eq!((out.as_str(), stopped.is_some()), ("one two ", true));
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_stop_text_comes_out() {
        assert_eq!(
            run(&["###"], &["a#", "#", "b##"]),
            ("a##b##".to_owned(), None)
        );
    }

    #[test]
    fn the_earliest_of_several_counts() {
        assert_eq!(run(&["yy", "x"], &["a x yy"]), ("a ".to_owned(), Some(0)));
    }

    #[test]
    fn characters_of_several_bytes_are_not_cut() {
        assert_eq!(run(&["→é"], &["a→", "b→é"]), ("a→b".to_owned(), Some(1)));
    }

    #[test]
    fn an_empty_stop_text_is_none() {
        assert_eq!(run(&[""], &["abc"]), ("abc".to_owned(), None));
    }
}
