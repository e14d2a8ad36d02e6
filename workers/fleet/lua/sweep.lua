-- uses: epoch, slot, wake
-- Moves on every slot whose state expired, and forgets silent nodes. Four counts: unclaimed, lost, freed, nodes.
local function expired(state)
  local slots = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.slots .. state, '-inf', NOW)) do
    local place, number = string.match(id, '^(.*)/(%d+)$')
    slots[#slots + 1] = read_slot(place, tonumber(number))
  end
  return slots
end

-- During a barrier a GRANTED slot may have been claimed in a moment that Redis lost: its holder may still say.
local unclaimed = BARRIER == 0 and expired('GRANTED') or {}
for _, slot in ipairs(unclaimed) do
  move(slot, 'FREE')
end

local freed = expired('QUARANTINE')
for _, slot in ipairs(freed) do
  move(slot, 'FREE')
end

local lost = 0
for _, state in ipairs({ 'OPENING', 'HELD' }) do
  for _, slot in ipairs(expired(state)) do
    local id, host, granted = disk_id(slot), string.match(slot.place, '[^/]*$'), slot.granted
    move(slot, 'QUARANTINE', NOW + TIMING.quarantine)
    note_failure(id, host, 'its worker stopped answering', granted)
    lost = lost + 1
  end
end

-- A node that holds slots is kept, though it counts no processes: its streams may still have to hear DRAIN.
local gone = 0
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEY.nodes, '-inf', NOW)) do
  if redis.call('HEXISTS', KEY.busy, node) == 0 then
    redis.call('ZREM', KEY.nodes, node)
    redis.call('HDEL', KEY.processes, node)
    redis.call('SREM', KEY.draining, node)
    gone = gone + 1
  end
end

if #unclaimed + #freed + lost > 0 then
  wake()
end
return { #unclaimed, lost, #freed, gone }
