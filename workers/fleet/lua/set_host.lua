-- uses: epoch, wake
-- ARGV: pool, host, cap.
local place = ARGV[1] .. '/' .. ARGV[2]
redis.call('HSET', KEY.host .. place, 'cap', ARGV[3])
if redis.call('SADD', KEY.hosts, place) == 1 then
  wake()
end
return 1
