-- uses: epoch, wake
-- ARGV: node, processes. Wakes a dispatcher when there are new processes to grant to.
local node, processes = ARGV[1], ARGV[2]
redis.call('ZADD', KEY.nodes, NOW + TIMING.node, node)
if redis.call('HGET', KEY.processes, node) ~= processes then
  redis.call('HSET', KEY.processes, node, processes)
  wake()
end
return 1
