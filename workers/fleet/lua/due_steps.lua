-- uses: epoch, step
-- ARGV: limit. The steps to publish now; they are not due again until TIMING.step_republish has passed.
local due = redis.call('ZRANGEBYSCORE', KEY.steps, '-inf', NOW, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do
  redis.call('ZADD', KEY.steps, 'XX', NOW + TIMING.step_republish, id)
end
return due
