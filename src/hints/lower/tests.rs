//! What bodies are lowered to, as facts.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::hint::Action;
use crate::domain::retention::Directive;
use crate::domain::retention::directive::DIRECTIVES_MAX;

const fn message(message: usize, block: usize, end: u64) -> Part {
    Part { place: Place::Message { message, block }, end }
}

/// Tools to 100, system to 200, three messages to 300, 400 and 500.
const PARTS: [Part; 5] = [
    Part { place: Place::Tool(0), end: 100 },
    Part { place: Place::System(0), end: 200 },
    message(0, 0, 300),
    message(1, 0, 400),
    message(2, 0, 500),
];

/// `0..100 tools 3600s*`: the tokens, the kind, the TTL with a star where hits renew it, the
/// priority.
fn shown(lowered: &Lowered) -> String {
    let line = |directive: &Directive| {
        let (tokens, wish) = (directive.tokens, directive.wish);
        let end = tokens.end.map(|end| end.to_string()).unwrap_or_default();
        let kind = wish.kind.map(|kind| format!(" {kind}")).unwrap_or_default();
        let shield = wish.shield.map(|shield| {
            let star = if shield.refresh_on_hit { "*" } else { "" };
            format!(" {}s{star}", shield.ttl.as_secs())
        });
        let priority = wish.priority.map(|(priority, _)| format!(" p{priority}"));
        let [shield, priority] = [shield, priority].map(Option::unwrap_or_default);
        format!("{}..{end}{kind}{shield}{priority}", tokens.start)
    };
    lowered.directives.iter().map(line).collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn check(body: &Value, parts: &[Part], expected: &str) {
    let said = match lower(body, parts) {
        Ok(lowered) => shown(&lowered),
        Err(why) => why,
    };
    assert_eq!(said, expected, "{body}");
}

const CACHED: &str = "cache_control";

fn marked(ttl: &str) -> Value {
    json!({"type": "text", CACHED: {"type": "ephemeral", "ttl": ttl}})
}

#[test]
fn parts_without_marks_say_what_they_are() {
    let body = json!({"messages": [
        {"role": "user", "content": "do it"},
        {"role": "assistant", "content": [{"type": "tool_use"}]},
        {"role": "user", "content": [{"type": "tool_result"}]},
    ]});
    let kinds = "0..100 tools; 100..200 system; 200..400 conversation; 400..500 tool_result; \
                 500.. output";
    check(&body, &PARTS, kinds);
    check(&body, &[], "");
    // OpenAI has roles of its own, and items in the place of messages.
    let body = json!({"messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": [{"type": "text"}]},
    ]});
    check(
        &body,
        &PARTS[2..],
        "0..300 system; 300..400 tool_result; 400..500 conversation; 500.. output",
    );
    let body = json!({"input": [
        {"role": "user", "content": "x"}, {"type": "function_call_output"}, {"type": "reasoning"},
    ]});
    check(
        &body,
        &PARTS[2..],
        "0..300 conversation; 300..400 tool_result; 400..500 reasoning; 500.. output",
    );
}

#[test]
fn reasoning_is_scratch_only_where_nothing_stands_behind_it() {
    let body = json!({"messages": [
        {"role": "assistant", "content": [{"type": "thinking"}, {"type": "text"}]},
    ]});
    check(&body, &[message(0, 0, 50), message(0, 1, 80)], "0..80 conversation; 80.. output");
    check(&body, &[message(0, 0, 50)], "0..50 reasoning; 50.. output");
}

