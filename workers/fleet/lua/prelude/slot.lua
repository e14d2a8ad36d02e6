-- uses: epoch, disk, node, wake
-- One of a host's numbered slots. FREE -> GRANTED -> OPENING -> HELD -> QUARANTINE -> FREE, moved only by
-- `move`. The slot's record is a field of its host's hash; the time when its state expires is its score in
-- KEY.slots .. state.
local STREAM = { GRANTED = true, OPENING = true, HELD = true } -- counts as a stream of its disk
local OPENS = { GRANTED = true, OPENING = true } -- counts as an open in progress
local CONNECTED = { OPENING = true, HELD = true } -- has an owner, whose process it keeps busy

local function decode_slot(text)
  return text and cjson.decode(text) or { state = 'FREE', fence = 0 }
end

local function read_slot(place, number)
  local slot = decode_slot(redis.call('HGET', KEY.host .. place, number))
  slot.place, slot.number = place, number
  return slot
end

-- All sixteen, by number, from 0.
local function read_slots(place)
  local numbers = {}
  for number = 0, 15 do
    numbers[#numbers + 1] = number
  end
  local slots = {}
  for i, text in ipairs(redis.call('HMGET', KEY.host .. place, unpack(numbers))) do
    local slot = decode_slot(text)
    slot.place, slot.number = place, i - 1
    slots[i - 1] = slot
  end
  return slots
end

local function slot_id(slot)
  return slot.place .. '/' .. slot.number
end

local function disk_id(slot)
  return slot.run .. '/' .. slot.disk
end

local function save(slot)
  redis.call('HSET', KEY.host .. slot.place, slot.number, cjson.encode({
    state = slot.state, since = slot.since, fence = slot.fence, run = slot.run, disk = slot.disk,
    snapshot = slot.snapshot, owner = slot.owner, granted = slot.granted, claimed = slot.claimed,
    opened = slot.opened, taken = slot.taken, batches = slot.batches, request = slot.request,
    take = slot.take, commit = slot.commit, freed = slot.freed, counted = slot.counted, asked = slot.asked,
  }))
end

-- The books that `move` keeps: of the host, of the disk, of the owner's node. `counted`: the disk was known
-- when the slot was counted (a re-asserted slot's disk may be forgotten).
local function count(slot, by)
  if slot.state == 'FREE' then
    return
  end
  local host = KEY.host .. slot.place
  redis.call('HINCRBY', host, 'used', by)
  if OPENS[slot.state] then
    redis.call('HINCRBY', host, 'opens', by)
  end
  if CONNECTED[slot.state] then
    redis.call('HINCRBY', host, 'connected', by)
    if redis.call('HINCRBY', KEY.busy, node_of(slot.owner), by) == 0 then
      redis.call('HDEL', KEY.busy, node_of(slot.owner))
    end
  end
  if STREAM[slot.state] then
    local disk = KEY.disk .. disk_id(slot)
    if by > 0 then
      slot.counted = redis.call('EXISTS', disk) == 1
    end
    if slot.counted then
      if redis.call('HINCRBY', disk, 'streams', by) == 0 then
        redis.call('HSET', disk, 'since', NOW)
      end
      if OPENS[slot.state] then
        redis.call('HINCRBY', disk, 'opening', by)
      end
    end
  end
end

-- The one place where a slot changes its state. Reservations do not outlive the holder's lease.
local function move(slot, state, expires)
  local id = slot.run and disk_id(slot)
  count(slot, -1)
  redis.call('ZREM', KEY.slots .. slot.state, slot_id(slot))
  if slot.state == 'OPENING' then
    redis.call('ZREM', KEY.openings, slot_id(slot))
  end
  if CONNECTED[slot.state] and not CONNECTED[state] then
    redis.call('ZREM', KEY.yielding, slot_id(slot))
    give_back(id, slot.batches)
    slot.batches = {}
  end
  slot.state, slot.since = state, NOW
  if state == 'FREE' then
    slot.run, slot.disk, slot.snapshot, slot.owner, slot.granted = nil, nil, nil, nil, nil
    slot.claimed, slot.opened, slot.taken, slot.batches, slot.request = nil, nil, nil, nil, nil
    slot.take, slot.commit, slot.freed, slot.counted, slot.asked = nil, nil, nil, nil, nil
  else
    redis.call('ZADD', KEY.slots .. state, expires, slot_id(slot))
  end
  if state == 'OPENING' then
    redis.call('ZADD', KEY.openings, NOW, slot_id(slot))
  elseif state == 'QUARANTINE' then
    tally('quarantined')
  end
  count(slot, 1)
  save(slot)
  local disk = id and read_disk(id)
  if disk then
    line_up(disk)
  end
end

-- The disk that the slot's stream works on, or nil. A stream that was granted before the disk was started
-- here has another plan: Redis was emptied and the same run came again. Its batches are not this disk's.
local function stream_disk(slot)
  local disk = read_disk(disk_id(slot))
  return disk and slot.fence >= disk.started and disk or nil
end

local function renew_lease(slot)
  redis.call('ZADD', KEY.slots .. slot.state, 'XX', NOW + TIMING.lease, slot_id(slot))
end

-- A grant in six arguments, the first one at ARGV[i].
local function grant_at(i)
  return {
    place = ARGV[i] .. '/' .. ARGV[i + 1], number = tonumber(ARGV[i + 2]), fence = tonumber(ARGV[i + 3]),
    run = ARGV[i + 4], disk = ARGV[i + 5],
  }
end

-- The grant's slot when its caller holds it, else nil.
--
--   stored fence   stored state       outside a barrier   during a barrier
--   equal          OPENING, HELD      held                held
--   equal          GRANTED            no                  re-asserted (Redis lost the claim)
--   equal          QUARANTINE, FREE   no                  no: the grant ended, Redis never knows too much
--   lower or none  any                no                  re-asserted (Redis lost the grant)
--   higher         any                no                  no: someone was granted it later
--
-- A re-asserted slot is HELD, but `opened` stays unknown until its stream does what only an open connection
-- can (saw_open): its holder may still be on the way to the host.
local function own(grant, owner)
  local slot = read_slot(grant.place, grant.number)
  if slot.fence == grant.fence then
    if slot.run ~= grant.run or slot.disk ~= grant.disk then
      return nil
    end
    if CONNECTED[slot.state] then
      return slot
    end
    if BARRIER == 0 or slot.state ~= 'GRANTED' then
      return nil
    end
  elseif BARRIER == 0 or slot.fence > grant.fence then
    return nil
  end
  if slot.state ~= 'FREE' then
    move(slot, 'FREE')
  end
  slot.fence, slot.run, slot.disk, slot.owner = grant.fence, grant.run, grant.disk, owner
  slot.snapshot = redis.call('HGET', KEY.disk .. disk_id(slot), 'snapshot') or nil
  slot.granted, slot.claimed, slot.taken, slot.batches = NOW, NOW, 0, {}
  move(slot, 'HELD', NOW + TIMING.lease)
  tally('reasserted')
  return slot
end

-- The same, for a call that must be told FENCE or False when the slot is not the caller's.
local function own_or_fence(grant, owner)
  local slot = own(grant, owner)
  if not slot then
    tally('fenced')
  end
  return slot
end

-- Only a stream whose connection is open takes and commits.
local function saw_open(slot)
  if slot.state == 'HELD' and not slot.opened then
    slot.opened = NOW
  end
end
