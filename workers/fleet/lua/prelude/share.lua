-- uses: epoch
-- How runs share: each has a virtual finish time of its own, charged for every batch of any of its disks, and
-- the least served run goes first. KEY.sharing has the runs with a disk that streams.
local function charge_run(run, by)
  if redis.call('ZSCORE', KEY.sharing, run) then
    redis.call('ZINCRBY', KEY.sharing, string.format('%.6f', by), run)
  end
end

-- A run joins as the equal of the least served one, but never goes back behind what it had itself.
local function join_share(run, disks)
  if redis.call('HINCRBY', KEY.run .. run, 'streaming', disks) == disks and disks > 0 then
    local least = redis.call('ZRANGE', KEY.sharing, 0, 0, 'WITHSCORES')[2]
    local own = redis.call('HGET', KEY.run .. run, 'vft')
    redis.call('ZADD', KEY.sharing, math.max(tonumber(least or 0), tonumber(own or 0)), run)
  end
end

local function leave_share(run)
  if redis.call('HINCRBY', KEY.run .. run, 'streaming', -1) == 0 then
    local vft = redis.call('ZSCORE', KEY.sharing, run)
    redis.call('HSET', KEY.run .. run, 'vft', vft or 0)
    redis.call('ZREM', KEY.sharing, run)
  end
end

-- The runs, the least served first, as {run, vft}. A run that could not be served for long (its hosts were
-- gone) has no claim to all that it missed: it lags at most LIMIT.lag behind what was served last.
local function runs_by_share()
  local served = tonumber(redis.call('GET', KEY.vtime) or 0)
  local rows = redis.call('ZRANGE', KEY.sharing, 0, -1, 'WITHSCORES')
  local runs = {}
  for i = 1, #rows, 2 do
    local vft = tonumber(rows[i + 1])
    if vft < served - LIMIT.lag then
      vft = served - LIMIT.lag
      redis.call('ZADD', KEY.sharing, vft, rows[i])
    end
    runs[#runs + 1] = { run = rows[i], vft = vft }
  end
  return runs
end

local function note_served(vft)
  if vft > tonumber(redis.call('GET', KEY.vtime) or 0) then
    redis.call('SET', KEY.vtime, vft)
  end
end
