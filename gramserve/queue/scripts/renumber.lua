-- renumber: lets the events of a batch go on above everything it had before Redis was restarted.
--
-- KEYS  1 the lane's tag
-- ARGV  1 batch
-- Result 1 when its next event jumps ahead, 0 when the batch is unknown or has ended.
-- Invariant: a sequence is used once. A machine that fails can take the last events with it, and what is emitted
-- afterwards must not stand under numbers that a watcher has already seen. Works while memory is full.
work_when_full()
local name = ARGV[1]
local batch = batch_of(name)
if not batch or batch.finished ~= '' then return 0 end
batch.sequence, batch.touched = math.max(batch.sequence, now_us), true
return 1
