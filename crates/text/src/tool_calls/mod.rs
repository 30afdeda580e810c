//! Tool calls, in the markup that DeepSeek models write them in.
//!
//! A model does not answer in JSON when it calls a tool: it writes markup around it, and each generation has its
//! own ([`ToolCallFormat`]). Three things follow from the format: how the tools are told to a model whose template
//! does not ([`instructions`]), what the sampler may choose from ([`tool_grammar`]), and how the calls are taken out
//! of the answer while it streams ([`ToolCallParser`]).

mod grammar;
mod instructions;
mod parser;

pub use grammar::{ToolChoice, after_reasoning, tool_grammar};
pub(crate) use instructions::instructions;
pub use parser::{ToolCallParser, ToolPiece};

const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";
const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";
const SEP: &str = "<｜tool▁sep｜>";
/// The markup of results. It belongs into prompts; a model that writes it is making results up.
const OUTPUTS_BEGIN: &str = "<｜tool▁outputs▁begin｜>";
const OUTPUTS_END: &str = "<｜tool▁outputs▁end｜>";
const OUTPUT_BEGIN: &str = "<｜tool▁output▁begin｜>";
const OUTPUT_END: &str = "<｜tool▁output▁end｜>";

/// The longest name of a tool, as in OpenAI's API.
const NAME_MAX: usize = 64;

/// The markup in which a model writes tool calls; calls stand between `<｜tool▁calls▁begin｜>` and
/// `<｜tool▁calls▁end｜>`, each between `<｜tool▁call▁begin｜>` and `<｜tool▁call▁end｜>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolCallFormat {
    /// DeepSeek-V3, V3-0324, R1: `` function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n``` ``.
    V3,
    /// DeepSeek-V3.1 and later: `NAME<｜tool▁sep｜>ARGUMENTS`.
    V31,
}

impl ToolCallFormat {
    /// The format that a chat template writes; `None` if it writes neither.
    pub fn detect(template_source: &str) -> Option<Self> {
        if !template_source.contains(CALL_BEGIN) || !template_source.contains(SEP) {
            None
        } else if template_source.contains("```json") {
            Some(Self::V3)
        } else {
            Some(Self::V31)
        }
    }
}

/// Whether OpenAI's API would take this as the name of a tool.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(allowed)
}
