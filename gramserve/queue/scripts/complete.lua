-- complete: ends slides whose outcome is durable in the store; the one terminal transition of a slide that ran.
--
-- KEYS  1 the lane's tag
-- ARGV  1 worker   2... entry, token, state (SUCCEEDED or FAILED), review (0 or 1) of each slide
-- Result 2 values per slide: accepted (1, or 0 for a stale token), slides of its batch that still live.
-- Invariant: recorded once (I2); a stale token changes nothing but a counter (I5); nothing of the slide remains (I9).
-- Works while memory is full.
work_when_full()
local reply = {}
for position = 2, #ARGV, 4 do
  local entry, token, state = ARGV[position], ARGV[position + 1], ARGV[position + 2]
  local name, index = parts_of(entry)
  local batch = batch_of(name)
  local charges = batch and held(entry, ARGV[1], token)
  if charges then
    unlease(name, entry)
    settle(name, entry, index, state, charges.attempts + charges.crashes + (charges.condemned and 0 or 1))
    if ARGV[position + 3] == '1' then add(name, 'review') end
  end
  reply[#reply + 1] = charges and 1 or 0
  reply[#reply + 1] = batch and batch.live or 0
end
return reply
