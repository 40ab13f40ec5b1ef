//! Servers that do not understand everything.

use cmbagent::llm::{LlmErrorKind as Kind, Schema};
use serde_json::{Value, json};

use super::server::*;

fn structured(model: &str) -> cmbagent::llm::Call {
    let mut call = call(model);
    call.request.schema = Some(Schema {
        name: "plan".into(),
        schema: json!({
            "type": "object",
            "properties": {"task": {"type": "string"}, "note": {"type": "string"}},
            "required": ["task"]
        }),
    });
    call
}

/// What the n-th request asked for, under `key`.
fn asked(bodies: &[Value], pointer: &str) -> Vec<Value> {
    bodies.iter().map(|b| b.pointer(pointer).cloned().unwrap_or_default()).collect()
}

#[tokio::test]
async fn schemas_step_down_and_are_remembered() {
    let server = Server::start(vec![
        error(400, "response_format type json_schema is unknown"),
        error(422, "response_format: extra fields not permitted"),
        says("# Plan"),
    ])
    .await;
    let provider = provider(&server);
    let (result, log) = run(&provider, &structured("local")).await;
    assert_eq!(result.unwrap().text, "# Plan");
    assert_eq!(run(&provider, &structured("local")).await.0.unwrap().text, "# Plan");
    let bodies = server.bodies();
    assert_eq!(
        asked(&bodies, "/response_format/type"),
        [json!("json_schema"), json!("json_object"), Value::Null, Value::Null]
    );
    let system = |n: usize| bodies[n]["messages"][0]["content"].as_str().unwrap();
    assert!(
        system(1).contains("JSON Schema")
            && !system(0).contains("JSON Schema")
            && !system(2).contains("JSON Schema")
    );
    let retries = log.retries.lock().unwrap().clone();
    assert!(retries[0].0.ends_with("asking for a looser form of JSON"), "{:?}", retries[0]);
    assert!(retries.iter().all(|r| r.1 == 0.0));

    // Another model of the same server starts from the top.
    run(&provider, &structured("other")).await.0.unwrap();
    assert_eq!(server.bodies()[4]["response_format"]["type"], "json_schema");
}

#[tokio::test]
async fn other_wires_have_their_own_steps() {
    let good = json!({"content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn"}).to_string();
    let server = Server::start(vec![
        error(400, "output_config: Extra inputs are not permitted"),
        error(400, "tool_choice forces tool use is not compatible with this model"),
        reply(200, "", &good),
    ])
    .await;
    run(&provider(&server), &structured("claude-sonnet-4-5")).await.0.unwrap();
    let bodies = server.bodies();
    assert_eq!(bodies[0]["output_config"]["format"]["schema"]["additionalProperties"], false);
    assert_eq!(bodies[1]["tool_choice"], json!({"type": "tool", "name": "plan"}));
    assert!(bodies[2].get("output_config").is_none() && bodies[2].get("tools").is_none());

    let good =
        json!({"candidates": [{"content": {"parts": [{"text": "{}"}]}, "finishReason": "STOP"}]}).to_string();
    let complaint = json!({"error": {"code": 400, "status": "INVALID_ARGUMENT",
        "message": "Invalid JSON payload received. Unknown name \"responseSchema\""}});
    let server = Server::start(vec![reply(400, "", &complaint.to_string()), reply(200, "", &good)]).await;
    run(&provider(&server), &structured("gemini-2.5-flash")).await.0.unwrap();
    let bodies = server.bodies();
    assert_eq!(bodies[0]["generationConfig"]["responseSchema"]["type"], "OBJECT");
    let second = &bodies[1]["generationConfig"];
    assert!(second.get("responseSchema").is_none() && second["responseMimeType"] == "application/json");
}