#[test]
fn breakpoints_cover_all_before_them_and_the_longest_counts() {
    let body = json!({
        "tools": [marked("1h")],
        "system": [marked("5m")],
        "messages": [{"role": "user", "content": [{"type": "text", CACHED: {"type": "ephemeral"}}]}],
    });
    let expected = "0..100 tools 3600s*; 100..200 system 300s*; 200..300 conversation 300s*; \
                    300..500 conversation; 500.. output";
    check(&body, &PARTS, expected);
    let body = json!({"system": [marked("1h")]});
    let expected =
        "0..100 tools 3600s*; 100..200 system 3600s*; 200..500 conversation; 500.. output";
    check(&body, &PARTS, expected);
    // The body's own mark is its last part's.
    let body = json!({CACHED: {"type": "ephemeral"}, "messages": [{"content": [marked("5m")]}]});
    check(&body, &[message(0, 0, 300)], "0..300 conversation 300s*; 300.. output");
    check(&json!({CACHED: {"type": "ephemeral"}}), &[], "0.. 300s*");
    // What is marked inside a tool's result is cached with the result.
    let result = json!({"type": "tool_result", "content": [marked("5m")]});
    let body = json!({"messages": [{"role": "user", "content": [result]}]});
    check(&body, &[message(0, 0, 300)], "0..300 tool_result 300s*; 300.. output");
    let body = json!({"system": [{CACHED: null}]});
    check(&body, &PARTS[..1], "0..100 tools; 100.. output");
}

#[test]
fn breakpoints_that_break_the_rules_are_refused() {
    let many = |count: usize| json!({"messages": [{"content": vec![marked("5m"); count]}]});
    let parts: Vec<Part> = (0..5).map(|block| message(0, block, 10 * (block as u64 + 1))).collect();
    check(&many(4), &parts, "0..40 conversation 300s*; 40..50 conversation; 50.. output");
    let five = "5 parts have cache_control: mark at most 4, the last of each stretch that stays \
                the same";
    check(&many(5), &parts, five);
    let mut own = many(4);
    own[CACHED] = json!({"type": "ephemeral", "ttl": "5m"});
    check(&own, &parts, five);
    let body = json!({"tools": [marked("5m")], "messages": [{"content": [marked("1h")]}]});
    let order = "messages[0].content[0] has a longer ttl than tools[0] before it: mark what is \
                 kept longer first (tools, then system, then messages)";
    check(&body, &PARTS, order);
    let unknown = "messages[0].content[4] has cache_control, and no part says where it ends: give \
                   the end of every marked part";
    let body = json!({"messages": [{"content": [1, 2, 3, 4, marked("5m")]}]});
    check(&body, &PARTS, unknown);
    let wrong = |control: Value| json!({"tools": [{CACHED: control}]});
    for (control, expected) in [
        (json!({"type": "persistent"}), "tools[0].cache_control: its type must be `ephemeral`"),
        (json!({}), "tools[0].cache_control: its type must be `ephemeral`"),
        (json!(true), "tools[0].cache_control: its type must be `ephemeral`"),
        (
            json!({"type": "ephemeral", "ttl": "2h"}),
            "tools[0].cache_control: its ttl must be `5m` or `1h`",
        ),
        (
            json!({"type": "ephemeral", "ttl": 300}),
            "tools[0].cache_control: its ttl must be `5m` or `1h`",
        ),
    ] {
        check(&wrong(control), &PARTS, expected);
    }
}

