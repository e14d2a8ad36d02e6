-- uses: epoch, slot
-- One host: its cap and what lowers it, its circuit, and what it told of its own connections.
local SERVES = 16 -- what a XenServer host serves over NBD, to everyone together
local HOST_FIELDS = {
  'cap', 'confirm', 'used', 'opens', 'connected', 'lowered', 'raise_at', 'rejects', 'answered', 'failed',
  'failed_at', 'closed_until', 'asked', 'counted', 'uncountable', 'unaccounted', 'others', 'waived',
}

local function read_host(place)
  local host = { place = place, key = KEY.host .. place }
  for i, value in ipairs(redis.call('HMGET', host.key, unpack(HOST_FIELDS))) do
    host[HOST_FIELDS[i]] = tonumber(value or 0)
  end
  if host.cap == 0 then
    return nil
  end
  if host.lowered > 0 and NOW >= host.raise_at then
    local raises = math.min(host.lowered, 1 + math.floor((NOW - host.raise_at) / TIMING.cap_recovery))
    host.lowered = host.lowered - raises
    host.raise_at = host.raise_at + raises * TIMING.cap_recovery
    redis.call('HSET', host.key, 'lowered', host.lowered, 'raise_at', host.raise_at)
  end
  -- What was learnt before Redis may have forgotten something says nothing of now.
  host.uncountable = host.uncountable > 0 and host.uncountable >= BARRIER_END
  host.must_confirm = host.confirm == 1 and not host.uncountable
  host.was_counted = host.counted > 0 and host.counted >= BARRIER_END
  return host
end

-- How many slots may be in use. Nothing is known of a host that was not counted yet.
local function effective_cap(host)
  local cap = math.max(1, host.cap - host.lowered)
  if not host.must_confirm then
    return cap
  elseif not host.was_counted then
    return 0
  end
  return math.max(0, math.min(cap, SERVES - host.others) - host.unaccounted)
end

local function free_slots(host)
  if NOW < host.closed_until then
    return 0
  end
  return math.max(0, effective_cap(host) - host.used)
end

-- A host that never answered, or did not the last time, gets one open at a time: if it is a black hole, it
-- swallows one process. After its circuit was open that one is the probe.
local function opens_allowed(host)
  if host.answered == 0 or host.failed > 0 or host.rejects >= LIMIT.rejects_to_open then
    return 1
  end
  return LIMIT.opens_per_host
end

-- Nothing of ours is there and nothing can be opened, or only probes.
local function is_shut(host)
  return host.closed_until > 0 or (host.connected + host.opens == 0 and free_slots(host) == 0)
end

-- An open was rejected before the greeting: someone else holds connections there.
local function note_reject(place)
  tally('rejects')
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
    tally('circuits')
  end
end

-- A stream failed there. Those that were granted before the last failure fell with it.
local function note_host_failure(place, granted)
  local host = read_host(place)
  if not host or granted < host.failed_at then
    return
  end
  host.failed = host.failed + 1
  redis.call('HSET', host.key, 'failed', host.failed, 'failed_at', NOW)
  local beyond = host.failed - LIMIT.failures_to_close
  if beyond >= 0 then
    local pause = math.min(TIMING.circuit * 2 ^ beyond, TIMING.circuit_longest)
    redis.call('HSET', host.key, 'closed_until', NOW + pause)
    tally('circuits')
  end
end

-- A batch came from there.
local function note_success(place)
  redis.call('HDEL', KEY.host .. place, 'failed', 'closed_until')
end
