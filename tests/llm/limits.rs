//! How answers end, and what they count and cost.

use std::sync::Arc;

use cmbagent::llm::{CallOptions, Finish, HttpProvider, LlmErrorKind as Kind, Message, Prices, Provider};
use serde_json::{Value, json};

use super::server::*;

async fn openai(body: Value) -> cmbagent::llm::Reply {
    let server = Server::start(vec![reply(200, "", &body.to_string())]).await;
    run(&provider(&server), &call("gpt-4.1")).await.0.unwrap()
}

#[tokio::test]
async fn answers_end_in_three_ways() {
    let of = |message: Value, reason: &str| {
        openai(json!({"choices": [{"message": message, "finish_reason": reason}]}))
    };
    assert_eq!(of(json!({"content": "a"}), "stop").await.finish, Finish::Stop);
    assert_eq!(of(json!({"content": "a"}), "length").await.finish, Finish::Length);
    assert_eq!(
        of(json!({"content": null, "refusal": "No."}), "stop").await.finish,
        Finish::Refusal("No.".into())
    );
    assert!(matches!(of(json!({"content": ""}), "content_filter").await.finish, Finish::Refusal(_)));

    for (model, body, finish) in [
        ("claude-sonnet-4-5", json!({"content": [], "stop_reason": "max_tokens"}), Finish::Length),
        (
            "claude-sonnet-4-5",
            json!({"content": [], "stop_reason": "model_context_window_exceeded"}),
            Finish::Length,
        ),
        (
            "claude-sonnet-4-5",
            json!({"content": [], "stop_reason": "refusal", "stop_details": {"explanation": "Not this."}}),
            Finish::Refusal("Not this.".into()),
        ),
        ("gemini-2.5-pro", json!({"candidates": [{"finishReason": "MAX_TOKENS"}]}), Finish::Length),
        (
            "gemini-2.5-pro",
            json!({"candidates": [{"finishReason": "SAFETY"}]}),
            Finish::Refusal("SAFETY".into()),
        ),
        (
            "gemini-2.5-pro",
            json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
            Finish::Refusal("the prompt was blocked: PROHIBITED_CONTENT".into()),
        ),
    ] {
        let server = Server::start(vec![reply(200, "", &body.to_string())]).await;
        assert_eq!(run(&provider(&server), &call(model)).await.0.unwrap().finish, finish, "{body}");
    }
}

