-- uses: epoch, step
-- ARGV: run, name, subject, owner, request. The fence, or nil: done, claimed by another with a live lease, or
-- claimed by this very request, which has put it off or lost it since.
local id = step_id(ARGV[1], ARGV[2], ARGV[3])
local owner, request = ARGV[4], ARGV[5]
if not redis.call('ZSCORE', KEY.steps, id) then
  return nil
end
local key = KEY.step .. id
local claimed = redis.call('HMGET', key, 'lease', 'request', 'fence')
local is_claimed = claimed[1] and tonumber(claimed[1]) > NOW
if claimed[2] == request then
  return is_claimed and tonumber(claimed[3]) or nil
elseif is_claimed then
  return nil
end
-- Larger also than one that was claimed before Redis forgot it: whoever holds that one must not pass for us.
local fence = math.max((tonumber(claimed[3]) or 0) + 1, NOW)
redis.call('HINCRBY', key, 'claims', 1)
redis.call('HSET', key, 'fence', fence, 'owner', owner, 'request', request, 'lease', NOW + TIMING.step_lease)
redis.call('ZADD', KEY.steps, 'XX', NOW + TIMING.step_lease, id)
return fence
