-- audit: makes sure that slides which have no outcome yet are in exactly one place.
--
-- KEYS  1 the lane's tag
-- ARGV  1 batch   2... indices without an outcome in the store
-- Result how many were repaired; -1 when the batch is unknown.
-- Invariant: I8. Only slides whose bit is set are looked at: one that ended since the caller looked has lost it, one
-- that was never submitted has none yet. A repair charges nothing. Works while memory is full.
work_when_full()
local name = ARGV[1]
local batch = batch_of(name)
if not batch then return -1 end
if batch.finished ~= '' then return 0 end
local repaired = 0
for position = 2, #ARGV do
  local index = tonumber(ARGV[position])
  local entry = entry_of(name, index)
  local ready, delayed = redis.call('ZSCORE', READY, entry), redis.call('ZSCORE', DELAYED, entry)
  local leased, token = redis.call('ZSCORE', LEASED, entry), redis.call('HGET', entry_key(entry), 'token')
  local runs, waits = leased and token, not leased and not token
  local sound = runs and not ready and not delayed or waits and (ready and not delayed or delayed and not ready)
  if redis.call('GETBIT', pending_key(name), index) == 1 and not sound then
    redis.call('ZREM', READY, entry)
    redis.call('ZREM', DELAYED, entry)
    if not runs then -- a living lease stays, whatever else there was (I4)
      if not waits then vacate(name, entry) end
      put_back(name, batch, entry, index, now_ms, charges_of(entry))
    end
    repaired = repaired + 1
  end
end
if repaired > 0 then tally('repaired', repaired) end
return repaired
