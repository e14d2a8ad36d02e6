-- uses: epoch, step
-- ARGV: run, name, subject, fence, milliseconds. The step is nobody's, and due again then. 1: it was the caller's.
-- The request is kept, so that a claim that comes through late, for the second time, claims nothing.
local id = step_id(ARGV[1], ARGV[2], ARGV[3])
local key = KEY.step .. id
if redis.call('HGET', key, 'fence') ~= ARGV[4] then
  return 0
elseif redis.call('HDEL', key, 'lease', 'owner') == 0 then
  return 1 -- sent again: meanwhile it may have become due sooner
end
redis.call('ZADD', KEY.steps, 'XX', NOW + ARGV[5], id)
return 1