#[test]
fn nvext_is_lowered() {
    let nvext = |nvext: Value| json!({"nvext": nvext});
    let part = &PARTS[..1];
    let hints = |hints: Value| nvext(json!({"agent_hints": hints}));
    check(&hints(json!({"priority": 5})), part, "0..100 tools p40; 100.. output p40");
    check(&hints(json!({"priority": 0})), &[], "0.. p35");
    check(&hints(json!({"priority": -1000})), &[], "0.. p0");
    check(&hints(json!({"priority": i64::MAX})), &[], "0.. p100");
    let cache = |ttl: Value| nvext(json!({CACHED: {"type": "ephemeral", "ttl": ttl}}));
    check(&cache(json!("1h")), part, "0..100 tools 3600s*; 100.. output");
    check(&cache(json!("600")), &[], "0.. 600s*");
    check(&cache(json!(1200)), &[], "0.. 1200s*");
    check(&cache(json!("10s")), &[], "0.. 300s*");
    check(&cache(json!("48h")), &[], "0.. 3600s*");
    check(&cache(Value::Null), &[], "0.. 300s*");
    for (body, expected) in [
        (nvext(json!(7)), "nvext is no object"),
        (hints(json!({"priority": 1.5})), "nvext.agent_hints.priority is no whole number"),
        (hints(json!({"osl": -1})), "nvext.agent_hints.osl is no number of tokens"),
        (
            hints(json!({"speculative_prefill": 1})),
            "nvext.agent_hints.speculative_prefill is neither true nor false",
        ),
        (
            cache(json!("forever")),
            "nvext.cache_control.ttl is no time: write whole seconds, or a number with s, m or h",
        ),
        (nvext(json!({CACHED: {"type": "x"}})), "nvext.cache_control.type must be `ephemeral`"),
        (
            nvext(json!({"session_control": {"action": "reopen", "session_id": "s"}})),
            "nvext.session_control: action is neither open nor close",
        ),
        (
            nvext(json!({"agent_context": {"session_id": 7}})),
            "nvext.agent_context: session_id is no text",
        ),
        (nvext(json!({"agent_hints": 5})), "nvext.agent_hints is no object"),
        (nvext(json!({"agent_context": "s"})), "nvext.agent_context is no object"),
        (nvext(json!({"session_control": ["s"]})), "nvext.session_control is no object"),
        (nvext(json!({CACHED: true})), "nvext.cache_control is no object"),
        (nvext(json!({CACHED: "ephemeral"})), "nvext.cache_control is no object"),
        (nvext(json!({CACHED: []})), "nvext.cache_control is no object"),
        (nvext(json!({CACHED: {"type": 5}})), "nvext.cache_control.type must be `ephemeral`"),
    ] {
        check(&body, part, expected);
    }
}

#[test]
fn what_is_not_taken_as_it_stands_is_noted() {
    let body = json!({"nvext": {
        "agent_hints": {"osl": 512},
        CACHED: {"type": "ephemeral", "ttl": "10s"},
        "session_control": {"session_id": "s", "timeout": 60},
    }});
    let lowered = lower(&body, &[]).unwrap();
    assert_eq!(lowered.output_tokens_expected, Some(512));
    let [ttl, timeout] = &lowered.notes[..] else { panic!("{:?}", lowered.notes) };
    assert!(ttl.contains("10 s was taken as 300 s"), "{ttl}");
    assert!(timeout.contains("sessions.idle_timeout"), "{timeout}");
}

#[test]
fn what_is_said_of_a_session_that_has_no_name_is_noted() {
    for (nvext, what) in [
        (json!({"agent_context": {"parent_session_id": "p"}}), "agent_context.parent_session_id"),
        (json!({"agent_context": {"session_final": true}}), "agent_context.session_final"),
        (json!({"session_control": {"action": "open"}}), "session_control.action"),
        (json!({"session_control": {"action": "close"}}), "session_control.action"),
    ] {
        let lowered = lower(&json!({"nvext": nvext}), &[]).unwrap();
        assert!(lowered.before.is_empty() && lowered.after.is_empty());
        let [note] = &lowered.notes[..] else { panic!("{:?}", lowered.notes) };
        assert!(note.starts_with(&format!("nvext.{what}: ")), "{note}");
    }
    let silent = json!({"nvext": {"agent_context": {"session_final": false}}});
    assert!(lower(&silent, &[]).unwrap().notes.is_empty());
}

