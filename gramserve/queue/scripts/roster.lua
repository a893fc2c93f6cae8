-- roster: what the workers said of themselves, those that were heard of lately. Reads only.
--
-- KEYS  1 the lane's tag
-- ARGV  1 ms of silence after which a worker is left out
-- Result 3 values per worker: name, ms since it was heard of, what it said.
local reply = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', SEEN, whole(now_ms - tonumber(ARGV[1])), '+inf')) do
  local said = redis.call('HGET', ROSTER, worker)
  if said then
    local seen = redis.call('ZSCORE', SEEN, worker)
    for _, value in ipairs({ worker, math.max(now_ms - tonumber(seen), 0), said }) do reply[#reply + 1] = value end
  end
end
return reply
