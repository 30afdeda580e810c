// The server's API, as far as the page needs it.

/** An answer that is none: `status` is 0 if the server could not be reached. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, key, options = {}) {
  const headers = { ...(options.body ? { "content-type": "application/json" } : {}), ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, String(error.message));
  }
  if (!response.ok) {
    const text = await response.text().catch(() => "");
    let message = text.slice(0, 300);
    try { message = JSON.parse(text).error.message; } catch { /* not the API's form */ }
    throw new ApiError(response.status, message);
  }
  return response;
}

/** The ids of the models that the server has. */
export async function models(key) {
  const list = await (await request("v1/models", key)).json();
  return list.data.map(model => model.id);
}

/** Streams an answer: yields the objects of the event stream. */
export async function* complete(body, key, signal) {
  const options = { method: "POST", body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }), signal };
  const response = await request("v1/chat/completions", key, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    // Every whole answer ends with [DONE].
    if (done) throw new ApiError(0, "the connection broke");
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.status ?? 500, event.error.message);
      yield event;
    }
  }
}