#[test]
fn sessions_begin_and_end_as_the_body_says() {
    let name = |name: &str| SessionName::new(name).unwrap();
    let of = |body: Value| lower(&body, &[]).unwrap();
    let opened = of(json!({"nvext": {
        "agent_context": {"session_id": "sub", "parent_session_id": "main"},
    }}));
    assert_eq!(opened.session, Some(name("sub")));
    let start = Action::SessionStart { session: name("sub"), parent: Some(name("main")) };
    assert_eq!((opened.before, opened.after), (vec![start], vec![]));

    let control = |action: &str| {
        of(json!({"nvext": {"session_control": {"action": action, "session_id": "s"}}}))
    };
    let start = Action::SessionStart { session: name("s"), parent: None };
    assert_eq!(control("open").before, [start]);
    let end = Action::SessionEnd { session: name("s"), tree: false };
    assert_eq!(control("close").after, std::slice::from_ref(&end));
    let last = of(json!({"nvext": {"agent_context": {"session_id": "s", "session_final": true}}}));
    assert_eq!(last.after, [end]);

    let keyed = of(json!({"prompt_cache_key": "k", "prompt_cache_retention": "in_memory"}));
    assert_eq!((keyed.session, keyed.directives.is_empty()), (Some(name("k")), true));
    let both =
        of(json!({"prompt_cache_key": "k", "nvext": {"agent_context": {"session_id": "s"}}}));
    assert_eq!(both.session, Some(name("s")));
    assert!(lower(&json!({"prompt_cache_key": "k".repeat(129)}), &[]).unwrap_err().contains("129"));
}

