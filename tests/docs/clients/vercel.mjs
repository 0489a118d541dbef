import { DefaultChatTransport, readUIMessageStream } from "ai";

const transport = new DefaultChatTransport({ api: `${process.argv[2]}/vercel` });
const messages = [{ id: "1", role: "user", parts: [{ type: "text", text: "Hi" }] }];
const stream = await transport.sendMessages({ chatId: "c", messages, trigger: "submit-message" });
let last;
for await (const message of readUIMessageStream({ stream })) last = message;
console.log(last.parts.filter((part) => part.type === "text").map((part) => part.text).join(""));
