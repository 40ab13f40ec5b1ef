//! Agents restricted in prose: `only the researcher`, `must only involve engineer, researcher`.

use std::sync::LazyLock;

use regex::Regex;

use super::roster;
use crate::pattern::pattern;

/// Agents of the original that callers name though no step is given to them here.
const EXTRA_AGENTS: [&str; 2] = ["camb_agent", "classy_sz_agent"];

static RESTRICTION: LazyLock<Restriction> = LazyLock::new(Restriction::new);

/// The patterns of a restriction; a list of agents must end its clause, so that `only the engineer
/// writes code` restricts nothing.
struct Restriction {
    inline: Vec<Regex>,
    listed: Regex,
    name: Regex,
}

impl Restriction {
    fn new() -> Self {
        let names: Vec<String> =
            roster::step_agents().into_iter().chain(EXTRA_AGENTS).map(|n| n.replace('_', "[ _-]?")).collect();
        let name = format!(r"(?:the\s+)?[`'\x22*]*\b(?:{})s?\b[`'\x22*]*(?:\s+agents?\b)?", names.join("|"));
        let list = format!(
            r"(?:the\s+)?(?:agents?:?\s+)?(?P<list>{name}(?:\s*(?:,\s*(?:and\s+|or\s+)?|&\s*|and\s+|or\s+){name})*)"
        );
        let scope = r"\s+(?:in|for|throughout|within)\s+(?:(?:all|every|each|this|the|whole|entire)\s+)*(?:plan|workflow|task|run|project|session|(?:all|every|each)\s+steps?)";
        let end = format!(
            r"(?:{scope})?(?:\s+(?:should|must|may|can|is|are|to)\s+(?:to\s+)?be\s+(?:used|involved|invoked|called|allowed)|\s+(?:is|are)\s+(?:allowed|involved|available|needed|used))?(?:{scope})?\s*(?:[.;:!\n)]|$|,\s*(?:not|no|never|without|nothing|and\s+(?:no|not|never|at\s+most))\b|[-–—]\s)"
        );
        let verb = r"(?:use|using|uses|involve|involving|involves|invoke|invoking|employ|call|include|with)";
        let before = r"(?:^|[\n.,;:!(–—-]\s*|\b(?:use|using|uses|involve|involving|involves|invoke|invoking|employ|call|include|with|allow|allows|allowed:)\s+)";
        let compile = |p: String| pattern(&format!("(?i){p}"));
        Self {
            inline: vec![
                compile(format!(r"\b{verb}\s+{list}\s+only{end}")),
                compile(format!(r"\bno\s+(?:other\s+)?agents?\s+(?:other\s+)?than\s+{list}{end}")),
                compile(format!(r"{before}only\s+(?:agents?\s+)?{list}{end}")),
                compile(format!(
                    r"\b(?:only|exclusively|solely|strictly)\s+{verb}\s+(?:only\s+)?{list}{end}"
                )),
                compile(format!(
                    r"\bonly\s+agents?\s+(?:that\s+(?:is|are|may\s+be|can\s+be)\s+)?(?:\w+\s+)?(?:(?:in|for)\s+(?:this|the)\s+\w+\s+)?(?:is|are|must\s+be|should\s+be):?\s+{list}{end}"
                )),
            ],
            listed: compile(
                r"\bonly\s+(?:\w+\s+){0,3}following\s+(?:\w+\s+)?agents?\b[^:\n]*:?(?P<rest>(?s:.*))".into(),
            ),
            name: compile(format!(r"\b(?:{})s?\b", names.join("|"))),
        }
    }

    /// Agents named in `text`, spelt as the roster does, each once, in roster order.
    fn named(&self, text: &str) -> Vec<String> {
        let plain = |s: &str| s.to_lowercase().replace([' ', '-', '_'], "");
        let said: Vec<String> = self.name.find_iter(text).map(|m| plain(m.as_str())).collect();
        let known = roster::step_agents().into_iter().chain(EXTRA_AGENTS);
        known
            .filter(|n| said.iter().any(|s| s.trim_end_matches('s') == plain(n)))
            .map(str::to_owned)
            .collect()
    }

