//! The conversation as legacy callers read it, rendered from typed records; no model is asked for it.
//!
//! Every message has `content`, `name` and `role`. Text of agents has the role `user`, a tool call the role
//! `assistant` and the content `"None"`, its reply the role `tool`: so the original wrote them.

use serde_json::{Value, json};

use super::ideas::{Critique, Idea};
use super::{PlanStep, formats};

/// Messages in the order they are added.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcript {
    messages: Vec<Value>,
    scope: String,
    calls: usize,
}

/// Where a step stands, for the messages of control and executor.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// 1-based number of the step.
    pub number: usize,
    /// Steps in all.
    pub of: usize,
    /// The step.
    pub step: &'a PlanStep,
}

/// What becomes of a script's run.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// It succeeded.
    Success,
    /// It failed and goes back with this suggestion.
    Failure(&'a str),
    /// It failed and was the last try allowed; the limit as the user set it.
    Exhausted(usize),
}

impl Transcript {
    /// An empty transcript. `scope` makes the ids of its tool calls unique among transcripts of a run.
    pub fn new(scope: &str) -> Self {
        Self { scope: scope.to_owned(), ..Self::default() }
    }

    /// The messages.
    pub fn messages(&self) -> &[Value] {
        &self.messages
    }

    /// The messages, given away.
    pub fn into_messages(self) -> Vec<Value> {
        self.messages
    }

    /// The task, verbatim.
    pub fn task(&mut self, task: &str) {
        self.messages.push(json!({"content": task, "name": "user", "role": "assistant"}));
    }

    /// What `name` said, as it was.
    pub fn said(&mut self, name: &str, text: &str) {
        self.messages.push(json!({"content": text, "name": name, "role": "user"}));
    }

    /// The planner's turn: its answer, the formatted plan, and the record of it.
    ///
    /// `feedback_left` are the rounds of review still to come.
    pub fn planner(&mut self, answer: &str, plan: &[PlanStep], feedback_left: usize) {
        let text = formats::plan(plan);
        self.said("planner", answer);
        self.said("planner_response_formatter", &text);
        let reply =
            if feedback_left == 0 { "Planning stage complete. Exiting." } else { "Plan has been logged." };
        let arguments = json!({"plan_suggestion": text, "number_of_steps_in_plan": plan.len()});
        self.call("plan_recorder", "record_plan", &arguments, reply);
    }

    /// The reviewer's turn: its answer, the formatted recommendations, and the record of them.
    ///
    /// `feedback_left` are the rounds of review still to come after this one.
    pub fn plan_reviewer(&mut self, answer: &str, recommendations: &[String], feedback_left: usize) {
        let text = formats::review(recommendations);
        self.said("plan_reviewer", answer);
        self.said("reviewer_response_formatter", &text);
        let reply = format!(
            "\nRecommendations have been logged.  \nNumber of feedback rounds left: {feedback_left}. \nNow, update the plan accordingly, planner!"
        );
        self.call("review_recorder", "record_review", &json!({"plan_review": text}), &reply);
    }

    /// The agents a plan may use.
    pub fn plan_setter(&mut self, agents: &[String]) {
        let arguments = json!({"needed_agents": agents});
        self.call("plan_setter", "record_plan_constraints", &arguments, "Plan constraints have been logged.");
    }

    /// A step begins: `control` says so for the first, `control_starter` for the others.
    pub fn step_begins(&mut self, at: At<'_>) {
        if at.number == 1 {
            self.control(at, "in progress");
        } else {
            let reply = formats::status(at.number, at.of, at.step, "in progress", "\n");
            self.call("control_starter", "record_status_starter", &json!({}), &reply);
        }
    }

    /// The control agent records a status: `in progress`, `completed` or `failed`.
    pub fn control(&mut self, at: At<'_>, status: &str) {
        let arguments = json!({
            "current_status": status,
            "current_plan_step_number": at.number,
            "current_sub_task": at.step.sub_task,
            "current_instructions": formats::current_instructions(at.step),
            "agent_for_sub_task": at.step.sub_task_agent,
        });
        let reply = formats::status(at.number, at.of, at.step, status, "\n        ");
        self.call("control", "record_status", &arguments, &reply);
    }

    /// The engineer's turn: its answer, the formatted one, and what was executed with what came out.
    pub fn engineer(&mut self, answer: &str, formatted: &str, executed: &str) {
        self.said("engineer", &without_file_names(answer));
        self.said("engineer_response_formatter", formatted);
        self.said("engineer_nest", executed);
    }

