-- uses: now, tally
-- The barrier. A Redis that restarted, failed over or was emptied may have forgotten grants whose
-- connections are still open. It is known by its run id, which is new then, or by a missing epoch. For
-- TIMING.barrier from the first call that sees it, no slot is granted or claimed, and the holders of
-- forgotten slots re-assert them (prelude/slot.lua: own).
local NOW = now()

local function barrier_end()
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local known = redis.call('HMGET', KEY.epoch, 'run_id', 'until')
  if known[1] == run_id then
    return tonumber(known[2])
  end
  local ends = NOW + TIMING.barrier
  redis.call('HSET', KEY.epoch, 'run_id', run_id, 'until', ends)
  tally('barriers')
  return ends
end

local BARRIER_END = barrier_end() -- or when the ledger was founded
local BARRIER = math.max(0, BARRIER_END - NOW) -- milliseconds left