    /// Agents of what follows `only the following agents:`: an inline list, or bullets whose first word is
    /// an agent. Descriptions may name other agents and run over several lines.
    fn listed_agents(&self, rest: &str) -> Vec<String> {
        let mut heads = String::new();
        let mut blank = false;
        for line in rest.trim_start().lines() {
            let line = line.trim();
            let item = line.trim_start_matches(['-', '*', '•', ' ']);
            let bullet = item.len() < line.len();
            let ends: &[char] = if bullet { &[':', '.', ';', '(', ','] } else { &['.', ';'] };
            let head = item.split(ends).next().unwrap_or_default();
            match (bullet, heads.is_empty()) {
                (true, _) if self.named(head).is_empty() => break,
                (false, true) => {
                    heads += head;
                    break;
                }
                (true, _) => heads.extend([head, "\n"]),
                (false, false) if blank && !line.is_empty() => break,
                (false, false) => {}
            }
            blank = line.is_empty();
        }
        self.named(&heads)
    }
}

/// The agents to which prose such as `only the researcher` or `must only involve engineer, researcher`
/// restricts a plan, in roster order; `None` when it restricts nothing.
///
/// Callers of the original write such restrictions into the task or the plan instructions.
pub fn restricted_agents(text: &str) -> Option<Vec<String>> {
    let patterns = &*RESTRICTION;
    if let Some(found) = patterns.listed.captures(text) {
        let names = patterns.listed_agents(&found["rest"]);
        if !names.is_empty() {
            return Some(names);
        }
    }
    for inline in &patterns.inline {
        for found in inline.captures_iter(text) {
            let start = found.get(0).map_or(0, |m| m.start());
            let whole = &found[0];
            let negated = text[..start].trim_end().to_lowercase().ends_with("not")
                || whole.to_lowercase().contains("not only");
            let names = patterns.named(&found["list"]);
            if !negated && !names.is_empty() {
                return Some(names);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_that_restricts() {
        let researcher = [
            "The plan must have at most 4 steps. Use only the researcher agent.",
            "only the researcher",
            "In this plan, only the researcher agent must be invoked.",
            "Only the researcher should be used.",
            "Plan: must only involve the researcher, not the engineer.",
            "The only agent involved in this workflow is the researcher.",
            "Use only the researcher in this plan.",
            "Please use the researcher only.",
            "The plan has no agent other than the researcher.",
        ];
        for text in researcher {
            assert_eq!(restricted_agents(text), Some(vec!["researcher".to_owned()]), "{text}");
        }
        let two = [
            "only engineer, researcher",
            "The plan must strictly involve only the following agents: engineer, researcher\n\nMore text.",
            "The plan must strictly only involve engineer and researcher agents.",
            "only the following agents: \n\n    - engineer: codes; it leaves the idea_maker\n      alone and never writes.\n\n    - researcher: writes.\n\nThe idea_hater is not asked.",
            "You may use only the following agents:\n- researcher: writes\n- engineer: asks the idea_maker\n\nThen",
            "This must only involve `engineer` and `researcher`.",
            "The only agents are engineer and researcher.",
        ];
        for text in two {
            assert_eq!(
                restricted_agents(text),
                Some(vec!["engineer".to_owned(), "researcher".to_owned()]),
                "{text}"
            );
        }
        assert_eq!(
            restricted_agents(
                "The plan must strictly involve only the following agents: \n- idea_maker: to make new ideas.\n- idea_hater: to judge them.\n\nInvoke no other agent, such as the engineer."
            ),
            Some(vec!["idea_maker".to_owned(), "idea_hater".to_owned()])
        );
        assert_eq!(
            restricted_agents("Please involve only idea maker and idea hater."),
            Some(vec!["idea_maker".to_owned(), "idea_hater".to_owned()])
        );
    }

    #[test]
    fn ordinary_prose_does_not() {
        for text in [
            "Only the engineer writes code.",
            "The report should be written by only the researcher.",
            "Use the engineer for computing, the researcher only for writing.",
            "Plots should be made by the engineer only.",
            "The report must use only the outputs of the engineer.",
            "Use the engineer only to compute.",
            "Use only the engineer to make plots.",
            "Not only the researcher.",
            "It is not only the engineer, but all agents.",
            "The engineer must only use the data in /data/x.csv; the researcher writes the report.",
            "Use only real data. The engineer reads it.",
            "Use only the engineer for the plots.",
            "The researcher gets only what the engineer printed.",
            "The last step: the researcher writes the full report.",
            "Only researchers at the institute have access to the archive.",
        ] {
            assert_eq!(restricted_agents(text), None, "{text}");
        }
    }
}
