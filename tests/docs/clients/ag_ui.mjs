import { HttpAgent } from "@ag-ui/client";

const agent = new HttpAgent({ url: `${process.argv[2]}/ag-ui`, initialMessages: [{ id: "1", role: "user", content: "Hi" }] });
const { newMessages } = await agent.runAgent({});
console.log(newMessages.map((message) => message.content).join(""));
