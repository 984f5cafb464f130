use super::*;

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content: content.into(),
    }
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, Some("<s>".into()), Some("</s>".into())).unwrap()
}

#[test]
fn renders_turns_and_the_opening_of_an_answer() {
    let source = "{{ bos_token }}{% for message in messages %}\n    [{{ message['role'] }}] {{ message.content.strip() }}{{ eos_token }}\n{% endfor %}\n{% if add_generation_prompt %}[assistant]{% endif %}";
    let messages = [message("system", " be brief "), message("user", "{{ 1 }}")];
    let template = template(source);
    let both = template.render(&messages, GenerationPrompt::Add).unwrap();
    assert_eq!(
        both,
        "<s>    [system] be brief</s>\n    [user] {{ 1 }}</s>\n[assistant]"
    );
    let without = template.render(&messages, GenerationPrompt::Omit).unwrap();
    assert_eq!(without + "[assistant]", both);
}

#[test]
fn a_template_may_refuse_the_messages() {
    let template = template(
        "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}",
    );
    assert!(
        template
            .render(&[message("user", "")], GenerationPrompt::Omit)
            .is_ok()
    );
    let error = template.render(&[message("system", "")], GenerationPrompt::Omit);
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("chat template: ") && error.contains("user first"),
        "{error}"
    );
}

#[test]
fn templates_as_models_have_them() {
    let table = [
        ("{{ messages | length }}", "1"),
        (
            "{% set x = namespace(n=0) %}{% for m in messages %}{% set x.n = x.n + 1 %}{% endfor %}{{ x.n }}",
            "1",
        ),
        (
            "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}",
            "26 Jul 2024",
        ),
        (
            "{{ messages[0] | tojson }}",
            r#"{"role": "user", "content": "hi"}"#,
        ),
        ("{{ [1, {'a': none}] | tojson }}", r#"[1, {"a": null}]"#),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        (r#"{{ '\\u003c"<' | tojson }}"#, r#""\\u003c\"<""#),
        ("{{ '<é>&' | tojson }}", r#""<é>&""#),
        ("{{ messages[0]['content'].split('i')[0] }}", "h"),
        ("{{ messages[0].get('name', 'nobody') }}", "nobody"),
        (
            "{% for m in messages %}{% if loop.last %}last{% break %}{% endif %}{% endfor %}",
            "last",
        ),
        ("{%- if tools %}tools{%- else %}none{%- endif %}", "none"),
    ];
    for (source, expected) in table {
        let rendered = template(source).render(&[message("user", "hi")], GenerationPrompt::Omit);
        assert_eq!(rendered.unwrap(), expected, "{source}");
    }
}

#[test]
fn a_broken_template_is_refused_when_it_is_read() {
    let error = ChatTemplate::new("{% for %}", None, None).unwrap_err();
    assert!(matches!(error, EngineError::Template { .. }), "{error}");
}
