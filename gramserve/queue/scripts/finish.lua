-- finish: ends a batch whose slides have all ended, and lets Redis forget it after a while.
--
-- KEYS  1 the lane's tag
-- ARGV  1 batch   2 terminal state of the batch   3 retention, ms   4 round, or '' for whichever it is
-- Result 1 when finished now; 0 when it is unknown, was finished before, is in another round or has live slides.
-- Invariant: one terminal event per round; after the retention nothing of the batch is left (I9).
-- Works while memory is full.
work_when_full()
local name, key = ARGV[1], batch_key(ARGV[1])
local batch = batch_of(name)
if not batch then
  redis.call('ZREM', DRAINED, name)
  return 0
end
if batch.finished ~= '' or redis.call('HGET', key, 'live') ~= '0' then return 0 end
if ARGV[4] ~= '' and batch.round ~= ARGV[4] then return 0 end
redis.call('HSET', key, 'finished', ARGV[2])
emit(name, -1, ARGV[2], 0)
redis.call('ZREM', DRAINED, name)
redis.call('DEL', pending_key(name))
redis.call('PEXPIRE', key, ARGV[3])
redis.call('PEXPIRE', events_key(name), ARGV[3])
return 1
