// Node's http module: `node node_http.mjs PORT`. Node itself joins what is written in one turn of its loop.

import { once } from 'node:events'
import { createServer } from 'node:http'

const TEXT = 'The quick brown fox jumps over it'
const KIB = TEXT.repeat(32).slice(0, 1024)
const ORDER = { id: 1234567, customer: 'Ada Lovelace', total: 129.5, paid: true, items: ['tea', 'biscuits'] }
const BURST = 100

const event = (text, type) => (type ? `event: ${type}\r\n` : '') + `data: ${text}\r\n\r\n`
const MESSAGE = event(TEXT, 'tick')
const MAKE = {
  ready: () => MESSAGE,
  same: () => MESSAGE,
  strings: () => event(TEXT),
  queue: () => MESSAGE,
  tick: () => MESSAGE,
  kib: () => event(KIB, 'tick'),
  typed: () => event(JSON.stringify(ORDER)),
  built: () => `id: 1234567\r\n${event(TEXT, 'tick')}`,
}

class Queue {
  items = []
  taken = () => {}
  filled = () => {}

  async put(item) {
    while (this.items.length >= BURST) await new Promise((resolve) => (this.taken = resolve))
    this.items.push(item)
    this.filled()
  }

  async get() {
    while (this.items.length === 0) {
      this.taken()
      await new Promise((resolve) => (this.filled = resolve))
    }
    return this.items.shift()
  }
}

async function stream(response, path, events) {
  const make = MAKE[path]
  const queue = new Queue()
  if (path === 'queue') (async () => { for (let i = 0; i < events; i++) await queue.put(MESSAGE) })()
  for (let i = 0; i < events; i++) {
    const item = path === 'queue' ? await queue.get() : make()
    if (!response.write(item) && !response.destroyed) await once(response, 'drain')
    if (path === 'tick') await new Promise(setImmediate)
  }
  response.end()
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, 'http://localhost')
  const path = url.pathname.slice(1)
  if (path === 'plain') return response.end('data: ')
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
  if (path === 'one') return response.write(MESSAGE)
  if (path === 'beat') {
    response.write(MESSAGE)
    const timer = setInterval(() => response.write(': ping\r\n\r\n'), 1000)
    return response.on('close', () => clearInterval(timer))
  }
  await stream(response, path, Number(url.searchParams.get('events') ?? 1))
})
server.listen({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 2048 })
