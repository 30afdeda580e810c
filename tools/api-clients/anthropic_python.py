"""anthropic-python against a running server: FATHOM_URL, FATHOM_KEY. Exits non-zero if a check fails."""

import os
import sys

import anthropic

client = anthropic.Anthropic(
    base_url=os.environ["FATHOM_URL"] + "/anthropic", api_key=os.environ["FATHOM_KEY"], max_retries=0, timeout=300
)
failed = []
USER = [{"role": "user", "content": "Say something about the sea."}]
# Newer versions of the library have no argument for it.
GREEDY = {"extra_body": {"temperature": 0}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


class Skip(Exception):
    """A check that this model cannot pass or fail."""


def check(function):
    """Runs a check now and notes what became of it."""
    try:
        function()
        print("ok    ", function.__name__)
    except Skip as reason:
        print("skip  ", function.__name__, reason)
    except Exception as error:
        failed.append(function.__name__)
        print("FAILED", function.__name__, type(error).__name__, error)


def create(**more):
    return client.messages.create(**{"model": "claude-opus-4", "messages": USER, "max_tokens": 12, **more})


@check
def whole_answer():
    answer = create(system="Be brief.", metadata={"user_id": "u"}, stop_sequences=["\n\n\n"])
    assert answer.type == "message" and answer.role == "assistant"
    assert answer.stop_reason in ["end_turn", "max_tokens", "stop_sequence"]
    assert answer.usage.output_tokens > 0


@check
def counted_as_charged():
    answer = create(system=[{"type": "text", "text": "Be brief."}])
    count = client.messages.count_tokens(model="claude-opus-4", messages=USER, system="Be brief.")
    assert count.input_tokens == answer.usage.input_tokens + answer.usage.cache_read_input_tokens


@check
def stream_equals_whole():
    whole = create(**GREEDY)
    with client.messages.stream(model="claude-opus-4", messages=USER, max_tokens=12, **GREEDY) as stream:
        for _ in stream:
            pass
        final = stream.get_final_message()
    assert final.model_dump(include={"content", "stop_reason"}) == whole.model_dump(include={"content", "stop_reason"})
    assert final.usage.output_tokens == whole.usage.output_tokens


@check
def tools():
    more = {
        "tools": [{"name": "weather", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "weather"},
        "max_tokens": 300,
        "thinking": {"type": "disabled"},
    }
    try:
        answer = create(**more)
    except anthropic.BadRequestError as error:
        if "no place for tools" in str(error):
            raise Skip("the chat template knows no tools") from error
        raise
    assert answer.stop_reason == "tool_use", answer
    call = answer.content[-1]
    assert call.name == "weather" and call.input["city"] in ["Paris", "Rome"]
    with client.messages.stream(model="claude-opus-4", messages=USER, **more) as stream:
        assert stream.get_final_message().content[-1].input["city"] in ["Paris", "Rome"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    follow = USER + [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    assert create(messages=follow, tools=more["tools"]).usage.output_tokens > 0


@check
def prefill():
    assert create(messages=USER + [{"role": "assistant", "content": "The sea"}]).usage.output_tokens > 0


@check
def errors_are_of_the_right_kind():
    for kind, more in [
        (anthropic.BadRequestError, {"extra_body": {"temperature": 9}}),
        (anthropic.BadRequestError, {"model": "none"}),
        (anthropic.BadRequestError, {"extra_body": {"nonsense": 1}}),
    ]:
        try:
            create(**more)
        except kind as error:
            assert error.body["error"]["type"] == "invalid_request_error"
        else:
            raise AssertionError(f"{more} was accepted")
    try:
        client.with_options(api_key="wrong").messages.create(model="claude", messages=USER, max_tokens=1)
    except anthropic.AuthenticationError:
        pass
    else:
        raise AssertionError("a wrong key was accepted")


print(f"anthropic-python {anthropic.__version__}: {len(failed)} failed")
sys.exit(bool(failed))
