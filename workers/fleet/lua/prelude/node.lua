-- uses: epoch
-- Worker nodes. A slot's owner is `<node>` or `<node>/<anything>`.
local function node_of(owner)
  return string.match(owner, '^[^/]*')
end

local function is_draining(owner)
  return redis.call('SISMEMBER', KEY.draining, node_of(owner)) == 1
end

-- How many more grants may be out: the idle processes of live nodes, a few more, less the unclaimed grants.
local function spare_processes()
  local idle = 0
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEY.nodes, '(' .. NOW, '+inf')) do
    if not is_draining(node) then
      local processes = tonumber(redis.call('HGET', KEY.processes, node)) or 0
      local busy = tonumber(redis.call('HGET', KEY.busy, node)) or 0
      idle = idle + math.max(0, processes - busy)
    end
  end
  return math.floor(idle * (1 + LIMIT.spare_grants) + 1e-9) - redis.call('ZCARD', KEY.slots .. 'GRANTED')
end
