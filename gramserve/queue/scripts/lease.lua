-- lease: gives a worker the best slides that may start now.
--
-- KEYS  1 the lane's tag
-- ARGV  1 worker   2 most slides wanted   3 idle (1: it runs nothing)   4 lease, ms
--       5 instance of the caller   6 number of this call, rising   7 first call since the last answered one, or ''
--       8 only STAT (1: no routine slide is looked at)
-- Result 11 values per lease: batch, index, round, token, attempts, crashes, version, digest, queued ms, lease ms,
--       stat (1 or 0).
-- Invariant: best first (STAT, then due time, then order of submission); an entry leaves ready in the same step in
-- which it enters leased (I8); nothing starts in a stopping batch or past a hard due time (I12).
-- A slide that crashed before runs alone: only an idle worker gets it, and nothing else with it. A busy worker that
-- finds it as its best claims it and takes nothing worse until it is idle; the others pass by, so that one worker
-- stalls, not all, and an idle one takes it in spite of the claim. A call that arrives after a later one of the same
-- caller leases nothing: nobody waits for its answer.
work_when_full()
local other = other_format()
if other then return other end
local worker, wanted, idle, lease_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local last = redis.call('HMGET', worker_key(worker), 'instance', 'call')
if last[1] == ARGV[5] and tonumber(last[2]) >= tonumber(ARGV[6]) then return {} end
if ARGV[7] ~= '' then recover(worker, ARGV[5], ARGV[7]) end

for _, entry in ipairs(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', whole(now_ms), 'LIMIT', 0, 100)) do
  local batch = batch_of((parts_of(entry)))
  if batch then
    redis.call('ZREM', DELAYED, entry)
    redis.call('ZADD', READY, whole(batch.score), entry)
  else
    drop(entry)
  end
end

local reply, leases = {}, {}
local worst = ARGV[8] == '1' and '(' .. whole(ROUTINE) or '+inf' -- STAT sorts before ROUTINE
local claimed = redis.call('ZSCORE', DRAINING, worker) -- a draining worker gets nothing
-- Takes one entry of ready if the worker may have it. Returns whether the entry left ready.
local function consider(entry)
  local name, index = parts_of(entry)
  local batch = batch_of(name)
  if not batch then
    drop(entry)
    return true
  end
  local stop = stop_of(name, batch)
  local f = redis.call('HMGET', entry_key(entry), 'attempts', 'crashes', 'claimant', 'claimed_until')
  local charges = { attempts = tonumber(f[1] or 0), crashes = tonumber(f[2] or 0) }
  if stop then
    redis.call('ZREM', READY, entry)
    settle(name, entry, index, stop, charges.attempts + charges.crashes)
    return true
  end
  if charges.crashes > 0 then
    if not (idle and #leases == 0) then
      if not f[3] or f[3] == worker or tonumber(f[4]) <= now_ms then
        redis.call('HSET', entry_key(entry), 'claimant', worker, 'claimed_until', whole(now_ms + lease_ms))
        claimed = true
      end
      return false
    end
    redis.call('HDEL', entry_key(entry), 'claimant', 'claimed_until')
    claimed = true
  end
  redis.call('ZREM', READY, entry)
  local token = grant(reply, name, batch, entry, index, worker, lease_ms, charges)
  leases[#leases + 1] = entry .. ' ' .. token
  if redis.call('HSETNX', batch_key(name), 'first_ms', whole(now_ms)) == 1 then emit(name, -1, 'RUNNING', 0) end
  emit(name, index, 'RUNNING', charges.attempts + charges.crashes + 1)
  return true
end

local window, passes, moved = wanted + 16, 0, true
while moved and passes < 64 and not claimed and #leases < wanted do
  moved, passes = false, passes + 1
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', READY, '-inf', worst, 'LIMIT', 0, window)) do
    if consider(entry) then moved = true end
    if claimed or #leases == wanted then break end
  end
end

redis.call('HSET', worker_key(worker), 'instance', ARGV[5], 'call', ARGV[6], 'leases', table.concat(leases, '\n'))
redis.call('PEXPIRE', worker_key(worker), lease_ms * 2)
return reply
