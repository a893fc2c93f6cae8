-- drain: asks a worker to lease nothing more.
--
-- KEYS  1 the lane's tag
-- ARGV  1 worker
-- Result 1.
-- Invariant: lease gives a draining worker nothing; renew tells it. Requests older than a day are forgotten, so that
-- the names of workers long gone do not pile up (I9). Works while memory is full.
work_when_full()
redis.call('ZREMRANGEBYSCORE', DRAINING, '-inf', whole(now_ms - 86400000))
redis.call('ZADD', DRAINING, whole(now_ms), ARGV[1])
ring()
return 1
