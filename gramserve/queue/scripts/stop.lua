-- stop: marks a batch as stopping and ends a stretch of its waiting slides; `cancel` and `expire` are its two uses.
--
-- KEYS  1 the lane's tag
-- ARGV  1 batch   2 state that waiting slides get (CANCELLED or EXPIRED)   3 first index   4 indices to look at
-- Result first index not looked at, or -1 when there is none; how many slides ended.
-- Invariant: the first stop decides the state; running slides go on; nothing of the batch starts afterwards.
-- Works while memory is full.
work_when_full()
local name, first = ARGV[1], tonumber(ARGV[3])
local batch = batch_of(name)
if not batch or batch.finished ~= '' then return { -1, 0 } end
if batch.live == 0 and batch.sealed then return { -1, 0 } end -- all its slides have ended, there is nothing to stop
if not stop_of(name, batch) then
  batch.stopping = ARGV[2]
  redis.call('HSET', batch_key(name), 'stopping', ARGV[2])
  if ARGV[2] == 'CANCELLED' then emit(name, -1, 'CANCELLING', 0) end
end
local after, ended = math.min(first + tonumber(ARGV[4]), batch.total), 0
for index = first, after - 1 do
  if redis.call('GETBIT', pending_key(name), index) == 1 then
    local entry = entry_of(name, index)
    if redis.call('ZREM', READY, entry) + redis.call('ZREM', DELAYED, entry) > 0 then
      local charges = charges_of(entry)
      settle(name, entry, index, batch.stopping, charges.attempts + charges.crashes)
      ended = ended + 1
    end
  end
end
return { after < batch.total and after or -1, ended }
