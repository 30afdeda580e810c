"""openai-python against a running server: FATHOM_URL, FATHOM_KEY. Exits non-zero if a check fails."""

import json
import os
import sys

import openai

client = openai.OpenAI(
    base_url=os.environ["FATHOM_URL"] + "/v1", api_key=os.environ["FATHOM_KEY"], max_retries=0, timeout=300
)
failed = []
USER = [{"role": "user", "content": "Say something about the sea."}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


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


def chat(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": USER, "max_tokens": 12, **more})


MODEL = client.models.list().data[0].id


@check
def models():
    assert client.models.retrieve(MODEL).id == MODEL
    try:
        client.models.retrieve("none")
        raise AssertionError("it does not exist")
    except openai.NotFoundError:
        pass


@check
def whole_answer_with_usage():
    answer = chat()
    assert answer.choices[0].message.role == "assistant"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_cache_hit_tokens
    assert usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens == usage.prompt_tokens


@check
def stream_equals_whole():
    text = lambda message: (getattr(message, "reasoning_content", None) or "") + (message.content or "")
    whole = chat(temperature=0).choices[0].message
    pieces, usage = "", None
    for chunk in chat(temperature=0, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces += text(choice.delta)
    assert pieces == text(whole), (pieces, text(whole))
    assert usage.completion_tokens > 0


@check
def several_answers_with_a_seed():
    first, again = (chat(n=2, seed=3, temperature=1.2) for _ in range(2))
    assert len(first.choices) == 2
    assert [c.message.content for c in first.choices] == [c.message.content for c in again.choices]


@check
def logprobs():
    answer = chat(logprobs=True, top_logprobs=3, extra_body={"thinking": {"type": "disabled"}})
    logprobs = answer.choices[0].logprobs
    entries = logprobs.content or logprobs.reasoning_content
    assert len(entries) == answer.usage.completion_tokens


@check
def schema():
    form = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
    answer = chat(
        max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": form}},
        extra_body={"thinking": {"type": "disabled"}},
    )
    if answer.choices[0].finish_reason == "length":
        raise Skip("the model wrote white space to the end")
    assert isinstance(json.loads(answer.choices[0].message.content)["yes"], bool)


@check
def tools_whole_and_streamed():
    named = {"type": "function", "function": {"name": "weather"}}
    more = {"tools": TOOLS, "tool_choice": named, "max_tokens": 300, "extra_body": {"thinking": {"type": "disabled"}}}
    try:
        answer = chat(**more)
    except openai.UnprocessableEntityError as error:
        assert error.param == "tools", error
        raise Skip("the chat template knows no tools") from error
    assert answer.choices[0].finish_reason == "tool_calls", answer
    call = answer.choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments)["city"] in ["Paris", "Rome"]
    with client.chat.completions.stream(model=MODEL, messages=USER, **more) as stream:
        final = stream.get_final_completion()
    call = final.choices[0].message.tool_calls[0]
    assert call.function.name == "weather" and not final.choices[0].message.content
    follow = USER + [answer.choices[0].message.model_dump()]
    follow += [{"role": "tool", "tool_call_id": answer.choices[0].message.tool_calls[0].id, "content": "sunny"}]
    assert chat(messages=follow, tools=TOOLS).choices


@check
def prefix_and_stop():
    messages = USER + [{"role": "assistant", "content": "The sea", "prefix": True}]
    assert chat(messages=messages).choices
    assert chat(stop=["e", "a"]).choices[0].finish_reason in ["stop", "length"]


@check
def leaving_early():
    stream = chat(stream=True, max_tokens=500)
    next(iter(stream))
    stream.close()
    assert chat().choices


@check
def completions():
    more = {"model": MODEL, "prompt": "Once upon", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**more, logprobs=2)
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens
    pieces = "".join(chunk.choices[0].text for chunk in client.completions.create(**more, stream=True))
    assert pieces == whole.choices[0].text
    echoed = client.completions.create(**more, echo=True).choices[0].text
    assert echoed == "Once upon" + pieces


@check
def errors_are_of_the_right_kind():
    for kind, more in [
        (openai.UnprocessableEntityError, {"temperature": 9}),
        (openai.UnprocessableEntityError, {"extra_body": {"nonsense": 1}}),
        (openai.BadRequestError, {"model": "none"}),
    ]:
        try:
            chat(**more)
        except kind as error:
            assert error.body["message"] and error.type
        else:
            raise AssertionError(f"{more} was accepted")
    try:
        client.with_options(api_key="wrong").models.list()
    except openai.AuthenticationError:
        pass
    else:
        raise AssertionError("a wrong key was accepted")


@check
def raw_helpers():
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=USER, max_tokens=2)
    assert raw.headers["x-request-id"]
    assert raw.parse().choices


print(f"openai-python {openai.__version__}: {len(failed)} failed")
sys.exit(bool(failed))
