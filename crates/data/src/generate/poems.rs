//! Regular poems as conversations and as plain text.
//!
//! From a collection of poems, those of the four regular forms are kept: 五言絕句 and 七言絕句 of four lines, 五言律詩 and
//! 七言律詩 of eight, every line of exactly five or seven Han characters. What a poem says is never changed, nor its
//! script; its punctuation becomes one comma and one full stop per couplet, and each couplet stands on a line:
//!
//! ```text
//! 床前明月光，疑是地上霜。
//! 舉頭望明月，低頭思故鄉。
//! ```
//!
//! A poem is held out by a hash of its first line. A title on the held-out side is asked for in training by no poem,
//! whatever its first line ([`Poem::split`]).

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::draw::Draw;
use super::{Split, Turn, exchange, scramble};

/// A title longer than this is a preface.
const TITLE_CHARACTERS_MAX: usize = 16;

/// One poem, title or first line in this many is held out.
const HELD_OUT_ONE_IN: u64 = 32;

/// The regular forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// 五言絕句: four lines of five characters
    Wujue,
    /// 七言絕句: four lines of seven
    Qijue,
    /// 五言律詩: eight lines of five
    Wulu,
    /// 七言律詩: eight lines of seven
    Qilu,
}

impl Form {
    /// All, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Wujue, Self::Qijue, Self::Wulu, Self::Qilu];

    /// The lines of a poem.
    pub fn lines(self) -> usize {
        match self {
            Self::Wujue | Self::Qijue => 4,
            Self::Wulu | Self::Qilu => 8,
        }
    }

    /// The characters of a line.
    pub fn characters(self) -> usize {
        match self {
            Self::Wujue | Self::Wulu => 5,
            Self::Qijue | Self::Qilu => 7,
        }
    }

    /// The name in simplified script.
    pub fn simplified(self) -> &'static str {
        ["五言绝句", "七言绝句", "五言律诗", "七言律诗"][self as usize]
    }

    /// The name in traditional script.
    pub fn traditional(self) -> &'static str {
        ["五言絕句", "七言絕句", "五言律詩", "七言律詩"][self as usize]
    }

    /// The form of `lines`, if they are of one: their number, and Han characters alone.
    pub fn of(lines: &[&str]) -> Option<Self> {
        Self::ALL.into_iter().find(|form| {
            lines.len() == form.lines()
                && lines
                    .iter()
                    .all(|line| line.chars().count() == form.characters() && line.chars().all(is_han))
        })
    }
}

/// A row of a collection.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    /// The title.
    #[serde(default)]
    pub title: String,
    /// The text, in any number of pieces; some collections have it in one.
    #[serde(deserialize_with = "pieces")]
    pub paragraphs: Vec<String>,
}

fn pieces<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text, or a list of texts")]
    enum Pieces {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Pieces::deserialize(deserializer)? {
        Pieces::One(text) => vec![text],
        Pieces::Many(texts) => texts,
    })
}

/// A poem of a regular form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poem {
    /// Its title, if it has one that can be asked for.
    pub title: Option<String>,
    /// Its form.
    pub form: Form,
    /// Its lines, without punctuation.
    pub lines: Vec<String>,
}

/// Why a row is no poem for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Of no regular form, or with characters that are no Han characters.
    NoRegularForm,
    /// The same lines were seen before.
    Duplicate,
}

/// Takes rows and remembers what it has seen.
#[derive(Default)]
pub struct Filter {
    seen: HashSet<u64>,
}

impl Filter {
    /// The poem of a row.
    ///
    /// # Errors
    /// The reason why it is left out.
    pub fn take(&mut self, row: &Row) -> Result<Poem, Rejection> {
        let text = row.paragraphs.concat();
        let lines: Vec<&str> = lines(&text).collect();
        let form = Form::of(&lines).ok_or(Rejection::NoRegularForm)?;
        if !self.seen.insert(hash(&lines.concat())) {
            return Err(Rejection::Duplicate);
        }
        let lines = lines.into_iter().map(str::to_owned).collect();
        Ok(Poem { title: askable(&row.title), form, lines })
    }
}

/// The stretches of `text` between punctuation and white space.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| "，。！？；、：,.!?;:".contains(c) || c.is_whitespace())
        .filter(|line| !line.is_empty())
}

/// Han characters of the blocks that texts use.
fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// A title of Han characters alone, and of few.
fn askable(title: &str) -> Option<String> {
    let title = title.trim();
    let length = title.chars().count();
    let good = (1..=TITLE_CHARACTERS_MAX).contains(&length) && title.chars().all(|c| is_han(c) || c == '·');
    good.then(|| title.to_owned())
}

