-- release: gives slides back untouched, as a worker does that shuts down; nothing is charged.
--
-- KEYS  1 the lane's tag
-- ARGV  1 worker   2 instance of the caller   3 first lease call since the last answered one, or ''
--       4... entry, token of each lease
-- Result how many were given back.
-- Invariant: a graceful stop loses and charges nothing (I14); a slide of a stopping batch ends instead,
-- a condemned one stays for the next sweep.
-- Works while memory is full.
work_when_full()
local worker, released = ARGV[1], 0
if ARGV[3] ~= '' then released = recover(worker, ARGV[2], ARGV[3]) end
for position = 4, #ARGV, 2 do
  local entry = ARGV[position]
  local name, index = parts_of(entry)
  local batch = batch_of(name)
  local charges = batch and held(entry, worker, ARGV[position + 1])
  if charges then
    vacate(name, entry)
    if charges.condemned and not stop_of(name, batch) then
      condemn({}, name, batch, entry, index, '', 0, charges)
    else
      put_back(name, batch, entry, index, now_ms, charges)
    end
    released = released + 1
  end
end
return released
