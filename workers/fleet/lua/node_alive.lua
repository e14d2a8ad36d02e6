-- uses: epoch, wake
-- ARGV: node, processes, spare. Wakes a dispatcher when there are new processes to grant to.
local node, processes, spare = ARGV[1], ARGV[2], ARGV[3]
redis.call('ZADD', KEY.nodes, NOW + TIMING.node, node)
redis.call('HSET', KEY.spare, node, spare)
if redis.call('HGET', KEY.processes, node) ~= processes then
  redis.call('HSET', KEY.processes, node, processes)
  wake()
end
return 1
