//! The fast way against the ordinary one.

use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::BulkTokenizer;
use crate::{
    BpeTraining, ChatInput, ChatTemplate, Digits, Message, SpecialTokens, Tokenizer, TokenizerConfig,
};

fn deepseek_v3() -> Tokenizer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/deepseek-v3-tokenizer");
    let file = std::fs::File::open(dir.join("tokenizer.json.gz")).expect("a fixture");
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut json).expect("gzip");
    Tokenizer::from_bytes(&json, None).expect("a tokenizer")
}

/// As the shipped model's: characters of poems and steps of sums are whole tokens.
fn isolating() -> Tokenizer {
    let training = BpeTraining {
        vocab_size: 420,
        digits: Digits::Single,
        isolate: Some(r"[\u3400-\u9fff]|[-+*/<=>]".to_owned()),
        min_frequency: 1,
        chat_template: None,
    };
    let text = concat!(
        "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。12+34=46 <b>don't stop</b>\r\n\r\n",
        "  the cat\tsat on the mat; naïve café ½ x²\n \n fn main() { let x = a->b; } ١٢٣ かな カナ 한국어"
    );
    let trained = training.train((0..3).map(|_| text.to_owned())).expect("trains");
    Tokenizer::from_bytes(&trained.tokenizer_json, None).expect("a tokenizer")
}

fn tokenizers() -> &'static [BulkTokenizer; 2] {
    static TOKENIZERS: OnceLock<[BulkTokenizer; 2]> = OnceLock::new();
    let tokenizers = TOKENIZERS.get_or_init(|| [deepseek_v3(), isolating()].map(BulkTokenizer::new));
    let fast =
        |bulk: &BulkTokenizer| bulk.fast.as_ref().is_some_and(|fast| fast.merges.keeps_to_characters());
    assert!(tokenizers.iter().all(fast));
    tokenizers
}

#[track_caller]
fn check(bulk: &BulkTokenizer, texts: &[String]) {
    let mut encoder = bulk.encoder();
    for text in texts {
        let expected = bulk.tokenizer().encode_plain(text).expect("encodes");
        // The second time from memory.
        for _ in 0..2 {
            let mut ids = Vec::new();
            encoder.encode_plain(text, &mut ids).expect("encodes");
            assert_eq!(ids, expected, "{text:?}");
        }
        assert_eq!(bulk.tokenizer().decode(&expected, false).expect("decodes"), *text);
    }
}

#[test]
fn all_kinds_of_text() {
    let mut texts: Vec<String> = [
        "",
        " ",
        "Hello, world! It's 12,345.678 — isn't it?",
        "<｜User｜>hi<｜Assistant｜><think>\n</think><｜end▁of▁sentence｜>",
        "你好，世界！《靜夜思》床前明月光，疑是地上霜。〇㐀𠀀",
        "한국어 조선말 ㄱㄴ ありがとう カタカナー ゠ヿ",
        "a\u{0}b \u{1}\u{2}x\u{7f}\u{85}\u{200b}\u{feff}y\u{ad}",
        "  leading\n\n\n  and\r\n\r\ntrailing \t \n  ",
        "x \u{3000}\u{2028}\u{a0} y\u{a0}z",
        "e\u{301}a\u{308}\u{301} \u{301}x नमस्ते ไทย עברית العربية ١٢٣٤٥",
        "½ ² Ⅷ ㊙ 1234567 12٣45",
        "#include <x.h>\n\tint main(void) { return a->b[3] && !c; }  // $x_1 @y ~/z\n",
        "🦀👩\u{200d}🚀 ™®© ₿€ ←→ ∑∫ ﷽",
        "\u{10ffff}\u{e000}\u{fdd0}",
        "-+*/<=>12<34=>x+-y",
    ]
    .map(String::from)
    .into();
    texts.push("a".repeat(1000));
    texts.push("abcdefghij klm ".repeat(50) + &"aGVsbG8gd29ybGQ".repeat(40));
    texts.push("床前明月光".repeat(60));
    texts.push("\n ".repeat(300));
    for bulk in tokenizers() {
        check(bulk, &texts);
    }
}

/// Characters of which each says something to some pattern.
const CHARACTERS: &str = "aZzé'’_-+=<>./(!$¢€ \t\n\r\u{b}\u{85}\u{a0}\u{2028}\u{3000}019½²٣Ⅷ〇一龥龦㐀ぁヿ゠ー한ㄱ𠀀ا\u{301}\u{903}\u{0}\u{ad}\u{200d}\u{fffd}🦀\u{e000}";

/// Most words of Chinese are runs that nobody has met.
#[test]
fn runs_of_han() {
    let common: Vec<char> = "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离虽坐兴切编甲龥龦䀀".chars().collect();
    let any = prop_oneof![9 => prop::sample::select(common), 1 => prop::char::range('\u{4000}', '\u{9fff}')];
    // And pairs of which DeepSeek-V3's vocabulary has a part that is no character.
    let crossing =
        prop::sample::select(vec!["船舫", "船舷", "船船", "骨骼", "黄花", "青睐", "欱乐", "狼狈", "狼狼"]);
    let any = prop_oneof![20 => any.prop_map(String::from), 1 => crossing.prop_map(String::from)];
    let text = prop::collection::vec(any, 5..120).prop_map(|text| text.concat());
    proptest!(ProptestConfig::with_cases(200), |(text in text)| {
        for bulk in tokenizers() {
            check(bulk, std::slice::from_ref(&text));
        }
    });
}

