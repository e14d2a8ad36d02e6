-- uses: epoch, host, wake
-- ARGV: pool, host, asked. From now on the host's slots become free when their rest is over; it is asked again
-- after TIMING.count_retry, and after a barrier.
local host = read_host(ARGV[1] .. '/' .. ARGV[2])
if host and tonumber(ARGV[3]) > host.counted then
  redis.call('HSET', host.key, 'uncountable', ARGV[3])
  wake()
end
return 1
