-- uses: claim, permit, tally
-- ARGV: run, name, subject, pool, places (JSON, or '': those of the last time). 1: the step has its permit, 0: it
-- waits, and will be due when it is called, -1: it has to say its places.
local id, pool, places = step_id(ARGV[1], ARGV[2], ARGV[3]), ARGV[4], ARGV[5]
local permit = read_permit(id)
if permit and (permit.state == 'called' or permit.state == 'held') then
  hold(permit)
  return 1
elseif permit and (places == '' or places == redis.call('HGET', KEY.permit .. id, 'places')) then
  return 0
elseif places == '' then
  return -1
end
return_permit(id) -- with other places it is another one: an old number in new queues might wait in a ring
ask_for_permit(id, pool, places)
if redis.call('HGET', KEY.permit .. id, 'state') == 'held' then
  return 1
end
tally('permits_waited')
return 0
