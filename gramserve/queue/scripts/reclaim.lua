-- reclaim: takes back leases that ran out.
--
-- KEYS  1 the lane's tag
-- ARGV  1 sweeper   2 lease, ms   3 crashes at which a slide is condemned   4 most leases to take back
--       5 the time at which the sweeper expects to be answered at the latest, ms; 0 for any
-- Result how many ran out; then 11 values per condemned slide, as lease.lua gives them.
-- Invariant: a lease that never came back is a crash; the slide waits again, to run alone, until it has crashed too
-- often (I7). Then the sweeper gets a lease on it, to write its outcome: should the sweeper die, the next one does.
-- The clock may jump. Ahead: all leases look overdue, so nothing is taken back past the expected time (I4). Back: leases
-- and delays end far too late, so they are cut to what can be given now (I6).
-- Works while memory is full.
work_when_full()
if ARGV[5] ~= '0' and now_ms > tonumber(ARGV[5]) then return { 0 } end
local function cut(set, longest_ms, at_ms)
  local beyond = redis.call('ZRANGEBYSCORE', set, '(' .. whole(now_ms + longest_ms), '+inf', 'LIMIT', 0, ARGV[4])
  for _, entry in ipairs(beyond) do redis.call('ZADD', set, whole(at_ms), entry) end
end
cut(LEASED, tonumber(ARGV[2]), now_ms + tonumber(ARGV[2]))
cut(DELAYED, 600000, now_ms)
local sweeper, lease_ms, max_crashes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local overdue = redis.call('ZRANGEBYSCORE', LEASED, '-inf', whole(now_ms), 'LIMIT', 0, ARGV[4])
local reply = { #overdue }
for _, entry in ipairs(overdue) do
  local name, index = parts_of(entry)
  local batch = batch_of(name)
  if not batch then
    drop(entry)
  else
    local charges = charges_of(entry)
    if not charges.condemned then
      charges.crashes = charges.crashes + 1
      tally('crashes')
    end
    vacate(name, entry)
    if charges.crashes >= max_crashes and not stop_of(name, batch) then
      condemn(reply, name, batch, entry, index, sweeper, lease_ms, charges)
    else
      redis.call('HSET', entry_key(entry), 'crashes', charges.crashes)
      put_back(name, batch, entry, index, now_ms, charges)
    end
  end
end
return reply
