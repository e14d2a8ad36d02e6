-- uses: epoch, wake
-- The concurrency limit: how many control steps are at work on a pool at once. A permit takes one of so many places
-- at each storage of its step (`sr/...`), at its host (`host/...`), if it has one, and at the pool (`pool/...`).
--
--   waiting   it has places at some of its storages, and stands in the queues of the others
--   ready     it has a place at each storage, and waits for those at host and pool
--   called    it has all its places, and its step is due
--   held      its step is at work
--
-- Everybody is served by a number given on arrival. It is the same in all queues, so of all that are waiting the
-- first is first in each queue where it stands: nobody waits in a ring. Only first ones are looked at, so a call
-- costs the same however many wait.
local function read_permit(id)
  local row = redis.call('HMGET', KEY.permit .. id, 'pool', 'places', 'number', 'state')
  if not row[1] then
    return nil
  end
  local permit = { id = id, pool = row[1], number = row[3], state = row[4], storages = {}, others = {} }
  for _, place in ipairs(cjson.decode(row[2])) do -- {name, limit}, sorted by name: the host before the pool
    local kind = string.sub(place[1], 1, 3) == 'sr/' and permit.storages or permit.others
    kind[#kind + 1] = place
  end
  return permit
end

local function has_room(place)
  return redis.call('SCARD', KEY.permits .. place[1]) < place[2]
end

local function first_of(queue)
  return redis.call('ZRANGE', queue, 0, 0)[1]
end

local function set_state(permit, state, ends)
  redis.call('HSET', KEY.permit .. permit.id, 'state', state)
  redis.call('ZADD', KEY.permit_ends, ends, permit.id)
end

local function hold(permit)
  set_state(permit, 'held', NOW + TIMING.step_lease)
end

-- Where a permit that is ready waits: at its host, or at the pool when it has none.
local function waits_at(permit)
  return permit.others[1][1]
end

-- As long as a host has room, the first that is ready there stands for it among the heads of the pool. So does the
-- first of those without a host, always: whether the pool has room is looked at in call_next.
local function set_head(pool, name)
  local id = first_of(KEY.permit_queue .. name)
  local permit = id and read_permit(id)
  if permit and (#permit.others == 1 or has_room(permit.others[1])) then
    redis.call('ZADD', KEY.permit_heads .. pool, permit.number, name)
  else
    redis.call('ZREM', KEY.permit_heads .. pool, name)
  end
end

local function get_ready(permit)
  redis.call('HSET', KEY.permit .. permit.id, 'state', 'ready')
  redis.call('ZADD', KEY.permit_queue .. waits_at(permit), permit.number, permit.id)
  set_head(permit.pool, waits_at(permit))
end

-- Places of a storage that are free go to the first in its queue. They keep them while they wait for other places,
-- or one that needs two storages would never have both.
local function serve_storage(name)
  local id = first_of(KEY.permit_queue .. name)
  while id do
    local permit = read_permit(id)
    for _, place in ipairs(permit.storages) do
      if place[1] == name and not has_room(place) then
        return
      end
    end
    redis.call('ZREM', KEY.permit_queue .. name, id)
    redis.call('SADD', KEY.permits .. name, id)
    if redis.call('HINCRBY', KEY.permit .. id, 'lacks', -1) == 0 then
      get_ready(permit)
    end
    id = first_of(KEY.permit_queue .. name)
  end
end

-- Places at pool and host go to the first that is ready and whose host has room: others pass those that wait for a
-- host. Who is called is due before everything else, as places are kept for it.
local function call_next(pool, asking)
  local name = first_of(KEY.permit_heads .. pool)
  while name do
    local permit = read_permit(first_of(KEY.permit_queue .. name))
    if not has_room(permit.others[#permit.others]) then
      return
    end
    redis.call('ZREM', KEY.permit_queue .. name, permit.id)
    for _, place in ipairs(permit.others) do
      redis.call('SADD', KEY.permits .. place[1], permit.id)
    end
    if permit.id == asking then
      hold(permit)
    else
      set_state(permit, 'called', NOW + TIMING.permit_wait)
      redis.call('ZADD', KEY.steps, 'XX', 0, permit.id)
      wake()
    end
    set_head(pool, name)
    name = first_of(KEY.permit_heads .. pool)
  end
end

local function ask_for_permit(id, pool, places)
  local number = redis.call('INCR', KEY.permit_number)
  redis.call('HSET', KEY.permit .. id, 'pool', pool, 'places', places, 'number', number, 'state', 'waiting')
  local permit, lacks = read_permit(id), 0
  for _, place in ipairs(permit.storages) do
    if has_room(place) and not first_of(KEY.permit_queue .. place[1]) then
      redis.call('SADD', KEY.permits .. place[1], id)
    else
      redis.call('ZADD', KEY.permit_queue .. place[1], number, id)
      lacks = lacks + 1
    end
  end
  redis.call('HSET', KEY.permit .. id, 'lacks', lacks)
  if lacks == 0 then
    get_ready(permit)
    call_next(pool, id)
  end
end

-- Gives up all its places, and its places in queues; who comes next is called.
local function return_permit(id)
  local permit = read_permit(id)
  if not permit then
    return false
  end
  redis.call('DEL', KEY.permit .. id)
  redis.call('ZREM', KEY.permit_ends, id)
  redis.call('ZREM', KEY.permit_queue .. waits_at(permit), id)
  for _, place in ipairs(permit.others) do
    redis.call('SREM', KEY.permits .. place[1], id)
  end
  for _, place in ipairs(permit.storages) do
    redis.call('ZREM', KEY.permit_queue .. place[1], id)
    redis.call('SREM', KEY.permits .. place[1], id)
    serve_storage(place[1])
  end
  set_head(permit.pool, waits_at(permit))
  call_next(permit.pool)
  return true
end