#[tokio::test]
async fn parameters_are_dropped_when_refused() {
    let unsupported = |name: &str| {
        let body = json!({"error": {"message": "Unsupported parameter", "param": name, "code": "unsupported_parameter"}});
        reply(400, "", &body.to_string())
    };
    let server = Server::start(vec![
        unsupported("temperature"),
        unsupported("max_tokens"),
        unsupported("reasoning_effort"),
        unsupported("stream_options"),
        unsupported("stream"),
        reply(200, "", &json!({"choices": [{"message": {"content": "ok"}}]}).to_string()),
    ])
    .await;
    let mut call = call("unheard-of");
    call.request.sampling.reasoning_effort = Some("low".into());
    call.request.max_output_tokens = Some(500);
    assert_eq!(run(&provider(&server), &call).await.0.unwrap().text, "ok");
    let bodies = server.bodies();
    let keys = |n: usize| -> Vec<&str> {
        bodies[n].as_object().unwrap().keys().map(String::as_str).skip(2).collect()
    };
    assert_eq!(
        keys(0),
        ["temperature", "top_p", "reasoning_effort", "max_tokens", "stream", "stream_options"]
    );
    assert_eq!(keys(1), ["reasoning_effort", "max_tokens", "stream", "stream_options"]);
    assert_eq!(keys(2), ["reasoning_effort", "max_completion_tokens", "stream", "stream_options"]);
    assert_eq!(keys(3), ["max_completion_tokens", "stream", "stream_options"]);
    assert_eq!(keys(4), ["max_completion_tokens", "stream"]);
    assert_eq!(keys(5), ["max_completion_tokens"]);
}

#[tokio::test]
async fn a_complaint_that_nothing_cures_ends_the_call() {
    let server =
        Server::start(vec![error(400, "response_format, temperature, max_tokens, stream: all bad")]).await;
    let error = run(&provider(&server), &structured("gpt-4.1")).await.0.unwrap_err();
    assert_eq!(error.kind, Kind::BadRequest);
    let last = server.bodies().pop().unwrap();
    assert_eq!(last.as_object().unwrap().keys().collect::<Vec<_>>(), ["model", "messages"]);
}

#[tokio::test]
async fn the_answers_limit_is_taken_from_the_complaint() {
    let words = "max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens for claude-sonnet-4-5";
    let good = json!({"content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn"}).to_string();
    let server = Server::start(vec![error(400, words), reply(200, "", &good)]).await;
    run(&provider(&server), &call("claude-sonnet-4-5")).await.0.unwrap();
    assert_eq!(asked(&server.bodies(), "/max_tokens"), [json!(64_000), json!(8_192)]);
}

#[tokio::test]
async fn plain_json_answers_a_stream_request() {
    for (model, body) in [
        (
            "gpt-4.1",
            json!({"choices": [{"message": {"content": "<think>hm</think>ok"}, "finish_reason": "stop"}]}),
        ),
        (
            "claude-sonnet-4-5",
            json!({"content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn"}),
        ),
        (
            "gemini-2.5-pro",
            json!([
                {"candidates": [{"content": {"parts": [{"text": "o"}]}}]},
                {"candidates": [{"content": {"parts": [{"text": "k"}]}, "finishReason": "STOP"}]}
            ]),
        ),
    ] {
        let server = Server::start(vec![reply(200, "", &body.to_string())]).await;
        let (result, log) = run(&provider(&server), &call(model)).await;
        assert_eq!((result.unwrap().text.as_str(), log.text().as_str()), ("ok", "ok"), "{model}");
    }
}

#[tokio::test]
async fn streaming_can_be_switched_off() {
    for (model, sign) in [
        ("gpt-4.1", "/chat/completions"),
        ("claude-sonnet-4-5", "/v1/messages"),
        ("gemini-2.5-pro", ":generateContent"),
    ] {
        let server = Server::start(vec![error(400, "stop here")]).await;
        let mut call = call(model);
        call.options.stream = Some(false);
        run(&provider(&server), &call).await.0.unwrap_err();
        let seen = &server.seen()[0];
        assert!(seen.target.ends_with(sign), "{}", seen.target);
        assert!(seen.body.get("stream").is_none() && seen.body.get("stream_options").is_none());
    }
}

#[tokio::test]
async fn nulls_for_optional_properties_do_not_reach_the_caller() {
    let server = Server::start(vec![says(r#"{"task":"a","note":null}"#)]).await;
    let reply = run(&provider(&server), &structured("gpt-4.1")).await.0.unwrap();
    assert_eq!(reply.text, r#"{"task":"a"}"#);
    let sent = &server.bodies()[0]["response_format"]["json_schema"];
    assert_eq!((&sent["strict"], &sent["schema"]["required"]), (&json!(true), &json!(["task", "note"])));
}
