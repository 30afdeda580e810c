//! A conversation: who said what, and what of it the model is shown.

use fathom_text::Message;
use serde_json::{Value, json};

/// What somebody typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Nothing,
    Say(String),
    Help,
    Reset,
    /// The new instructions; `None` removes them.
    System(Option<String>),
    Save(String),
    Regenerate,
    Quit,
    /// A command that does not exist, or lacks its argument: what to say about it.
    Wrong(String),
}

pub(crate) const HELP: &str = "\
/help          this list
/reset         forget the conversation, keep the system text
/system TEXT   instructions that stand before the conversation; without TEXT: none
/save FILE     write the conversation as JSON, {\"messages\": [...]}
/regenerate    another answer to the last message
/quit          end (so does Ctrl-D)
Ctrl-C stops an answer. A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of many lines.
A message that begins with / is written with a space before it.";

impl Typed {
    pub(crate) fn parse(text: &str) -> Self {
        let Some(command) = text.strip_prefix('/') else {
            let text = text.trim();
            return if text.is_empty() { Typed::Nothing } else { Typed::Say(text.to_owned()) };
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("help" | "?", _) => Typed::Help,
            ("reset", _) => Typed::Reset,
            ("system", "") => Typed::System(None),
            ("system", text) => Typed::System(Some(text.to_owned())),
            ("save", "") => Typed::Wrong("/save needs a file name".to_owned()),
            ("save", file) => Typed::Save(file.to_owned()),
            ("regenerate", _) => Typed::Regenerate,
            ("quit" | "exit", _) => Typed::Quit,
            _ => Typed::Wrong(format!("there is no command /{name}; /help lists them")),
        }
    }
}

/// One message of the user's and the answer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exchange {
    user: String,
    answer: Option<Reply>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) content: String,
    pub(crate) reasoning: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) system: Option<String>,
    exchanges: Vec<Exchange>,
}

impl Conversation {
    pub(crate) fn new(system: Option<String>) -> Self {
        Self { system, exchanges: Vec::new() }
    }

    pub(crate) fn say(&mut self, text: String) {
        self.exchanges.push(Exchange { user: text, answer: None });
    }

    pub(crate) fn answered(&mut self, reply: Reply) {
        if let Some(last) = self.exchanges.last_mut() {
            last.answer = Some(reply);
        }
    }

    /// Takes back the last message, to which there was no answer.
    pub(crate) fn unsay(&mut self) {
        self.exchanges.pop_if(|last| last.answer.is_none());
    }

    /// Takes back the last answer and returns it, so that there can be another.
    pub(crate) fn unanswer(&mut self) -> Option<Reply> {
        self.exchanges.last_mut()?.answer.take()
    }

    pub(crate) fn reset(&mut self) {
        self.exchanges.clear();
    }

    /// Forgets the oldest exchange, if it is not the last.
    pub(crate) fn forget_oldest(&mut self) -> bool {
        let more = self.exchanges.len() > 1;
        if more {
            self.exchanges.remove(0);
        }
        more
    }

    /// What the model is shown. Reasoning of earlier answers is left out, as DeepSeek's API asks for.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let exchanges = self.exchanges.iter().flat_map(|exchange| {
            let answer = exchange.answer.iter().map(|answer| Message::assistant(&*answer.content));
            std::iter::once(Message::user(&*exchange.user)).chain(answer)
        });
        self.system.iter().map(|text| Message::system(&**text)).chain(exchanges).collect()
    }

    /// Everything, reasoning included, as a request of the API.
    pub(crate) fn to_json(&self) -> Value {
        let mut messages: Vec<Value> = Vec::new();
        messages.extend(self.system.iter().map(|text| json!({ "role": "system", "content": text })));
        for exchange in &self.exchanges {
            messages.push(json!({ "role": "user", "content": exchange.user }));
            if let Some(Reply { content, reasoning }) = &exchange.answer {
                let mut message = json!({ "role": "assistant", "content": content });
                if !reasoning.is_empty() {
                    message["reasoning_content"] = reasoning.as_str().into();
                }
                messages.push(message);
            }
        }
        json!({ "messages": messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let rows = [
            ("", Typed::Nothing),
            ("  ", Typed::Nothing),
            (" hi\nthere ", Typed::Say("hi\nthere".into())),
            (" /usr/bin is a folder", Typed::Say("/usr/bin is a folder".into())),
            ("/help", Typed::Help),
            ("/reset", Typed::Reset),
            ("/system", Typed::System(None)),
            ("/system  Be brief. ", Typed::System(Some("Be brief.".into()))),
            ("/system Be\nbrief.", Typed::System(Some("Be\nbrief.".into()))),
            ("/save my file.json", Typed::Save("my file.json".into())),
            ("/save", Typed::Wrong("/save needs a file name".into())),
            ("/regenerate", Typed::Regenerate),
            ("/quit", Typed::Quit),
            ("/usr/bin", Typed::Wrong("there is no command /usr/bin; /help lists them".into())),
        ];
        for (text, expected) in rows {
            assert_eq!(Typed::parse(text), expected, "{text:?}");
        }
        for command in ["/help", "/reset", "/system", "/save", "/regenerate", "/quit"] {
            assert!(HELP.contains(command), "{command}");
        }
    }

    fn shown(conversation: &Conversation) -> Vec<String> {
        let text = |message: Message| format!("{}: {}", message.role, message.content.unwrap_or_default());
        conversation.messages().into_iter().map(text).collect()
    }

    fn reply(content: &str, reasoning: &str) -> Reply {
        Reply { content: content.into(), reasoning: reasoning.into() }
    }

    #[test]
    fn turns() {
        let mut talk = Conversation::new(Some("S".into()));
        talk.say("a".into());
        talk.unsay();
        talk.say("b".into());
        talk.answered(reply("B", "hm"));
        talk.unsay();
        talk.say("c".into());
        assert_eq!(talk.unanswer(), None);
        talk.answered(reply("C", ""));
        assert_eq!(shown(&talk), ["system: S", "user: b", "assistant: B", "user: c", "assistant: C"]);
        assert_eq!(
            talk.to_json().to_string(),
            r#"{"messages":[{"role":"system","content":"S"},{"role":"user","content":"b"},{"role":"assistant","content":"B","reasoning_content":"hm"},{"role":"user","content":"c"},{"role":"assistant","content":"C"}]}"#
        );
        assert_eq!(talk.unanswer(), Some(reply("C", "")));
        assert!(talk.forget_oldest());
        assert!(!talk.forget_oldest(), "the last one stays");
        assert_eq!(shown(&talk), ["system: S", "user: c"]);
        talk.reset();
        assert_eq!(shown(&talk), ["system: S"]);
        assert_eq!(talk.unanswer(), None);
    }
}
