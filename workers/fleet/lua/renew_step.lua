-- uses: epoch, step
-- ARGV: run, name, subject, fence. 1: still the caller's.
local id = step_id(ARGV[1], ARGV[2], ARGV[3])
local key = KEY.step .. id
if redis.call('HGET', key, 'fence') ~= ARGV[4] then
  return 0
end
redis.call('HSET', key, 'lease', NOW + TIMING.step_lease)
redis.call('ZADD', KEY.steps, 'XX', NOW + TIMING.step_lease, id)
if redis.call('HGET', KEY.permit .. id, 'state') == 'held' then
  redis.call('ZADD', KEY.permit_ends, NOW + TIMING.step_lease, id)
end
return 1
