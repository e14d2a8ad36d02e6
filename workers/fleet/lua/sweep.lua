-- uses: epoch, host, trouble, group, permit, stop, wake
-- Moves on every slot whose state expired, gives up disks whose time of trouble is over, forgets silent nodes, takes
-- back permits, and goes on with stopping runs. Four counts: unclaimed, lost, freed, nodes.
local MOST = 100 -- of each kind in one call: each is some work, and the next call is a second away

local function expired(state)
  local slots = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.slots .. state, '-inf', NOW, 'LIMIT', 0, MOST)) do
    local place, number = string.match(id, '^(.*)/(%d+)$')
    slots[#slots + 1] = read_slot(place, tonumber(number))
  end
  return slots
end

local hosts = {}
local function host_at(place)
  hosts[place] = hosts[place] or read_host(place) or { must_confirm = false }
  return hosts[place]
end

-- During a barrier a GRANTED slot may have been claimed in a moment that Redis lost: its holder may still say.
local unclaimed = BARRIER == 0 and expired('GRANTED') or {}
for _, slot in ipairs(unclaimed) do
  move(slot, 'FREE')
end
tally('unclaimed', #unclaimed)

-- Where the host is asked, time alone frees nothing (counted.lua does).
local freed = 0
for _, slot in ipairs(expired('QUARANTINE')) do
  if not host_at(slot.place).must_confirm then
    move(slot, 'FREE')
    freed = freed + 1
  end
end

local lost = 0
for _, state in ipairs({ 'OPENING', 'HELD' }) do
  for _, slot in ipairs(expired(state)) do
    local id, host, granted = disk_id(slot), string.match(slot.place, '[^/]*$'), slot.granted
    move(slot, 'QUARANTINE', NOW + TIMING.quarantine)
    note_failure(id, host, 'LOST', 'its worker stopped answering', granted)
    lost = lost + 1
  end
end
tally('expired', lost)

-- A node that holds slots is kept, though it counts no processes: its streams may still have to hear DRAIN.
local gone = 0
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEY.nodes, '-inf', NOW)) do
  if redis.call('HEXISTS', KEY.busy, node) == 0 then
    forget_node(node)
    gone = gone + 1
  end
end

local function give_up(disk, seconds, why)
  local last = redis.call('HGET', KEY.errors .. disk.run, disk.uuid)
  end_disk(disk, 'failed', 'given up after ' .. math.floor(seconds / 1000) .. ' s of trouble: ' .. (last or why))
  tally('given_up')
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.troubled, '-inf', NOW, 'LIMIT', 0, MOST)) do
  local disk = read_disk(id)
  give_up(disk, NOW - disk.troubled, '')
end

-- Disks that nobody can touch: every host of theirs is shut. The time counts from when the last one was.
local function all_shut(group)
  for _, place in ipairs(read_group(group).places) do
    local host = host_at(place)
    if host.cap and not is_shut(host) then
      return false
    end
  end
  return true
end

local left = MOST -- to be looked at in this call
local function give_up_those_due(name, run, shut)
  for _, uuid in ipairs(left > 0 and redis.call('ZRANGE', line_key('first', name), 0, left - 1) or {}) do
    left = left - 1
    local disk = read_disk(run .. '/' .. uuid)
    local trouble = NOW - math.max(shut, disk.since)
    if trouble >= disk.give_up_after then
      give_up(disk, trouble, 'no host that sees it takes connections')
    end
  end
end

-- Every call begins with another line, as the first ones may take all that is looked at.
local lines = BARRIER == 0 and redis.call('SMEMBERS', KEY.lines .. 'first') or {}
for i = 1, #lines do
  local name = lines[(math.floor(NOW / 1000) + i) % #lines + 1]
  local group, run = split_line(name)
  if all_shut(group) then
    redis.call('HSETNX', KEY.shut, group, NOW)
    give_up_those_due(name, run, tonumber(redis.call('HGET', KEY.shut, group)))
  else
    redis.call('HDEL', KEY.shut, group)
  end
end

-- Of a step that was called and did not begin, or whose lease has run out.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.permit_ends, '-inf', NOW, 'LIMIT', 0, MOST)) do
  return_permit(id)
  tally('permits_expired')
end

local stopping = redis.call('SMEMBERS', KEY.stopping)[1]
if stopping then
  stop_more(stopping)
end

if #unclaimed + freed + lost > 0 then
  wake()
end
return { #unclaimed, lost, freed, gone }
