// Appends an event to a topic of an event log: node append.mjs SCRIPT TOPIC TEXT
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect } from "node:net"; // or any client of Redis: it is one EVAL

const [script, topic, text] = process.argv.slice(2);
const keys = [`{sse}:log:${topic}`, "{sse}:log.secret", `{sse}:log.finished:${topic}`];
const kept = ["10000", "86400000", "600000", "604800000", randomBytes(16).toString("hex")];
const fields = ["event", "post", "data", JSON.stringify({ text })];
const event = [randomBytes(4).toString("hex"), String(fields.length), ...fields];
const command = ["EVAL", readFileSync(script, "utf8"), String(keys.length), ...keys, ...kept, ...event];
const redis = connect(Number(process.env.REDIS_PORT ?? 6379), "127.0.0.1");
redis.write(`*${command.length}\r\n${command.map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`).join("")}`);
redis.once("data", (reply) => redis.end(() => console.log(String(reply))));
