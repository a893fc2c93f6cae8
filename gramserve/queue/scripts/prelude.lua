-- prelude: what every transition shares. It stands before each script and does nothing by itself.
--
-- KEYS[1] is the lane's hash tag, such as {gs:slides}. Every other key is built from it, so that a lane is one slot:
--   :ready      zset    entry -> priority and due time    :batch:B    hash    counts and facts of batch B
--   :leased     zset    entry -> expiry, ms               :pending:B  bitmap  bit i is 1 while slide i is in the queue
--   :delayed    zset    entry -> ready again at, ms       :events:B   stream  ids sequence-0
--   :entry:E    hash    lease and charges of entry E      :drained    zset    batch -> when its last slide ended, ms
--   :worker:W   hash    the last lease call of worker W   :draining   zset    worker -> asked to drain at, ms
--   :stats      hash    what was refused and repaired     :bell       stream  rung when something becomes ready
--   :ended      list    "slides batch" of each ended one  :ended_slides string slides of these
--   :counter    string  makes tokens differ within a microsecond   :format  string  how all this is kept
--   :roster     hash    worker -> what it says of itself  :seen       zset    worker -> when it said so, ms
-- An entry is "batch/000123". Its hash exists from its first lease to its end; a slide that only waits costs a zset
-- member and a bit. A slide that waits or runs is in exactly one of ready, leased and delayed (I8).

local TAG = KEYS[1]
local READY, LEASED, DELAYED = TAG .. ':ready', TAG .. ':leased', TAG .. ':delayed'
local DRAINED, DRAINING, BELL = TAG .. ':drained', TAG .. ':draining', TAG .. ':bell'
local ENDED, ENDED_SLIDES = TAG .. ':ended', TAG .. ':ended_slides'
local ROSTER, SEEN = TAG .. ':roster', TAG .. ':seen'
local ROUTINE = 4398046511104 -- 2^42: any due time in ms is smaller, so STAT sorts before ROUTINE

local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now_ms = math.floor(now_us / 1000)

-- A whole number as text; Lua's own conversion rounds to 14 digits.
local function whole(number) return string.format('%.0f', number) end
local function entry_of(name, index) return name .. '/' .. string.format('%06d', index) end
local function parts_of(entry)
  local name, index = string.match(entry, '^(.*)/(%d+)$')
  return name, tonumber(index)
end
local function batch_key(name) return TAG .. ':batch:' .. name end
local function pending_key(name) return TAG .. ':pending:' .. name end
local function events_key(name) return TAG .. ':events:' .. name end
local function entry_key(entry) return TAG .. ':entry:' .. entry end
local function worker_key(worker) return TAG .. ':worker:' .. worker end

-- Redis refuses a script whose first write needs memory while memory is full, and lets it go on once it has deleted.
-- Whatever finishes work begins with this, so that a full queue can still be emptied (I10).
local function work_when_full() redis.call('DEL', TAG .. ':none') end

-- An error when another release keeps the lane, in another format: this one must not touch it. script.py sets FORMAT.
local function other_format()
  local there = redis.call('GET', TAG .. ':format')
  if there and there ~= FORMAT then return redis.error_reply('GRAMSERVE_FORMAT ' .. there) end
end

local function tally(what, by) redis.call('HINCRBY', TAG .. ':stats', what, by or 1) end

local rung = false
local function ring()
  if not rung then redis.call('XADD', BELL, 'MAXLEN', '1', '*', 'at', whole(now_ms)) end
  rung = true
end

-- The facts of a batch, read once per call; false when Redis does not know it. A transition changes `sequence`, `live`,
-- `running` and `last_ms` in here and says so by `touched`: they are written once, when it is over.
local known = {}
local function batch_of(name)
  if known[name] == nil then
    local f = redis.call('HMGET', batch_key(name), 'sequence', 'live', 'running', 'sealed', 'stopping', 'finished',
      'round', 'total', 'score', 'hard_ms', 'accepted_ms', 'version', 'digest')
    known[name] = f[1] and {
      sequence = tonumber(f[1]), live = tonumber(f[2]), running = tonumber(f[3]), sealed = f[4] == '1',
      stopping = f[5], finished = f[6], round = f[7], total = tonumber(f[8]), score = tonumber(f[9]),
      hard_ms = tonumber(f[10]), accepted_ms = tonumber(f[11]), version = f[12], digest = f[13]
    } or false
  end
  return known[name]
end

-- Counts, by the call and by batch, slides that succeeded, failed, were cancelled, expired or are to be reviewed.
local counted = {}
local function add(name, count)
  counted[name] = counted[name] or {}
  counted[name][count] = (counted[name][count] or 0) + 1
end

-- Writes what changed; script.py has it follow every transition.
local function write_counts()
  for name, batch in pairs(known) do
    if batch and batch.touched then
      redis.call('HSET', batch_key(name), 'sequence', whole(batch.sequence), 'live', batch.live, 'running', batch.running)
      if batch.last_ms then redis.call('HSET', batch_key(name), 'last_ms', whole(batch.last_ms)) end
    end
  end
  for name, counts in pairs(counted) do
    for count, by in pairs(counts) do redis.call('HINCRBY', batch_key(name), count, by) end
  end
end

-- The state that a batch's waiting slides get now, or nil while they may start (I12).
local function stop_of(name, batch)
  if batch.stopping == '' and batch.hard_ms > 0 and now_ms >= batch.hard_ms then
    batch.stopping = 'EXPIRED'
    redis.call('HSET', batch_key(name), 'stopping', 'EXPIRED')
  end
  return batch.stopping ~= '' and batch.stopping or nil
