-- uses: epoch
-- ARGV: node.
redis.call('ZREM', KEY.nodes, ARGV[1])
redis.call('HDEL', KEY.processes, ARGV[1])
redis.call('SREM', KEY.draining, ARGV[1])
return 1
