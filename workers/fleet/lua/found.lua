-- uses: now
-- The caller knows that this Redis is new: no connection can be open that it has forgotten.
-- 1: founded, 0: an epoch exists, so it is not new.
if redis.call('EXISTS', KEY.epoch) == 1 then
  return 0
end
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
redis.call('HSET', KEY.epoch, 'run_id', run_id, 'until', now())
return 1
