-- finish: ends a batch whose slides have all ended, and lets Redis forget it after a while.
--
-- KEYS  1 the lane's tag
-- ARGV  1 batch   2 terminal state of the batch   3 retention, ms   4 round, or '' for whichever it is
--       5 slides of ended batches that are remembered together
-- Result 1 when finished now; 0 when it is unknown, was finished before, is in another round or has live slides.
-- Invariant: one terminal event per round; after the retention nothing of the batch is left (I9). What ended batches hold is
-- bounded too: the oldest go when there are too many slides, but those that follow the last one may hear it out.
-- Works while memory is full.
work_when_full()
local name, key = ARGV[1], batch_key(ARGV[1])
local batch = batch_of(name)
if not batch then
  redis.call('ZREM', DRAINED, name)
  return 0
end
if batch.finished ~= '' or batch.live ~= 0 then return 0 end
if ARGV[4] ~= '' and batch.round ~= ARGV[4] then return 0 end
redis.call('HSET', key, 'finished', ARGV[2])
emit(name, -1, ARGV[2], 0)
redis.call('ZREM', DRAINED, name)
redis.call('DEL', pending_key(name))
local function forget_after(other, ms)
  redis.call('PEXPIRE', batch_key(other), ms)
  redis.call('PEXPIRE', events_key(other), ms)
end
forget_after(name, ARGV[3])
redis.call('RPUSH', ENDED, batch.total .. ' ' .. name)
local slides = redis.call('INCRBY', ENDED_SLIDES, batch.total)
while slides > tonumber(ARGV[5]) and redis.call('LLEN', ENDED) > 1 do
  local total, other = string.match(redis.call('LPOP', ENDED), '^(%d+) (.*)$')
  slides = redis.call('DECRBY', ENDED_SLIDES, total)
  local old = other ~= name and batch_of(other)
  if old and old.finished ~= '' then forget_after(other, 1000) end
end
redis.call('PEXPIRE', ENDED, ARGV[3])
redis.call('PEXPIRE', ENDED_SLIDES, ARGV[3])
return 1