/// The same for the same text, always (FNV-1a, spread).
fn hash(text: &str) -> u64 {
    scramble(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

fn is_held_out(text: &str) -> bool {
    hash(text).is_multiple_of(HELD_OUT_ONE_IN)
}

/// What a question gives of the poem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Given {
    /// Form and title.
    Title,
    /// Form and first line.
    FirstLine,
    /// The title alone: any regular form will do.
    TitleAlone,
}

/// A poem that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is given.
    pub given: Given,
    /// The form asked for; for [`Given::TitleAlone`] the one it has.
    pub form: Form,
    /// The question.
    pub question: String,
}

impl Poem {
    /// [`Split::Train`] if neither its title nor its first line is held out.
    pub fn split(&self) -> Split {
        let title = self.title.as_deref().is_some_and(is_held_out);
        if title || is_held_out(&self.lines[0]) { Split::HeldOut } else { Split::Train }
    }

    /// The poem, a couplet on each line.
    pub fn text(&self) -> String {
        let couplets: Vec<String> =
            self.lines.chunks(2).map(|couplet| format!("{}，{}。", couplet[0], couplet[1])).collect();
        couplets.join("\n")
    }

    /// Title and poem, as a document.
    pub fn document(&self) -> String {
        match &self.title {
            Some(title) => format!("《{title}》\n{}", self.text()),
            None => self.text(),
        }
    }

    /// A question that this poem answers, number `number` of those that `seed` names. `given` must fit:
    /// `None` if the poem has no title that could be given.
    pub fn request(&self, seed: u64, number: u64, given: Given) -> Option<Request> {
        let draw = &mut Draw::new(seed, number);
        let phrases = match given {
            Given::Title => TITLE,
            Given::FirstLine => FIRST_LINE,
            Given::TitleAlone => TITLE_ALONE,
        };
        let title = match given {
            Given::FirstLine => "",
            _ => self.title.as_deref()?,
        };
        let (phrase, language) = phrases[draw.below(phrases.len() as u64) as usize];
        let form = match language {
            Script::Simplified => self.form.simplified().to_owned(),
            Script::Traditional => self.form.traditional().to_owned(),
            Script::English => {
                let (lines, characters) = (self.form.lines(), self.form.characters());
                format!("{} ({lines} lines of {characters} characters)", self.form.simplified())
            }
        };
        let question = phrase.replace("{f}", &form).replace("{t}", title).replace("{l}", &self.lines[0]);
        Some(Request { given, form: self.form, question })
    }

    /// The conversation in which it is asked for so.
    pub fn turns(&self, request: &Request) -> Vec<Turn> {
        exchange(request.question.clone(), self.text())
    }
}

#[derive(Clone, Copy)]
enum Script {
    Simplified,
    Traditional,
    English,
}

use Script::{English, Simplified, Traditional};

const TITLE: &[(&str, Script)] = &[
    ("写一首{f}，题为《{t}》。", Simplified),
    ("请以《{t}》为题写一首{f}。", Simplified),
    ("以“{t}”为题，作一首{f}", Simplified),
    ("{f}《{t}》", Simplified),
    ("寫一首{f}，題為《{t}》。", Traditional),
    ("請以《{t}》為題作一首{f}。", Traditional),
    ("{f}《{t}》", Traditional),
    ("Write a {f} titled 《{t}》.", English),
    ("Please write a Chinese poem, {f}, with the title {t}.", English),
];

const FIRST_LINE: &[(&str, Script)] = &[
    ("写一首{f}，首句是“{l}”。", Simplified),
    ("请以“{l}”为首句写一首{f}。", Simplified),
    ("续写{f}：{l}，", Simplified),
    ("寫一首{f}，首句是「{l}」。", Traditional),
    ("請以「{l}」為首句作一首{f}。", Traditional),
    ("續寫{f}：{l}，", Traditional),
    ("Write a {f} that begins with {l}.", English),
    ("Continue this {f}: {l}，", English),
];

const TITLE_ALONE: &[(&str, Script)] = &[
    ("写一首诗，题为《{t}》。", Simplified),
    ("请以《{t}》为题写一首诗。", Simplified),
    ("《{t}》", Simplified),
    ("請以《{t}》為題作詩一首。", Traditional),
    ("Write a Chinese poem titled 《{t}》.", English),
];

