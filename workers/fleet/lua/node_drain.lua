-- uses: epoch
-- ARGV: node. Forgotten with the node itself.
redis.call('SADD', KEY.draining, ARGV[1])
return 1
