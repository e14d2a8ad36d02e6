-- uses: epoch, host, node
-- ARGV: limit. Grants slots to disks: first one stream for each disk that has none, then further streams, the
-- least served disk first; never more than idle processes can take. One row a grant.
if BARRIER > 0 then
  return {}
end
local budget = math.min(tonumber(ARGV[1]), spare_processes())
if budget <= 0 then
  return {}
end

local hosts = {}
local function host_at(place)
  if hosts[place] == nil then
    hosts[place] = read_host(place) or false
  end
  return hosts[place]
end

-- The candidate host where this disk failed least, then the one with most free slots.
local function choose_host(disk)
  local failures = cjson.decode(disk.failures)
  local best, best_failures, best_free
  for _, uuid in ipairs(cjson.decode(disk.hosts)) do
    local host = host_at(disk.pool .. '/' .. uuid)
    local free = host and host.opens < LIMIT.opens_per_host and free_slots(host) or 0
    local failed = failures[uuid] or 0
    if free > 0 and (not best or failed < best_failures or (failed == best_failures and free > best_free)) then
      best, best_failures, best_free = host, failed, free
    end
  end
  return best
end

local function grant(disk, host)
  local slot = read_slot(host.place, host.first_free)
  -- Never a fence again, not even after Redis was emptied: the clock is part of it.
  slot.fence = math.max(slot.fence + 1, NOW)
  slot.run, slot.disk = disk.run, string.match(disk.id, '[^/]*$')
  slot.granted, slot.batches = NOW, {}
  move(slot, 'GRANTED', NOW + TIMING.grant)
  disk.opening, disk.streams = disk.opening + 1, disk.streams + 1
  hosts[host.place] = nil
  local pool, uuid = string.match(host.place, '^(.*)/([^/]*)$')
  return { pool, uuid, slot.number, slot.fence, slot.run, slot.disk }
end

local function wants_stream(disk, further)
  if disk.opening > 0 or disk.not_before > NOW or (disk.streams > 0) ~= further then
    return false
  end
  return not further or unreserved(disk) >= LIMIT.batches_per_extra_stream * (disk.streams + 1)
end

local grants = {}
local ready = redis.call('ZRANGE', KEY.ready, 0, -1)
local disks = {}
for _, further in ipairs({ false, true }) do
  for i, id in ipairs(ready) do
    if #grants >= budget then
      return grants
    end
    disks[i] = disks[i] or read_disk(id)
    local host = wants_stream(disks[i], further) and choose_host(disks[i])
    if host then
      grants[#grants + 1] = grant(disks[i], host)
    end
  end
end
return grants
