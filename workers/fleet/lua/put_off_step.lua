-- uses: epoch, step
-- ARGV: run, name, subject, fence, milliseconds. The step is nobody's, and due again then. 1: it was the caller's.
local id = step_id(ARGV[1], ARGV[2], ARGV[3])
local key = KEY.step .. id
if redis.call('HGET', key, 'fence') ~= ARGV[4] then
  return 0
end
redis.call('HDEL', key, 'lease', 'owner', 'request')
redis.call('ZADD', KEY.steps, 'XX', NOW + ARGV[5], id)
return 1
