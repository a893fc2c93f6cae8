-- open: makes a batch known, or moves it on to a later round.
--
-- KEYS  1 the lane's tag
-- ARGV  1 batch   2 round   3 total   4-8 slides already succeeded, failed, cancelled, expired, to review
--       9 stat (0 or 1)   10 due, ms   11 hard due, ms, 0 for none   12 model version   13 model digest
--       14 fresh (1: never opened before, its events start at 1)   15 accepted, ms, 0 for now
-- Result 1 when opened; 0 when this or a later round is known, or slides of an earlier round still live.
-- Invariant: the sequence only rises. A batch whose queue was lost goes on from the clock in microseconds, which is
-- beyond anything it counted before. Refused while memory is full (I10): the first write needs memory.
local other = other_format()
if other then return other end
local name, round = ARGV[1], tonumber(ARGV[2])
local key = batch_key(name)
local old = redis.call('HMGET', key, 'round', 'live', 'sequence')
if old[1] and (tonumber(old[1]) >= round or tonumber(old[2]) > 0) then return 0 end

local sequence = old[3] or (ARGV[14] == '1' and '0' or whole(now_us))
local done = ARGV[4] + ARGV[5] + ARGV[6] + ARGV[7]
local sealed = done >= tonumber(ARGV[3]) and 1 or 0
-- What every transition reads comes first: Redis looks through a small hash from its beginning.
redis.call('HSET', key, 'sequence', sequence, 'live', 0, 'running', 0, 'sealed', sealed, 'stopping', '',
  'finished', '', 'round', round, 'total', ARGV[3], 'score', whole((ARGV[9] == '1' and 0 or ROUTINE) + ARGV[10]),
  'hard_ms', ARGV[11], 'accepted_ms', ARGV[15] == '0' and whole(now_ms) or ARGV[15], 'version', ARGV[12],
  'digest', ARGV[13], 'succeeded', ARGV[4], 'failed', ARGV[5], 'cancelled', ARGV[6], 'expired', ARGV[7],
  'review', ARGV[8], 'base', done, 'high', -1)
redis.call('SET', TAG .. ':format', FORMAT)
redis.call('HDEL', key, 'first_ms', 'last_ms')
redis.call('PERSIST', key)
redis.call('DEL', pending_key(name))
if old[1] then redis.call('PERSIST', events_key(name)) else redis.call('DEL', events_key(name)) end
emit(name, -1, 'QUEUED', 0)
if sealed == 1 then
  redis.call('ZADD', DRAINED, whole(now_ms), name)
else
  redis.call('ZREM', DRAINED, name)
end
return 1
