-- uses: epoch, wake
-- A control step is a member of KEY.steps, scored with the time when it is to be published (again).
-- Its hash exists once it was claimed: fence (grows with every claim), claims (their count), owner, request, lease
-- (until when).
local function step_id(run, name, subject)
  return run .. '/' .. name .. '/' .. subject
end

local function add_step(run, name, subject)
  redis.call('ZADD', KEY.steps, 'NX', NOW, step_id(run, name, subject))
  wake()
end
