-- fail: puts a slide whose run ended without an outcome back to wait, and charges it.
--
-- KEYS  1 the lane's tag
-- ARGV  1 worker   2 entry   3 token   4 crash (1: a crash, 0: an attempt)   5 delay, ms
--       6 crashes at which a slide is condemned
-- Result 1 when accepted, 0 for a stale token.
-- Invariant: a crashed slide runs alone from then on, and after too many crashes not at all: the next sweep condemns
-- it (I7). A slide of a stopping batch ends instead (I12).
-- Works while memory is full.
work_when_full()
local entry = ARGV[2]
local name, index = parts_of(entry)
local batch = batch_of(name)
local charges = batch and held(entry, ARGV[1], ARGV[3])
if not charges then return 0 end
local charged = ARGV[4] == '1' and 'crashes' or 'attempts'
vacate(name, entry)
charges[charged] = charges[charged] + 1
redis.call('HSET', entry_key(entry), charged, charges[charged])
if charges.crashes >= tonumber(ARGV[6]) and not stop_of(name, batch) then
  condemn({}, name, batch, entry, index, '', 0, charges)
else
  put_back(name, batch, entry, index, now_ms + tonumber(ARGV[5]), charges)
end
return 1
