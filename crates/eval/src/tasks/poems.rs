//! Poems asked for by titles and first lines that were held out of training.

use std::collections::BTreeMap;

use fathom_data::generate::Split;
use fathom_data::generate::poems::{Filter, Form, Given, Poem, Request, Row, has_form};

use super::Task;

/// Requests for poems; what is judged is the form alone: lines, characters, punctuation.
#[derive(Clone, Debug)]
pub struct Poems {
    requests: Vec<Request>,
}

impl Poems {
    /// Of the regular poems among `rows`, `count` held-out ones, as many of each form and each way to ask as there are.
    pub fn new(rows: impl Iterator<Item = Row>, seed: u64, count: usize) -> Self {
        const WAYS: [Given; 3] = [Given::Title, Given::FirstLine, Given::TitleAlone];
        let mut filter = Filter::default();
        let mut by_form: BTreeMap<Form, Vec<Poem>> = BTreeMap::new();
        for row in rows {
            if let Ok(poem) = filter.take(&row)
                && poem.split() == Split::HeldOut
                && poem.title.is_some()
            {
                by_form.entry(poem.form).or_default().push(poem);
            }
        }
        let longest = by_form.values().map(Vec::len).max().unwrap_or(0);
        let turns = (0..longest).flat_map(|index| by_form.values().filter_map(move |poems| poems.get(index)));
        let ask = |(number, poem): (usize, &Poem)| {
            let way = WAYS[number / by_form.len().max(1) % WAYS.len()];
            poem.request(seed, number as u64, way)
        };
        Self { requests: turns.enumerate().filter_map(ask).take(count).collect() }
    }
}

impl Task for Poems {
    fn name(&self) -> &'static str {
        "poems"
    }

    fn len(&self) -> usize {
        self.requests.len()
    }

    fn question(&self, number: usize) -> String {
        self.requests[number].question.clone()
    }

    fn kind(&self, number: usize) -> String {
        let request = &self.requests[number];
        match request.given {
            Given::Title => format!("{} by title", request.form.simplified()),
            Given::FirstLine => format!("{} by first line", request.form.simplified()),
            Given::TitleAlone => "title alone".to_owned(),
        }
    }

    fn judge(&self, number: usize, answer: &str) -> bool {
        let request = &self.requests[number];
        match request.given {
            Given::TitleAlone => Form::ALL.into_iter().any(|form| has_form(answer, form)),
            Given::Title | Given::FirstLine => has_form(answer, request.form),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Verses of made-up characters, enough that some are held out.
    fn rows() -> impl Iterator<Item = Row> {
        (0..400u32).map(|number| {
            let (lines, width) = if number % 2 == 0 { (4, 5) } else { (8, 7) };
            let character = |at: u32| char::from_u32(0x4e00 + (number * 97 + at * 31) % 5000).unwrap();
            let line = |line: u32| (0..width).map(|at| character(line * 7 + at)).collect::<String>();
            let couplet = |pair: u32| format!("{}，{}。", line(2 * pair), line(2 * pair + 1));
            Row { title: line(20), paragraphs: (0..lines / 2).map(couplet).collect() }
        })
    }

    #[test]
    fn the_poem_itself_is_right_and_another_form_is_not() {
        let task = Poems::new(rows(), 1, 12);
        assert_eq!(task.len(), 12);
        let mut filter = Filter::default();
        let poems: Vec<Poem> = rows().filter_map(|row| filter.take(&row).ok()).collect();
        for number in 0..task.len() {
            let question = task.question(number);
            let asked = |text: &str| question.contains(text);
            let poem =
                poems.iter().find(|poem| asked(&poem.lines[0]) || poem.title.as_deref().is_some_and(asked));
            let poem = poem.unwrap();
            assert_eq!(poem.split(), Split::HeldOut);
            assert!(task.judge(number, &poem.text()), "{}", task.kind(number));
            let cut: String = poem.text().lines().skip(1).collect();
            assert!(!task.judge(number, &cut) && !task.judge(number, ""));
        }
    }
}
