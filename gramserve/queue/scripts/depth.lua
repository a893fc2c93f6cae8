-- depth: counts what waits and runs in the lane. Reads only.
--
-- KEYS  1 the lane's tag
-- Result ready STAT, ready ROUTINE, leased, delayed, ms that the older of the two next slides has waited.
local function waited_ms(entry)
  local batch = entry and batch_of((parts_of(entry)))
  return batch and math.max(now_ms - batch.accepted_ms, 0) or 0
end
local stat = redis.call('ZCOUNT', READY, '-inf', '(' .. whole(ROUTINE))
local first = redis.call('ZRANGE', READY, 0, 0)[1]
local first_routine = redis.call('ZRANGE', READY, stat, stat)[1]
return { stat, redis.call('ZCARD', READY) - stat, redis.call('ZCARD', LEASED), redis.call('ZCARD', DELAYED),
  math.max(waited_ms(first), waited_ms(first_routine)) }
