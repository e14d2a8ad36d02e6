-- uses: epoch, step
-- ARGV: run, facts, request. 1: created (or this very request did), 0: exists.
local run, facts, request = ARGV[1], ARGV[2], ARGV[3]
local key = KEY.run .. run
if redis.call('EXISTS', key) == 1 then
  return redis.call('HGET', key, 'request') == request and 1 or 0
end
-- Runs that expired since; a few each time keep the list short.
for _, old in ipairs(redis.call('ZRANGE', KEY.runs, 0, 9)) do
  if redis.call('EXISTS', KEY.run .. old) == 0 then
    redis.call('ZREM', KEY.runs, old)
  end
end
redis.call('HSET', key, 'facts', facts, 'state', 'planning', 'created', NOW, 'left', 0, 'request', request)
redis.call('ZADD', KEY.runs, NOW, run)
add_step(run, 'plan-run', '')
return 1
