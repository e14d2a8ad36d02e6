-- Tells one waiting dispatcher that there is something to admit or to publish. One pending wake is enough:
-- whoever takes it looks at everything.
local function wake()
  if redis.call('LLEN', KEY.wake) == 0 then
    redis.call('LPUSH', KEY.wake, 1)
  end
end
