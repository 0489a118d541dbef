-- Appends events to a topic of an event log, all or none: format 1.
-- KEYS: the topic, the log's secret, the topic's end, and maybe an idempotency key.
-- ARGV: the events to keep, the milliseconds a topic lasts, those for which an idempotency key is known and those for
-- which an end is; a secret, if there is none; then of each event a nonce, how many strings its fields are, and those.
-- Returns the ID and the nonce of each event: "1700000000000-1-9f86d081 1700000000000-2-884c7d65".
if KEYS[4] then
  local known = redis.call('GET', KEYS[4])
  if known then return known end
end
local topic = KEYS[1]
local last = redis.call('XREVRANGE', topic, '+', '-', 'COUNT', 1)[1]
local time = redis.call('TIME')
local at = time[1] .. string.format('%03d', time[2] / 1000)
local epoch, number, before, ended = nil, 0, '0', nil
if last then
  local fields = last[2]
  if fields[1] ~= 'nonce' then error('the stream is none of an event log') end
  epoch, number = string.match(last[1], '(%d+)-(%d+)')
  before = fields[2]
  if fields[5] == 'at' and fields[6] > at then at = fields[6] end
  if fields[8] == 'finished' and fields[7] == 'event' then ended = last[1] .. '-' .. before end
else
  ended = redis.call('GET', KEYS[3])
end
local finishes = ARGV[9] == 'finished' and ARGV[8] == 'event'
if ended then return finishes and ended or redis.error_reply('FINISHED the topic is finished') end
-- What may be refused comes ahead of what is stored, by an account without SET or PEXPIRE too. SET is the first that
-- writes: Redis tells only that one that it is full.
redis.call('SET', KEYS[2], ARGV[5], 'NX')
if not last then
  redis.call('DEL', topic)
  epoch = at
end
local expires = redis.call('PEXPIRE', topic, ARGV[2])
local answers, first, count = {}, 6, #ARGV
while first < count do
  number = number + 1
  local id, nonce, size = epoch .. '-' .. string.format('%.0f', number), ARGV[first], 0
  local entry, beyond, filled = {id, nonce, before, 'at', at}, first + 2 + ARGV[first + 1], 5
  for i = first + 2, beyond - 1 do
    local text = ARGV[i]
    filled = filled + 1
    entry[filled] = text
    size = size + #text
  end
  redis.call('XADD', topic, 'MAXLEN', '~', ARGV[1], id, 'nonce', nonce, 'before', before, unpack(entry, 4))
  if size > 65536 then entry = {id} end
  local published = cmsgpack.pack(entry)
  local heard = redis.pcall('SPUBLISH', topic, published)
  if type(heard) == 'table' and heard.err then redis.pcall('PUBLISH', topic, published) end
  answers[#answers + 1] = id .. '-' .. nonce
  before, first = nonce, beyond
end
if expires == 0 then redis.call('PEXPIRE', topic, ARGV[2]) end
local answer = table.concat(answers, ' ')
if finishes then redis.call('SET', KEYS[3], answer, 'PX', ARGV[4]) end
if KEYS[4] then redis.call('SET', KEYS[4], answer, 'PX', ARGV[3]) end
return answer
