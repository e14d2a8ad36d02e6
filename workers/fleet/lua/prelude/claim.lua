-- uses: epoch, step
-- What is called while a step is done changes nothing once another has the step, or Redis has forgotten it.
-- KEYS: the claim, as the step's id and fence (no keys of Redis: these follow from KEY); nothing: no step's call.
if KEYS[1] and redis.call('HGET', KEY.step .. KEYS[1], 'fence') ~= KEYS[2] then
  return redis.error_reply('LOST step ' .. KEYS[1] .. ' is no longer ours')
end