#[test]
fn the_next_turn_is_lifted_once_this_one_has_ended() {
    let of = |mut body: Value, asked: bool| {
        body["nvext"]["agent_hints"] = json!({"speculative_prefill": asked});
        lower(&body, &[]).unwrap()
    };
    let lift = |session: &str| Action::SpeculativePrefill {
        target: last_chain(SessionName::new(session).unwrap()),
        wish: LiftWish::default(),
    };
    let context = |more: Value| {
        let mut body = json!({"nvext": {"agent_context": {"session_id": "s"}}});
        body["nvext"]["agent_context"]
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let plain = of(context(json!({})), true);
    assert_eq!((plain.before, plain.after, plain.notes), (vec![], vec![lift("s")], vec![]));
    let keyed = of(json!({"prompt_cache_key": "k"}), true);
    assert_eq!(keyed.after, [lift("k")]);
    assert!(of(context(json!({})), false).after.is_empty());

    // Where it is not possible, the note says why not.
    let nobody = of(json!({}), true);
    assert!(nobody.after.is_empty());
    assert!(nobody.notes[0].contains("speculative_prefill: nothing is lifted: name the session"));
    let last = of(context(json!({"session_final": true})), true);
    let end = Action::SessionEnd { session: SessionName::new("s").unwrap(), tree: false };
    assert_eq!(last.after, [end]);
    assert!(last.notes[0].contains("the session ends with this request"), "{:?}", last.notes);
}

#[test]
fn a_sub_agents_talk_is_scratch_and_its_prompt_is_not() {
    let mut body = json!({"nvext": {"agent_context": {"session_id": "sub"}}});
    check(&body, &PARTS[..3], "0..100 tools; 100..200 system; 200..300 conversation; 300.. output");
    body["nvext"]["agent_context"]["parent_session_id"] = json!("main");
    check(&body, &PARTS[..3], "0..100 tools; 100..200 system; 200.. subagent");
}

#[test]
fn openai_fields_are_lowered() {
    let day = json!({"prompt_cache_retention": "24h"});
    check(&day, &PARTS[..2], "0..100 tools 86400s; 100..200 system 86400s; 200.. output");
    let said = "prompt_cache_retention is neither in_memory nor 24h";
    check(&json!({"prompt_cache_retention": "48h"}), &[], said);
    check(&json!({"prompt_cache_key": 7}), &[], "prompt_cache_key is no text");
}

#[test]
fn bodies_and_parts_that_are_none_are_refused() {
    check(&json!([]), &[], "the request body is no JSON object");
    let backwards = [PARTS[1], PARTS[0]];
    let said = "part 1 ends at token 100, before the part in front of it: give parts in the order \
                of their tokens";
    check(&json!({}), &backwards, said);
}

#[test]
fn a_long_talk_keeps_its_shields_and_tells_what_is_new() {
    let messages: Vec<Value> = (0..200)
        .map(|index| {
            let kind = if index % 2 == 0 { "text" } else { "tool_result" };
            let mut block = json!({"type": kind});
            if index % 60 == 7 {
                block[CACHED] = json!({"type": "ephemeral"});
            }
            json!({"role": "user", "content": [block]})
        })
        .collect();
    let parts: Vec<Part> = (0..200).map(|at| message(at, 0, 64 * (at as u64 + 1))).collect();
    let lowered = lower(&json!({"messages": messages}), &parts).unwrap();
    let all: Vec<_> = lowered.directives.iter().collect();
    assert!(all.len() <= DIRECTIVES_MAX, "{}", all.len());
    // The oldest part has lost its kind and kept its shield.
    assert_eq!(all[0].wish.kind, None);
    assert!(all[0].wish.shield.is_some());
    let shielded_to = all.iter().rev().find(|one| one.wish.shield.is_some()).unwrap();
    assert_eq!(shielded_to.tokens.end, Some(64 * 188));
    assert!(all[all.len() - 20..].iter().all(|one| one.wish.kind.is_some()));
}

#[test]
fn every_api_has_its_word_for_why_the_model_stopped() {
    for word in ["tool_use", "tool_calls", "function_call"] {
        assert_eq!(stop(word), Stop::ToolUse, "{word}");
    }
    for word in ["end_turn", "stop", "stop_sequence"] {
        assert_eq!(stop(word), Stop::EndTurn, "{word}");
    }
    for word in ["length", "max_tokens", "refusal", ""] {
        assert_eq!(stop(word), Stop::Unknown, "{word}");
    }
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let place = prop_oneof![
        (0..4_usize).prop_map(Place::Tool),
        (0..4_usize).prop_map(Place::System),
        (0..6_usize, 0..4_usize).prop_map(|(message, block)| Place::Message { message, block }),
    ];
    prop::collection::vec((place, 0..300_u64), 0..150).prop_map(|steps| {
        let mut end = 0;
        let part = |(place, tokens)| {
            end += tokens;
            Part { place, end }
        };
        steps.into_iter().map(part).collect()
    })
}

proptest! {
    #[test]
    fn prop_any_json_is_lowered_or_refused(body in samples::json(), parts in parts()) {
        match lower(&body, &parts) {
            Ok(lowered) => prop_assert!(lowered.directives.iter().count() <= DIRECTIVES_MAX),
            // Parts are in order, so whatever is refused is the body's own fault.
            Err(why) => prop_assert!(!why.contains("can't be told apart"), "{}", why),
        }
    }

    #[test]
    fn prop_ranges_are_always_admitted_and_marks_always_covered(
        parts in parts(),
        marks in prop::collection::vec((0..6_usize, 0..4_usize, any::<bool>()), 0..5),
    ) {
        let mut content = vec![vec![json!({"type": "text"}); 4]; 6];
        let mut marked_places = Vec::new();
        for (message, block, long) in marks {
            let ttl = if long { "1h" } else { "5m" };
            content[message][block][CACHED] = json!({"type": "ephemeral", "ttl": ttl});
            marked_places.push(Place::Message { message, block });
        }
        let messages: Vec<_> = content.into_iter().map(|blocks| json!({"content": blocks})).collect();
        let Ok(lowered) = lower(&json!({"messages": messages}), &parts) else { return Ok(()) };
        for place in marked_places {
            let end = parts.iter().find(|part| part.place == place).unwrap().end;
            let shielded = lowered.directives.iter().filter(|one| one.wish.shield.is_some());
            let covered: u64 = shielded
                .map(|one| one.tokens.end.unwrap().min(end).saturating_sub(one.tokens.start))
                .sum();
            prop_assert_eq!(covered, end, "every token before the mark has a shield");
        }
    }
}
