// openai-node against a running server: FATHOM_URL, FATHOM_KEY. Exits non-zero if a check fails.
import assert from "node:assert/strict";
import OpenAI from "openai";

const options = { baseURL: `${process.env.FATHOM_URL}/v1`, apiKey: process.env.FATHOM_KEY, maxRetries: 0 };
const client = new OpenAI(options);
const messages = [{ role: "user", content: "Say something about the sea." }];
const parameters = {
  type: "object",
  properties: { city: { enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", description: "d", parameters } }];
const model = (await client.models.list()).data[0].id;
const chat = (more = {}) => client.chat.completions.create({ model, messages, max_tokens: 12, ...more });
const text = (message) => (message?.reasoning_content ?? "") + (message?.content ?? "");
let failed = 0;

async function check(name, run) {
  try {
    const skipped = await run();
    console.log(skipped ? "skip  " : "ok    ", name, skipped ?? "");
  } catch (error) {
    failed += 1;
    console.log("FAILED", name, error);
  }
}

await check("models", async () => {
  assert.equal((await client.models.retrieve(model)).id, model);
});
await check("stream equals whole", async () => {
  const whole = await chat({ temperature: 0 });
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
  let pieces = "", usage = null;
  const stream = await chat({ temperature: 0, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    usage = chunk.usage ?? usage;
    pieces += text(chunk.choices[0]?.delta);
  }
  assert.equal(pieces, text(whole.choices[0].message));
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});
await check("tools", async () => {
  const tool_choice = { type: "function", function: { name: "weather" } };
  const more = { tools, tool_choice, max_tokens: 300, thinking: { type: "disabled" } };
  let answer;
  try {
    answer = await chat(more);
  } catch (error) {
    if (error.param === "tools") return "the chat template knows no tools";
    throw error;
  }
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  const runner = client.chat.completions.stream({ model, messages, ...more });
  const final = await runner.finalChatCompletion();
  const call = final.choices[0].message.tool_calls[0];
  assert.ok(["Paris", "Rome"].includes(JSON.parse(call.function.arguments).city));
  const follow = [...messages, answer.choices[0].message,
    { role: "tool", tool_call_id: answer.choices[0].message.tool_calls[0].id, content: "sunny" }];
  assert.ok((await chat({ messages: follow, tools })).choices.length);
});
await check("leaving early", async () => {
  const stream = await chat({ stream: true, max_tokens: 500 });
  for await (const _ of stream) break;
  assert.ok((await chat()).choices.length);
});
await check("completions", async () => {
  const more = { model, prompt: "Once upon", max_tokens: 8, temperature: 0 };
  const whole = await client.completions.create(more);
  let pieces = "";
  for await (const chunk of await client.completions.create({ ...more, stream: true })) pieces += chunk.choices[0].text;
  assert.equal(pieces, whole.choices[0].text);
});
await check("errors", async () => {
  await assert.rejects(chat({ temperature: 9 }), OpenAI.UnprocessableEntityError);
  await assert.rejects(chat({ nonsense: 1 }), (error) => error.param === "nonsense");
  await assert.rejects(new OpenAI({ ...options, apiKey: "wrong" }).models.list(), OpenAI.AuthenticationError);
});

console.log(`openai-node: ${failed} failed`);
process.exit(failed ? 1 : 0);