end

-- Appends an event: "index state attempts ms" in one field, which costs half of four.
local function emit(name, index, state, attempts)
  local batch = batch_of(name)
  batch.sequence, batch.touched = batch.sequence + 1, true
  redis.call('XADD', events_key(name), whole(batch.sequence) .. '-0', 'e',
    index .. ' ' .. state .. ' ' .. attempts .. ' ' .. whole(now_ms))
end

local function charges_in(attempts, crashes, condemned)
  return { attempts = tonumber(attempts or 0), crashes = tonumber(crashes or 0), condemned = condemned and true }
end

-- The charges of an entry: errors reported by its runs, leases that never came back, and whether these were too many.
local function charges_of(entry)
  return charges_in(unpack(redis.call('HMGET', entry_key(entry), 'attempts', 'crashes', 'condemned')))
end

-- The charges of an entry if `worker` holds it under `token`; otherwise counts a refusal and returns nil (I5).
local function held(entry, worker, token)
  local f = redis.call('HMGET', entry_key(entry), 'token', 'worker', 'attempts', 'crashes', 'condemned')
  if f[1] and f[1] == token and f[2] == worker then return charges_in(f[3], f[4], f[5]) end
  tally('refused')
  return nil
end

-- Takes a lease away from an entry whose hash is about to go.
local function unlease(name, entry)
  local batch = batch_of(name)
  redis.call('ZREM', LEASED, entry)
  batch.running, batch.touched = batch.running - 1, true
end

-- Takes a lease away; the charges stay.
local function vacate(name, entry)
  unlease(name, entry)
  redis.call('HDEL', entry_key(entry), 'token', 'worker')
end

-- Ends an entry that is in none of the three sets any more. Its bit makes sure that it ends once (I2).
local function settle(name, entry, index, state, attempts)
  redis.call('DEL', entry_key(entry))
  if redis.call('SETBIT', pending_key(name), index, 0) == 0 then
    tally('repeated')
    return
  end
  local batch = batch_of(name)
  add(name, string.lower(state))
  batch.live, batch.last_ms, batch.touched = batch.live - 1, now_ms, true
  emit(name, index, state, attempts)
  if batch.live <= 0 and batch.sealed then redis.call('ZADD', DRAINED, whole(now_ms), name) end
end

-- Puts an entry that is in none of the three sets back to wait until `at_ms`, or ends it when its batch is stopping.
-- Returns the state that it has now.
local function put_back(name, batch, entry, index, at_ms, charges)
  local attempts = charges.attempts + charges.crashes
  local stop = stop_of(name, batch)
  if stop then
    settle(name, entry, index, stop, attempts)
    return stop
  end
  if at_ms > now_ms then
    redis.call('ZADD', DELAYED, whole(at_ms), entry)
  else
    redis.call('ZADD', READY, whole(batch.score), entry)
    ring()
  end
  emit(name, index, 'QUEUED', attempts)
  return 'QUEUED'
end

-- Forgets an entry whose batch is unknown: nobody could complete it.
local function drop(entry)
  redis.call('ZREM', READY, entry)
  redis.call('ZREM', LEASED, entry)
  redis.call('ZREM', DELAYED, entry)
  redis.call('DEL', entry_key(entry))
  tally('orphans')
end

-- Leases an entry that is in none of the three sets, and appends the lease to `reply` (10 values, see lease.lua).
local granted, granting = 0, ''
local function grant(reply, name, batch, entry, index, worker, lease_ms, charges)
  if granted == 0 then granting = whole(now_us) .. '-' .. whole(redis.call('INCR', TAG .. ':counter')) end
  granted = granted + 1
  local token = granting .. '-' .. granted
  redis.call('ZADD', LEASED, whole(now_ms + lease_ms), entry)
  redis.call('HSET', entry_key(entry), 'token', token, 'worker', worker, 'attempts', charges.attempts, 'crashes',
    charges.crashes)
  batch.running, batch.touched = batch.running + 1, true
  for _, value in ipairs({ name, index, batch.round, token, charges.attempts, charges.crashes, batch.version,
    batch.digest, math.max(now_ms - batch.accepted_ms, 0), lease_ms, batch.score < ROUTINE and 1 or 0 }) do
    reply[#reply + 1] = value
  end
  return token
end

-- Keeps an entry that crashed too often from running again: it is only ever leased to a sweeper, which writes its
-- outcome. Without one it is overdue at once, for the next sweep.
local function condemn(reply, name, batch, entry, index, sweeper, lease_ms, charges)
  grant(reply, name, batch, entry, index, sweeper, lease_ms, charges)
  if redis.call('HSET', entry_key(entry), 'condemned', 1) == 1 then tally('condemned') end
end

-- Gives back, uncharged, what `worker` leased by its call `lost` or a later one: none of them was answered.
local function recover(worker, instance, lost)
  local last = redis.call('HMGET', worker_key(worker), 'instance', 'call', 'leases')
  if last[1] ~= instance or tonumber(last[2]) < tonumber(lost) or not last[3] then return 0 end
  local recovered = 0
  for entry, token in string.gmatch(last[3], '(%S+) (%S+)') do
    local f = redis.call('HMGET', entry_key(entry), 'token', 'worker')
    local name, index = parts_of(entry)
    local batch = batch_of(name)
    if f[1] == token and f[2] == worker and batch then
      vacate(name, entry)
      put_back(name, batch, entry, index, now_ms, charges_of(entry))
      recovered = recovered + 1
    end
  end
  redis.call('HDEL', worker_key(worker), 'leases')
  if recovered > 0 then tally('recovered', recovered) end
  return recovered
end