#[tokio::test]
async fn prompts_cut_in_silence_are_an_error() {
    let body = |tokens: u64| {
        let choice = json!({"message": {"content": "a"}, "finish_reason": "stop"});
        json!({"choices": [choice], "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}).to_string()
    };
    let mut long = call("qwen3:30b");
    long.request.messages = vec![Message::user("word ".repeat(8_000))];
    for (tokens, cut) in [(2_048, true), (0, false), (3_000, false), (10_000, false)] {
        let server = Server::start(vec![reply(200, "", &body(tokens))]).await;
        let result = run(&provider(&server), &long).await.0;
        assert_eq!(result.is_err(), cut, "{tokens}");
        if let Err(error) = result {
            assert_eq!(error.kind, Kind::ContextLength);
            assert!(error.message.contains("num_ctx") && error.message.contains("2048"), "{}", error.message);
            assert_eq!(server.seen().len(), 1);
        }
    }
    let server = Server::start(vec![reply(200, "", &body(10))]).await;
    assert!(run(&provider(&server), &call("qwen3:30b")).await.0.is_ok(), "short prompts are not checked");
}

#[tokio::test]
async fn too_long_a_prompt_is_told_apart() {
    let words = "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens.";
    let server = Server::start(vec![error(400, words)]).await;
    let error = run(&provider(&server), &call("gpt-4o")).await.0.unwrap_err();
    assert_eq!((error.kind, error.status), (Kind::ContextLength, Some(400)));
    assert!(error.message.contains("130000"));
}

#[tokio::test]
async fn tokens_are_counted_or_estimated_and_priced() {
    let usage = json!({"prompt_tokens": 1000, "completion_tokens": 500,
        "prompt_tokens_details": {"cached_tokens": 400}, "completion_tokens_details": {"reasoning_tokens": 300}});
    let counted = openai(json!({"choices": [{"message": {"content": "a"}}], "usage": usage})).await.usage;
    assert_eq!((counted.prompt_tokens, counted.completion_tokens), (1000, 500));
    assert_eq!((counted.cached_tokens, counted.reasoning_tokens), (400, 300));
    // gpt-4.1: 2, 8 and 0.5 dollars a million.
    let expected = (600.0 * 2.0 + 400.0 * 0.5 + 500.0 * 8.0) / 1e6;
    assert!((counted.cost.unwrap() - expected).abs() < 1e-12);

    let estimated = openai(json!({"choices": [{"message": {"content": "a".repeat(40)}}]})).await.usage;
    assert_eq!((estimated.prompt_tokens, estimated.completion_tokens), (13, 10));
    assert!(estimated.cost.unwrap() > 0.0);

    let server = Server::start(vec![says("a")]).await;
    let unknown = run(&provider(&server), &call("qwen3:30b")).await.0.unwrap();
    assert_eq!((unknown.usage.cost, unknown.usage.prompt_tokens), (None, 12));
}

#[tokio::test]
async fn thinking_is_no_part_of_the_answer() {
    let events = [
        json!({"choices": [{"index": 0, "delta": {"reasoning_content": "secretly"}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "<thi"}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "nk>hm</think>\n\nThe answer"}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "."}, "finish_reason": "stop"}]}),
    ];
    let server = Server::start(vec![stream(&events.iter().map(data).collect::<String>())]).await;
    let (result, log) = run(&provider(&server), &call("qwen3:30b")).await;
    assert_eq!((result.unwrap().text.as_str(), log.text().as_str()), ("The answer.", "The answer."));
}

#[tokio::test]
async fn a_provider_that_is_down_is_left_alone() {
    let mut scripts: Vec<_> = (0..12).map(|_| error(503, "out of order")).collect();
    scripts.push(says("good"));
    let server = Server::start(scripts).await;
    let provider = provider(&server);
    for _ in 0..4 {
        let (result, _) = run(&provider, &call("gpt-4.1")).await;
        assert_eq!(result.unwrap_err().kind, Kind::Server);
    }
    let mut next = call("gpt-4.1");
    next.options.fail_fast = true;
    let (result, log) = run(&provider, &next).await;
    let refused = result.unwrap_err();
    assert!(refused.message.contains("left alone after 12 failed tries"), "{}", refused.message);
    assert!(log.retries.lock().unwrap().is_empty());
    assert_eq!(server.seen().len(), 12, "nothing was sent");
}

#[tokio::test]
async fn what_a_model_takes_and_whether_it_can_be_reached_is_known_without_asking_it() {
    let without = HttpProvider::new(Arc::new(NoKey), Arc::new(|_| None), Arc::new(Prices::builtin()));
    for (model, vision) in
        [("gpt-4.1-2025-04-14", Some(true)), ("o3-mini-2025-01-31", Some(false)), ("qwen3:30b", None)]
    {
        assert_eq!(without.vision(model), vision, "{model}");
        assert!(!without.reaches(model, &CallOptions::default()), "{model}");
    }
    let with = provider_at("http://127.0.0.1:9", Arc::new(OneKey));
    assert!(with.reaches("claude-sonnet-4-5", &CallOptions::default()));
    let prices = Prices::builtin().with_toml("[models]\n\"qwen3:30b\" = { vision = true }").unwrap();
    let told = HttpProvider::new(Arc::new(NoKey), Arc::new(|_| None), Arc::new(prices));
    assert_eq!(told.vision("qwen3:30b"), Some(true));
    let local = CallOptions { base_url: Some("http://127.0.0.1:9".into()), ..CallOptions::default() };
    assert!(told.reaches("qwen3:30b", &local));
}
