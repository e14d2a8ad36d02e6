-- uses: epoch, slot
-- One host: its cap, by how much rejected opens lowered it, and its slots.
local HOST_FIELDS = { 'cap', 'lowered', 'raise_at', 'rejects', 'closed_until' }
local FIRST_SLOT = #HOST_FIELDS + 1
for number = 0, 15 do
  HOST_FIELDS[FIRST_SLOT + number] = number
end

local function read_host(place)
  local key = KEY.host .. place
  local values = redis.call('HMGET', key, unpack(HOST_FIELDS))
  if not values[1] then
    return nil
  end
  local host = {
    place = place, key = key, cap = tonumber(values[1]), lowered = tonumber(values[2] or 0),
    raise_at = tonumber(values[3] or 0), rejects = tonumber(values[4] or 0),
    closed_until = tonumber(values[5] or 0), used = 0, opens = 0, connected = 0,
  }
  if host.lowered > 0 and NOW >= host.raise_at then
    local raises = math.min(host.lowered, 1 + math.floor((NOW - host.raise_at) / TIMING.cap_recovery))
    host.lowered = host.lowered - raises
    host.raise_at = host.raise_at + raises * TIMING.cap_recovery
    redis.call('HSET', key, 'lowered', host.lowered, 'raise_at', host.raise_at)
  end
  -- Slots at and above the cap exist only after the cap was configured down; they count until they end.
  for number = 0, 15 do
    local slot = decode_slot(values[FIRST_SLOT + number])
    if slot.state ~= 'FREE' then
      host.used = host.used + 1
      host.opens = host.opens + (OPENS[slot.state] and 1 or 0)
      host.connected = host.connected + (CONNECTED[slot.state] and 1 or 0)
    elseif not host.first_free and number < host.cap then
      host.first_free = number
    end
  end
  return host
end

local function free_slots(host)
  if not host.first_free or NOW < host.closed_until then
    return 0
  end
  return math.max(0, math.max(1, host.cap - host.lowered) - host.used)
end

-- An open was rejected before the greeting: someone else holds connections there.
local function note_reject(place)
  local host = read_host(place)
  if not host then
    return
  end
  host.lowered = math.min(host.lowered + 1, host.cap - 1)
  host.rejects = host.rejects + 1
  redis.call('HSET', host.key, 'lowered', host.lowered, 'raise_at', NOW + TIMING.cap_recovery,
    'rejects', host.rejects)
  if host.rejects >= LIMIT.rejects_to_open and host.connected == 0 then
    redis.call('HSET', host.key, 'closed_until', NOW + TIMING.circuit)
  end
end