    /// What follows from a script's run.
    pub fn executor_response_formatter(&mut self, at: At<'_>, outcome: Outcome<'_>) {
        let rule = "x".repeat(26);
        let block = format!(
            "\n{rule}\n\nWorkflow status:\n\nPlan step number: {}\n\nAgent for sub-task (might be different from the next agent suggestion for debugging): {}\n\nCurrent status (before execution): in progress\n\n{rule}\n\n",
            at.number, at.step.sub_task_agent
        );
        let (arguments, reply) = match outcome {
            Outcome::Success => (
                json!({"next_agent_suggestion": "control", "execution_status": "success"}),
                format!("Execution status: success. Transfer to control.\n{block}"),
            ),
            Outcome::Failure(fix) => (
                json!({"next_agent_suggestion": "engineer", "execution_status": "failure", "fix_suggestion": fix}),
                format!("Execution status: failure. Transfer to engineer.\n{block}\nFix suggestion: {fix}\n"),
            ),
            Outcome::Exhausted(limit) => (
                json!({"next_agent_suggestion": "engineer", "execution_status": "failure"}),
                format!("Max number of code execution attempts ({limit}) reached. Exiting."),
            ),
        };
        self.call("executor_response_formatter", "post_execution_transfer", &arguments, &reply);
    }

    /// The researcher's turn: its answer, the notes in their fence, and where they were saved (absolute).
    pub fn researcher(&mut self, answer: &str, file: &str, body: &str, saved: &str) {
        self.said("researcher", answer);
        self.said("researcher_response_formatter", &formats::notes(file, body));
        let executed = formats::executor(true, &format!("Content saved to {saved}\n"));
        self.said("researcher_executor", &executed);
    }

    /// The idea_maker's turn. Callers show any of its messages as text, so all of them are rendered.
    pub fn idea_maker(&mut self, ideas: &[Idea]) {
        self.rendered("idea_maker", &formats::ideas(ideas));
    }

    /// The idea_hater's turn.
    pub fn idea_hater(&mut self, critiques: &[Critique]) {
        self.rendered("idea_hater", &formats::critique(critiques));
    }

    /// The turn of an agent that reads documentation, such as `camb_context`.
    pub fn consultant(&mut self, agent: &str, answer: &str) {
        self.said(agent, answer);
        let library = agent.strip_suffix("_context").unwrap_or(agent);
        self.said(&format!("{library}_response_formatter"), answer);
    }

    /// The end of the session.
    pub fn terminator(&mut self) {
        self.call("terminator", "terminate_session", &json!({}), "Session terminated.");
    }

    fn rendered(&mut self, agent: &str, text: &str) {
        self.said(agent, text);
        self.said(&format!("{agent}_response_formatter"), text);
        self.said(&format!("{agent}_nest"), text);
    }

    /// A tool call by `name` and its reply.
    fn call(&mut self, name: &str, tool: &str, arguments: &Value, reply: &str) {
        self.calls += 1;
        // Ids are made from the position alone, so that a replayed run writes the same transcript.
        let hash = blake3::hash(format!("{}\0{}\0{tool}", self.scope, self.calls).as_bytes());
        let id = format!("call_{}", &hash.to_hex()[..24]);
        let function = json!({"name": tool, "arguments": arguments.to_string()});
        self.messages.push(json!({
            "content": "None",
            "name": name,
            "role": "assistant",
            "tool_calls": [{"id": id, "function": function, "type": "function"}],
        }));
        self.messages.push(json!({
            "content": reply,
            "name": "_Group_Tool_Executor",
            "role": "tool",
            "tool_responses": [{"tool_call_id": id, "role": "tool", "content": reply}],
        }));
    }
}

/// The nested chat of an engineer's turn, as in `nested_chat_output_engineer_step_…`: the formatted answer
/// and what the executor said.
pub fn nested(formatted: &str, executor: &str) -> Vec<Value> {
    let mut chat = Transcript::default();
    chat.said("engineer_response_formatter", formatted);
    chat.said("executor", executor);
    chat.into_messages()
}

/// An answer without the file name comments at the top of its code blocks.
fn without_file_names(answer: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut opened = false;
    for line in answer.lines() {
        let comment = line.trim_start().trim_start_matches('#').trim_start();
        if opened && line.trim_start().starts_with('#') && comment.to_lowercase().starts_with("filename:") {
            opened = false;
            continue;
        }
        opened = line.trim_start().starts_with("```");
        lines.push(line);
    }
    lines.join("\n")
}
