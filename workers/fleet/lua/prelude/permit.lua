-- uses: epoch, wake
-- A turn is a control step's permit to work on a pool: it takes one of so many at each of its places (the pool, a
-- storage, a host). KEY.permit .. id, by the step's id, has `pool`, `places` (JSON: {{name, limit}, ...}), `until`, when
-- it ends unless somebody asks or renews, and, once it is the step's turn, `held`. KEY.permit_queue .. pool has who
-- waits, by when they came; KEY.permits .. name who holds a place.
local function read_permit(id)
  local turn = redis.call('HMGET', KEY.permit .. id, 'pool', 'places', 'held', 'until')
  if not turn[1] then
    return nil
  elseif tonumber(turn[4]) <= NOW then
    redis.call('DEL', KEY.permit .. id)
    return nil
  end
  return { id = id, pool = turn[1], places = cjson.decode(turn[2]), held = turn[3] }
end

local function holders(name)
  local count = 0
  for _, id in ipairs(redis.call('SMEMBERS', KEY.permits .. name)) do
    local turn = read_permit(id)
    if turn and turn.held then
      count = count + 1
    else
      redis.call('SREM', KEY.permits .. name, id)
    end
  end
  return count
end

-- Those of the line whose turn it is, as a set, and everybody's position in it. Who has to wait keeps his place at
-- his storages, or one that needs two would never find both free; elsewhere others go ahead, or all would wait
-- behind those for one busy storage.
local function look_at_line(pool)
  local used, go, position, length = {}, {}, {}, 0
  for _, id in ipairs(redis.call('ZRANGE', KEY.permit_queue .. pool, 0, -1)) do
    local turn = read_permit(id)
    if not turn then
      redis.call('ZREM', KEY.permit_queue .. pool, id)
    else
      length = length + 1
      position[id] = length
      local may = true
      for _, place in ipairs(turn.places) do
        used[place[1]] = used[place[1]] or holders(place[1])
        may = may and used[place[1]] < place[2]
      end
      go[id] = may or nil
      for _, place in ipairs(turn.places) do
        if may or string.sub(place[1], 1, 3) == 'sr/' then
          used[place[1]] = used[place[1]] + 1
        end
      end
    end
  end
  return go, position
end

local function return_permit(id)
  local turn = read_permit(id)
  if not turn then
    return
  end
  redis.call('DEL', KEY.permit .. id)
  redis.call('ZREM', KEY.permit_queue .. turn.pool, id)
  for _, place in ipairs(turn.places) do
    redis.call('SREM', KEY.permits .. place[1], id)
  end
  for waiting in pairs((look_at_line(turn.pool))) do
    redis.call('ZADD', KEY.steps, 'XX', NOW, waiting)
    wake()
  end
end
