-- uses: epoch, step, wake
-- ARGV: run, name, subject, fence, milliseconds. The step is nobody's, and due again then; one that waits for a
-- permit at once, if it was called meanwhile or its run was cancelled. 1: it was the caller's.
-- The request is kept, so that a claim that comes through late, for the second time, claims nothing.
local id = step_id(ARGV[1], ARGV[2], ARGV[3])
local key = KEY.step .. id
if redis.call('HGET', key, 'fence') ~= ARGV[4] then
  return 0
elseif redis.call('HDEL', key, 'lease', 'owner') == 0 then
  return 1 -- sent again: meanwhile it may have become due sooner
end
local permit = redis.call('HGET', KEY.permit .. id, 'state')
if permit == 'called' or (permit and redis.call('HEXISTS', KEY.run .. ARGV[1], 'cancelled') == 1) then
  redis.call('ZADD', KEY.steps, 'XX', 0, id)
  wake()
else
  redis.call('ZADD', KEY.steps, 'XX', NOW + ARGV[5], id)
end
return 1
