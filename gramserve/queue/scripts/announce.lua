-- announce: keeps what a worker says of itself, until it has been silent for too long.
--
-- KEYS  1 the lane's tag
-- ARGV  1 worker   2 what it says, '' when it goes   3 ms of silence after which a worker is forgotten
-- Result 1.
-- Invariant: a worker is in both keys or in neither; those long gone are forgotten at each call (I9). Works while
-- memory is full: then, too, people want to see who works.
work_when_full()
local function forget(worker)
  redis.call('HDEL', ROSTER, worker)
  redis.call('ZREM', SEEN, worker)
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', SEEN, '-inf', '(' .. whole(now_ms - tonumber(ARGV[3])))) do
  forget(worker)
end
if ARGV[2] == '' then
  forget(ARGV[1])
else
  redis.call('HSET', ROSTER, ARGV[1], ARGV[2])
  redis.call('ZADD', SEEN, whole(now_ms), ARGV[1])
end
return 1