/// Whether `answer` is a poem of `form`: its lines and their characters, each couplet with its two marks on a line of
/// its own, and nothing else.
pub fn has_form(answer: &str, form: Form) -> bool {
    let text = answer.trim();
    let found: Vec<&str> = lines(text).collect();
    Form::of(&found) == Some(form)
        && text.lines().count() == form.lines() / 2
        && text
            .lines()
            .all(|couplet| couplet.matches('，').count() == 1 && couplet.ends_with(['。', '？', '！']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(title: &str, paragraphs: &[&str]) -> Row {
        Row { title: title.into(), paragraphs: paragraphs.iter().map(|&text| text.into()).collect() }
    }

    fn take(title: &str, paragraphs: &[&str]) -> Result<Poem, Rejection> {
        Filter::default().take(&row(title, paragraphs))
    }

    const NIGHT: [&str; 2] = ["床前明月光，疑是地上霜。", "舉頭望明月，低頭思故鄉。"];
    const SEVEN: &str = "朝辭白帝彩雲間，千里江陵一日還！兩岸猿聲啼不住，輕舟已過萬重山。";

    #[test]
    fn regular_poems_are_kept_with_standard_punctuation() {
        let poem = take("靜夜思", &NIGHT).unwrap();
        assert_eq!((poem.form, poem.title.as_deref()), (Form::Wujue, Some("靜夜思")));
        assert_eq!(poem.text(), NIGHT.join("\n"));
        assert_eq!(poem.document(), format!("《靜夜思》\n{}", NIGHT.join("\n")));
        let poem = take("a title in English", &[SEVEN]).unwrap();
        assert_eq!((poem.form, poem.title), (Form::Qijue, None));
        assert_eq!(poem.lines[1], "千里江陵一日還");
        assert_eq!(take("t", &[NIGHT[0], NIGHT[1], NIGHT[0], NIGHT[1]]).unwrap().form, Form::Wulu);
        assert_eq!(take("t", &[SEVEN, SEVEN]).unwrap().form, Form::Qilu);
    }

    #[test]
    fn everything_else_is_left_out() {
        for paragraphs in [
            &["床前明月光，疑是地上霜。"][..],
            &["床前明月，疑是地上霜。", NIGHT[1]],
            &["床前明月A，疑是地上霜。", NIGHT[1]],
            &["床前明月□，疑是地上霜。", NIGHT[1]],
            &[NIGHT[0], NIGHT[1], NIGHT[0]],
            &[],
        ] {
            assert_eq!(take("t", paragraphs), Err(Rejection::NoRegularForm), "{paragraphs:?}");
        }
        let mut filter = Filter::default();
        assert!(filter.take(&row("one", &NIGHT)).is_ok());
        let again = row("two", &["床前明月光。疑是地上霜？舉頭望明月；低頭思故鄉！"]);
        assert_eq!(filter.take(&again), Err(Rejection::Duplicate));
    }

    #[test]
    fn questions_name_what_is_given() {
        let poem = take("靜夜思", &NIGHT).unwrap();
        let mut phrases = HashSet::new();
        for number in 0..200 {
            for (given, part) in
                [(Given::Title, "靜夜思"), (Given::FirstLine, "床前明月光"), (Given::TitleAlone, "靜夜思")]
            {
                let request = poem.request(3, number, given).unwrap();
                assert_eq!(request, poem.request(3, number, given).unwrap());
                assert!(
                    request.question.contains(part) && !request.question.contains(['{', '}']),
                    "{request:?}"
                );
                assert_eq!(request.question.contains("五言"), given != Given::TitleAlone, "{request:?}");
                phrases.insert(request.question);
            }
        }
        assert_eq!(phrases.len(), TITLE.len() + FIRST_LINE.len() + TITLE_ALONE.len());
        let untitled = Poem { title: None, ..poem };
        assert_eq!(untitled.request(0, 0, Given::Title), None);
        assert!(untitled.request(0, 0, Given::FirstLine).is_some());
    }

    #[test]
    fn a_form_is_lines_characters_and_marks() {
        let night = NIGHT.join("\n");
        for (answer, form, expected) in [
            (night.as_str(), Form::Wujue, true),
            ("\n床前明月光，疑是地上霜？\n舉頭望明月，低頭思故鄉。\n", Form::Wujue, true),
            (night.as_str(), Form::Wulu, false),
            ("床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。", Form::Wujue, false),
            ("床前明月光疑，是地上霜。\n舉頭望明月，低頭思故鄉。", Form::Wujue, false),
            ("床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉", Form::Wujue, false),
            ("", Form::Wujue, false),
        ] {
            assert_eq!(has_form(answer, form), expected, "{answer:?} {form:?}");
        }
    }

    #[test]
    fn a_title_or_first_line_is_on_one_side() {
        let sides: Vec<Split> = (0..2000u32)
            .map(|number| {
                let first = format!("床前明月{}", char::from_u32(0x4e00 + number).unwrap());
                Poem { title: None, form: Form::Wujue, lines: vec![first; 4] }.split()
            })
            .collect();
        let held_out = sides.iter().filter(|&&side| side == Split::HeldOut).count();
        assert!((30..100).contains(&held_out), "{held_out}");
        let title = (0..).map(|number| format!("題{number}")).find(|title| is_held_out(title)).unwrap();
        let poem = Poem { title: Some(title), form: Form::Wujue, lines: vec!["春眠不覺曉".into(); 4] };
        assert_eq!(poem.split(), Split::HeldOut);
    }
}
