-- renew: extends the leases that a worker still holds.
--
-- KEYS  1 the lane's tag
-- ARGV  1 worker   2 lease, ms   3... entry, token of each lease
-- Result one word per lease: LOST, CANCEL (its batch is stopping), DRAIN (the worker shall lease nothing more), OK.
-- Invariant: a lease lasts until it is reclaimed, by the server's clock; only its holder extends it (I4, I5).
-- Works while memory is full.
work_when_full()
local worker, expiry = ARGV[1], whole(now_ms + tonumber(ARGV[2]))
local draining = redis.call('ZSCORE', DRAINING, worker)
local reply = {}
for position = 3, #ARGV, 2 do
  local entry, status = ARGV[position], 'LOST'
  local batch = batch_of((parts_of(entry)))
  if batch and held(entry, worker, ARGV[position + 1]) then
    redis.call('ZADD', LEASED, expiry, entry)
    status = batch.stopping ~= '' and 'CANCEL' or draining and 'DRAIN' or 'OK'
  end
  reply[#reply + 1] = status
end
return reply
