// A chat with the AI SDK whose history the server keeps: a request has only the new message.
//
//     npm ci && npm start -- [--conversation] [--resume ID]
//
// An empty line ends the chat. It prints an id, with which `--resume` continues the chat later, from any machine.

import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

import { createOpenAI } from '@ai-sdk/openai';
import { streamText } from 'ai';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: 'llamacpp' },
    conversation: { type: 'boolean', default: false },
    resume: { type: 'string' },
  },
});
const baseURL = process.env.OPENAI_BASE_URL ?? 'http://127.0.0.1:8080/v1';
const apiKey = process.env.OPENAI_API_KEY ?? 'none';
const model = createOpenAI({ baseURL, apiKey })(values.model);

let id = values.resume;
if (values.conversation && !id) {
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` };
  const response = await fetch(`${baseURL}/conversations`, { method: 'POST', headers, body: '{}' });
  if (!response.ok) throw new Error(await response.text());
  id = (await response.json()).id;
}

/** Prints the answer to `prompt` while the model generates it, and returns the id of the response. */
async function answer(prompt) {
  const options = { [id?.startsWith('conv_') ? 'conversation' : 'previousResponseId']: id };
  let failure;
  const result = streamText({
    model,
    prompt,
    maxOutputTokens: 100,
    providerOptions: { openai: options },
    onError: ({ error }) => (failure = error),
  });
  for await (const text of result.textStream) process.stdout.write(text);
  if (failure) throw failure;
  console.log();
  return (await result.providerMetadata).openai.responseId;
}

process.stdout.write('> ');
for await (const line of createInterface({ input: process.stdin })) {
  if (!line.trim()) break;
  const responseId = await answer(line.trim());
  // A conversation grows by itself, and each response continues the one before it.
  if (!id?.startsWith('conv_')) id = responseId;
  process.stdout.write('> ');
}
if (id) console.log(`\n--resume ${id}`);
