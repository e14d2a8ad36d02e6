-- uses: epoch
-- ARGV: pool, host, asked, others, then the snapshots that are plugged there.
redis.call('HSET', KEY.host .. ARGV[1] .. '/' .. ARGV[2], 'counted', ARGV[3], 'others', ARGV[4])
return 1
