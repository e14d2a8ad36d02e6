-- Counts what happened, for those who watch; nothing is decided by it.
local function tally(name, by)
  if by ~= 0 then
    redis.call('HINCRBY', KEY.counters, name, by or 1)
  end
end
