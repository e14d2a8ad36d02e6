-- uses: epoch
-- Worker nodes. A slot's owner is `<node>` or `<node>/<anything>`.
local function node_of(owner)
  return string.match(owner, '^[^/]*')
end

local function is_draining(owner)
  return redis.call('SISMEMBER', KEY.draining, node_of(owner)) == 1
end

-- How many opens of each node take longer than TIMING.slow_open: their processes wait for a host.
local function slow_opens()
  local slow = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEY.openings, '-inf', NOW - TIMING.slow_open)) do
    local place, number = string.match(id, '^(.*)/(%d+)$')
    local node = node_of(cjson.decode(redis.call('HGET', KEY.host .. place, number)).owner)
    slow[node] = (slow[node] or 0) + 1
  end
  return slow
end

-- How many more grants may be out: the idle processes of live nodes, a few more, less the unclaimed grants.
-- A process in a slow open is replaced by one of its node's spare processes, as long as there are some.
local function spare_processes()
  local idle, slow = 0, slow_opens()
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEY.nodes, '(' .. NOW, '+inf')) do
    if not is_draining(node) then
      local processes = tonumber(redis.call('HGET', KEY.processes, node)) or 0
      local spare = tonumber(redis.call('HGET', KEY.spare, node)) or 0
      local busy = tonumber(redis.call('HGET', KEY.busy, node)) or 0
      idle = idle + math.max(0, math.min(processes + spare - busy, processes - (busy - (slow[node] or 0))))
    end
  end
  return math.floor(idle * (1 + LIMIT.spare_grants) + 1e-9) - redis.call('ZCARD', KEY.slots .. 'GRANTED')
end

local function forget_node(node)
  redis.call('ZREM', KEY.nodes, node)
  redis.call('HDEL', KEY.processes, node)
  redis.call('HDEL', KEY.spare, node)
  redis.call('HDEL', KEY.credentials, node)
  redis.call('SREM', KEY.draining, node)
end
