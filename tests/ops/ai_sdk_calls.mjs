// Calls of the AI SDK for `python -m tests.ops.ai_sdk`, which starts the servers:
//
//     node ai_sdk_calls.mjs URL URL_OF_A_SERVER_WITHOUT_STORE MODEL

import assert from 'node:assert/strict';

import { createOpenAI } from '@ai-sdk/openai';
import { generateText, jsonSchema, stepCountIs, tool } from 'ai';

const [url, urlWithoutStore, name] = process.argv.slice(2);
const model = createOpenAI({ baseURL: url, apiKey: 'none' })(name);
const storeless = createOpenAI({ baseURL: urlWithoutStore, apiKey: 'none' })(name);
const question = { role: 'user', content: 'Name a planet.' };
const more = { role: 'user', content: 'And another one.' };

/** The items of /v1/responses/ID/input_items or /v1/conversations/ID/items, oldest first. */
async function kept(path) {
  const response = await fetch(`${url}${path}?order=asc&limit=100`);
  assert.equal(response.status, 200, await response.clone().text());
  return (await response.json()).data;
}

function generate(of, options, openai) {
  const limits = { maxOutputTokens: 60, maxRetries: 0 };
  // A small model would make several calls at once.
  const providerOptions = { openai: { parallelToolCalls: false, ...openai } };
  return generateText({ model: of, ...limits, ...options, providerOptions });
}

function responseId(result) {
  return result.providerMetadata.openai.responseId;
}

function cities() {
  const seen = [];
  const inputSchema = jsonSchema({
    type: 'object',
    properties: { city: { type: 'string', enum: ['Paris', 'Rome'] } },
    required: ['city'],
    additionalProperties: false,
  });
  const execute = async ({ city }) => (seen.push(city), { weather: 'sunny' });
  const weather = tool({ description: 'Returns the weather of a city.', inputSchema, execute });
  const loop = { tools: { weather }, toolChoice: 'required', stopWhen: stepCountIs(2), prompt: 'What is the weather?' };
  return { seen, loop };
}

async function createConversation() {
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${url}/conversations`, { method: 'POST', headers, body: '{}' });
  assert.equal(response.status, 200);
  return (await response.json()).id;
}

const checks = {
  // By default, the SDK sends the messages of the model as references to items of the server.
  async 'a history of references'() {
    const first = await generate(model, { messages: [question] });
    const second = await generate(model, { messages: [question, ...first.response.messages, more] });
    const items = await kept(`/responses/${responseId(second)}/input_items`);
    assert.deepEqual(items.map((item) => item.role), ['user', 'assistant', 'user']);
    assert.equal(items[1].content[0].text, first.text);
  },

  async 'a history as text with store: false'() {
    const first = await generate(model, { messages: [question] }, { store: false });
    const messages = [question, ...first.response.messages, more];
    const second = await generate(model, { messages }, { store: false });
    assert.ok(second.usage.inputTokens > first.usage.inputTokens);
    await assert.rejects(kept(`/responses/${responseId(second)}/input_items`));
  },

  async 'two answers to one response'() {
    const first = await generate(model, { prompt: question.content });
    const openai = { previousResponseId: responseId(first) };
    for (const prompt of ['Why?', more.content]) {
      const next = await generate(model, { prompt }, openai);
      const items = await kept(`/responses/${responseId(next)}/input_items`);
      assert.deepEqual(items.map((item) => item.content[0].text), [question.content, first.text, prompt]);
    }
  },

  // The SDK repeats the messages beside the id, those of the model as references.
  async 'a history beside the id of the response that has it'() {
    const first = await generate(model, { messages: [question] });
    const messages = [question, ...first.response.messages, more];
    const second = await generate(model, { messages }, { previousResponseId: responseId(first) });
    assert.ok(second.text);
  },

  async 'a loop of tools'() {
    const { seen, loop } = cities();
    const result = await generate(model, loop);
    assert.equal(seen.length, 2);
    assert.equal(result.steps.length, 2);
  },

  // Each step continues the same response, and sends the steps before it.
  async 'a loop of tools after a response'() {
    const first = await generate(model, { prompt: question.content });
    const { seen, loop } = cities();
    const result = await generate(model, loop, { previousResponseId: responseId(first) });
    assert.equal(seen.length, 2);
    const items = await kept(`/responses/${responseId(result)}/input_items`);
    const types = ['message', 'message', 'message', 'function_call', 'function_call_output'];
    assert.deepEqual(items.map((item) => item.type), types);
  },

  // The second step sends the result of the call alone: the call is in the conversation. (It repeats the question.)
  async 'a loop of tools in a conversation'() {
    const conversation = await createConversation();
    const { seen, loop } = cities();
    await generate(model, loop, { conversation });
    assert.equal(seen.length, 2);
    const items = await kept(`/conversations/${conversation}/items`);
    const types = ['message', 'function_call', 'message', 'function_call_output', 'function_call'];
    assert.deepEqual(items.map((item) => item.type), types);
  },

  async 'without a store: a clear error for references, and success with store: false'() {
    for (const store of [undefined, false]) {
      const first = await generate(storeless, { messages: [question] }, { store });
      const second = generate(storeless, { messages: [question, ...first.response.messages, more] }, { store });
      if (store === false) assert.ok((await second).text);
      else await assert.rejects(second, (error) => error.statusCode === 400 && /store/.test(error.message));
    }
  },
};

for (const [title, check] of Object.entries(checks)) {
  try {
    await check();
  } catch (error) {
    throw new Error(title, { cause: error });
  }
  console.log(`passed: ${title}`);
}
