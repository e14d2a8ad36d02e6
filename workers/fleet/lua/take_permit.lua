-- uses: claim, permit, tally
-- ARGV: run, name, subject, pool, places (JSON, or '': those of the last time). 0: it is the step's turn, n: it is
-- the n-th in line, -1: it has to say its places.
local id, pool, places = step_id(ARGV[1], ARGV[2], ARGV[3]), ARGV[4], ARGV[5]
local key = KEY.permit .. id
local known = read_permit(id)
if known and known.held then
  redis.call('HSET', key, 'until', NOW + TIMING.step_lease)
  return 0
elseif not known and places == '' then
  return -1
end
if places ~= '' then
  redis.call('HSET', key, 'pool', pool, 'places', places)
end
redis.call('HSET', key, 'until', NOW + TIMING.permit_wait)
redis.call('ZADD', KEY.permit_queue .. pool, 'NX', NOW, id)
local go, position = look_at_line(pool)
if not go[id] then
  tally('permits_waited')
  return position[id]
end
redis.call('HSET', key, 'held', 1, 'until', NOW + TIMING.step_lease)
redis.call('ZREM', KEY.permit_queue .. pool, id)
for _, place in ipairs(read_permit(id).places) do
  redis.call('SADD', KEY.permits .. place[1], id)
end
return 0
