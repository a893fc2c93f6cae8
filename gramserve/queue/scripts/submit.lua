-- submit: queues slides of an open batch.
--
-- KEYS  1 the lane's tag
-- ARGV  1 batch   2 last (1: with these every slide of the round was handed over)   3... indices, ascending
-- Result how many were queued; -1 when the batch is unknown, -2 when an index is not below its total.
-- Invariant: a slide is queued once per round. Indices come in ascending order, so whatever is not above the highest
-- one seen is a repeat; so is all that comes when every slide was handed over, and in a batch that was rebuilt it may
-- name slides that have ended. On a stopping batch a slide goes straight to its end. Refused while memory is full
-- (I10): the first write needs memory.
local name = ARGV[1]
local batch = batch_of(name)
if not batch then return -1 end
if #ARGV > 2 and tonumber(ARGV[#ARGV]) >= batch.total then return -2 end
if batch.finished ~= '' or batch.sealed then return 0 end

local key, pending, score = batch_key(name), pending_key(name), whole(batch.score)
local high = tonumber(redis.call('HGET', key, 'high'))
local members, fresh = {}, {}
for position = 3, #ARGV do
  local index = tonumber(ARGV[position])
  if index > high then
    fresh[#fresh + 1] = index
    members[#members + 1] = score
    members[#members + 1] = entry_of(name, index)
  end
end
local last = tonumber(ARGV[#ARGV])
if #fresh > 0 then
  redis.call('ZADD', READY, unpack(members))
  for _, index in ipairs(fresh) do redis.call('SETBIT', pending, index, 1) end
  batch.live, batch.touched = batch.live + #fresh, true
end
if #ARGV > 2 and last > high then redis.call('HSET', key, 'high', last) end
if ARGV[2] == '1' then
  redis.call('HSET', key, 'sealed', 1)
  batch.sealed = true
  if batch.live == 0 then redis.call('ZADD', DRAINED, whole(now_ms), name) end
end
local stop = stop_of(name, batch)
if stop then
  for _, index in ipairs(fresh) do
    local entry = entry_of(name, index)
    redis.call('ZREM', READY, entry)
    settle(name, entry, index, stop, 0)
  end
elseif #fresh > 0 then
  ring()
end
return #fresh
