-- uses: claim
-- ARGV: run, vm. One row a disk: uuid, its fields and values, its facts, what went wrong with it.
local run, vm = ARGV[1], ARGV[2]
local known = redis.call('HMGET', KEY.vm .. run .. '/' .. vm, 'state', 'disks')
if not known[1] then
  return redis.error_reply('UNKNOWN VM ' .. vm .. ' is not in run ' .. run)
end
local rows = {}
for i, disk in ipairs(cjson.decode(known[2] or '[]')) do
  rows[i] = {
    disk, redis.call('HGETALL', KEY.disk .. run .. '/' .. disk), redis.call('HGET', KEY.facts .. run, disk),
    redis.call('HGET', KEY.errors .. run, disk),
  }
end
return rows
