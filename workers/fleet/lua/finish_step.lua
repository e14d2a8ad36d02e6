-- uses: epoch, step, permit
-- ARGV: run, name, subject, fence. 1: the caller's claim ended the step, and with it its permit.
local id = step_id(ARGV[1], ARGV[2], ARGV[3])
local key = KEY.step .. id
if redis.call('HGET', key, 'fence') ~= ARGV[4] then
  return 0
end
redis.call('DEL', key)
redis.call('ZREM', KEY.steps, id)
return_permit(id)
return 1
