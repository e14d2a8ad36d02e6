-- uses: epoch
-- ARGV: pool, host, asked. From now on the host's slots become free when their rest is over.
redis.call('HSET', KEY.host .. ARGV[1] .. '/' .. ARGV[2], 'confirm', 0)
return 1
