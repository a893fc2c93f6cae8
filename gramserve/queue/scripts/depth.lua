-- depth: counts what waits and runs in the lane. Reads only.
--
-- KEYS  1 the lane's tag
-- Result ready STAT, ready ROUTINE, leased, delayed, ms that the next STAT slide has waited, ms of the next ROUTINE one.
local function waited_ms(entry)
  local batch = entry and batch_of((parts_of(entry)))
  return batch and math.max(now_ms - batch.accepted_ms, 0) or 0
end
local stat = redis.call('ZCOUNT', READY, '-inf', '(' .. whole(ROUTINE))
local first_stat = stat > 0 and redis.call('ZRANGE', READY, 0, 0)[1]
local first_routine = redis.call('ZRANGE', READY, stat, stat)[1]
return { stat, redis.call('ZCARD', READY) - stat, redis.call('ZCARD', LEASED), redis.call('ZCARD', DELAYED),
  waited_ms(first_stat), waited_ms(first_routine) }
