-- uses: claim
-- ARGV: run, facts.
local key = KEY.run .. ARGV[1]
if redis.call('EXISTS', key) == 0 then
  return redis.error_reply('UNKNOWN run ' .. ARGV[1] .. ' is not in the ledger')
end
redis.call('HSET', key, 'facts', ARGV[2])
return 1
