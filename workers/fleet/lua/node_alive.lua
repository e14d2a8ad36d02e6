-- uses: epoch, wake
-- ARGV: node, processes, spare, credentials (a mark, or empty). Wakes a dispatcher when there are new processes to grant to.
local node, processes, spare, credentials = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('ZADD', KEY.nodes, NOW + TIMING.node, node)
redis.call('HSET', KEY.spare, node, spare)
redis.call('HSET', KEY.credentials, node, credentials)
if redis.call('HGET', KEY.processes, node) ~= processes then
  redis.call('HSET', KEY.processes, node, processes)
  wake()
end
return 1