#[test]
fn random_text() {
    let characters: Vec<char> = CHARACTERS.chars().collect();
    let any = prop_oneof![4 => prop::sample::select(characters), 1 => any::<char>()];
    let text = prop::collection::vec(any, 0..40).prop_map(|text| text.into_iter().collect::<String>());
    let bulks = tokenizers();
    proptest!(ProptestConfig::with_cases(150), |(text in text)| {
        for bulk in bulks {
            check(bulk, std::slice::from_ref(&text));
        }
    });
}

#[test]
fn every_character() {
    let bulks = tokenizers();
    // Of the planes that are nearly empty a part is enough.
    for block in (0..0x2_0000).step_by(0x400).chain((0x2_0000..0x11_0000).step_by(0x4c00)) {
        let text: String = (block..block + 0x400).filter_map(char::from_u32).flat_map(|c| [c, 'x']).collect();
        check(&bulks[block as usize / 0x400 % 2], &[text]);
    }
}

#[test]
fn a_full_memory_is_emptied() {
    let bulk = BulkTokenizer::new(isolating());
    let mut encoder = bulk.encoder();
    let mut ids = Vec::new();
    for number in 0..70_000_u32 {
        let letters: String =
            (0..4).map(|at| char::from(b'a' + (number >> (4 * at) & 15) as u8)).chain(['q', ' ']).collect();
        encoder.encode_plain(&letters, &mut ids).expect("encodes");
    }
    ids.clear();
    encoder.encode_plain("aaaaq ", &mut ids).expect("encodes");
    assert_eq!(ids, bulk.tokenizer().encode_plain("aaaaq ").expect("encodes"));
}

#[test]
fn other_tokenizers_take_the_ordinary_way() {
    let mut json: serde_json::Value = serde_json::from_slice(
        &std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny-v3/tokenizer.json"))
            .expect("a fixture"),
    )
    .expect("JSON");
    let bulk = |json: &serde_json::Value| {
        BulkTokenizer::new(Tokenizer::from_bytes(json.to_string().as_bytes(), None).expect("a tokenizer"))
    };
    assert!(bulk(&json).is_fast());
    json["normalizer"] = serde_json::json!({ "type": "Lowercase" });
    assert!(!bulk(&json).is_fast());
    check(&bulk(&json), &["the cat".to_owned()]);
    json["normalizer"] = serde_json::Value::Null;
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "x+".into();
    assert!(!bulk(&json).is_fast());
    check(&bulk(&json), &["xxThe 12345 cat".to_owned()]);
}

#[test]
fn conversations_are_encoded_as_one_by_one() {
    let template = include_bytes!("../../../../fixtures/deepseek-v3-tokenizer/tokenizer_config.json");
    let config =
        TokenizerConfig::from_bytes(template, Path::new("tokenizer_config.json")).expect("a fixture");
    let template = ChatTemplate::from_tokenizer_config(&config).expect("it has one");
    let conversations = [
        vec![Message::user("Hi"), Message::assistant("Hello!")],
        vec![
            Message::system("床前明月光"),
            Message::user(" <｜User｜><think> x </th"),
            Message::assistant("ink>\n\ny 12"),
        ],
        vec![
            Message::user("a"),
            Message::assistant("<think>b</think>c"),
            Message::user("<｜end▁of▁sentence｜>"),
        ],
    ];
    for bulk in tokenizers() {
        let mut encoder = bulk.encoder();
        let inputs = conversations.each_ref().map(|messages| ChatInput { messages, ..ChatInput::default() });
        let encoded = encoder.encode_chats(&template, &inputs);
        assert_eq!(encoded.len(), inputs.len());
        for (input, encoded) in inputs.iter().zip(encoded) {
            let expected = crate::encode_chat(&template, bulk.tokenizer(), input).expect("encodes");
            assert_eq!(encoded.expect("encodes"), expected, "{:?}", input.messages);
        }
    }
}

#[test]
fn a_conversation_that_is_refused_is_refused_alone() {
    let source = "{% if messages[0].content == 'no' %}{{ raise_exception('not this one') }}{% endif %}{{ messages[0].content }}";
    let template = ChatTemplate::from_source(source, Path::new("t.jinja"), &SpecialTokens::default());
    let template = template.expect("it parses");
    let conversations = ["yes", "no", "well"].map(|said| [Message::user(said)]);
    let inputs = conversations.each_ref().map(|messages| ChatInput { messages, ..ChatInput::default() });
    for bulk in tokenizers() {
        let encoded = bulk.encoder().encode_chats(&template, &inputs);
        let texts: Vec<_> = encoded.into_iter().map(|prompt| prompt.map(|prompt| prompt.text)).collect();
        assert!(
            matches!(&*texts, [Ok(yes), Err(_), Ok(well)] if yes == "yes" && well == "well"),
            "{texts:?}"
        );
        assert!(texts[1].as_ref().unwrap_err().to_string().contains("not this one"));
    }
}
