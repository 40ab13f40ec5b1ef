//! The agents: who they are, what they can do, which model they use unless told otherwise.

/// One agent. Adding one is a line here and a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agent {
    /// The name, as plans, prompts and callers spell it.
    pub name: &'static str,
    /// What it can and cannot do, as told to the planner and the plan reviewer.
    pub abilities: &'static str,
    /// The model it uses unless the caller names one (the original's defaults).
    pub model: &'static str,
    /// Whether a step of a plan may be given to it.
    pub can_step: bool,
}

/// The default model of agents that write.
pub const GENERAL: &str = "gpt-4.1-2025-04-14";
/// The default model of agents that judge.
pub const REASONING: &str = "o3-mini-2025-01-31";

const ROSTER: [Agent; 10] = [
    Agent {
        name: "engineer",
        abilities: "writes Python and has it run: data pipelines, computation, statistics, plots. Does not interpret results.",
        model: GENERAL,
        can_step: true,
    },
    Agent {
        name: "researcher",
        abilities: "writes and interprets: discussion, methods, reports. Runs no code, reads no files, sees no plots; knows only what earlier steps printed or wrote.",
        model: GENERAL,
        can_step: true,
    },
    Agent {
        name: "idea_maker",
        abilities: "makes, improves and selects research ideas. Computes nothing.",
        model: GENERAL,
        can_step: true,
    },
    Agent {
        name: "idea_hater",
        abilities: "criticises ideas, proposes improvements, discards bad ones. Makes no new ones.",
        model: REASONING,
        can_step: true,
    },
    Agent {
        name: "camb_context",
        abilities: "reads the documentation of CAMB for the engineer, whose step must follow. Runs nothing.",
        model: GENERAL,
        can_step: true,
    },
    Agent { name: "classy_context", abilities: "the same for CLASS.", model: GENERAL, can_step: true },
    Agent { name: "planner", abilities: "writes and updates the plan.", model: GENERAL, can_step: false },
    Agent {
        name: "plan_reviewer",
        abilities: "recommends changes to the plan.",
        model: REASONING,
        can_step: false,
    },
    Agent {
        name: "second_opinion",
        abilities: "finds the cause when a script failed twice alike.",
        model: REASONING,
        can_step: false,
    },
    // The original's default takes no pictures: a model that does takes its place.
    Agent { name: "plot_judge", abilities: "judges plots.", model: REASONING, can_step: false },
];

/// The library whose documentation an agent reads, as it is imported.
pub fn library(agent: &str) -> Option<&'static str> {
    match agent {
        "camb_context" => Some("camb"),
        "classy_context" => Some("classy"),
        _ => None,
    }
}

/// All agents, always in the same order.
pub fn roster() -> &'static [Agent] {
    &ROSTER
}

/// Names of the agents a step of a plan may be given to, in roster order.
pub fn step_agents() -> Vec<&'static str> {
    ROSTER.iter().filter(|a| a.can_step).map(|a| a.name).collect()
}

/// The agent called `name`; the error names those that come nearest.
pub fn find(name: &str) -> Result<&'static Agent, String> {
    if let Some(agent) = ROSTER.iter().find(|a| a.name == name) {
        return Ok(agent);
    }
    let wanted = name.trim().to_lowercase().replace([' ', '-'], "_");
    let mut ranked: Vec<(usize, &str)> = ROSTER.iter().map(|a| (distance(&wanted, a.name), a.name)).collect();
    ranked.sort_by_key(|(d, _)| *d);
    let near: Vec<&str> =
        ranked.iter().filter(|(d, n)| *d <= 1 + n.len() / 3).map(|(_, n)| *n).take(2).collect();
    let hint = match near.as_slice() {
        [] => String::new(),
        [one] => format!(" Did you mean {one:?}?"),
        more => format!(" Did you mean one of {}?", more.join(", ")),
    };
    let names: Vec<&str> = ROSTER.iter().map(|a| a.name).collect();
    Err(format!("Unknown agent: {name}.{hint} Available: {}", names.join(", ")))
}

/// `- name: abilities` for each of `names`, in roster order; names the roster lacks come last, bare.
pub fn describe(names: &[String]) -> String {
    let known = ROSTER.iter().filter(|a| names.iter().any(|n| n == a.name));
    let mut lines: Vec<String> = known.map(|a| format!("- {}: {}", a.name, a.abilities)).collect();
    let unknown = names.iter().filter(|n| !ROSTER.iter().any(|a| a.name == n.as_str()));
    lines.extend(unknown.map(|n| format!("- {n}")));
    lines.join("\n")
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_the_nearest_agent() {
        assert_eq!(find("engineer").unwrap().name, "engineer");
        let error = find("enginere").unwrap_err();
        assert!(error.contains("Did you mean \"engineer\"?"), "{error}");
        assert!(find("idea maker").unwrap_err().contains("idea_maker"));
        assert!(!find("zzz").unwrap_err().contains("Did you mean"));
    }

    #[test]
    fn only_step_agents_may_have_steps() {
        assert_eq!(
            step_agents(),
            ["engineer", "researcher", "idea_maker", "idea_hater", "camb_context", "classy_context"]
        );
    }

    #[test]
    fn describes_in_roster_order_whatever_the_order_asked() {
        let text = describe(&["researcher".into(), "engineer".into()]);
        assert!(text.find("- engineer").unwrap() < text.find("- researcher").unwrap());
    }
}
