-- Counts one call in the moving windows of a backend, by the clock of this server, or says how long it must wait.
--
-- KEYS  of each window: when its calls stop counting (sorted set: id -> microsecond), what they cost (hash: id -> cost)
-- ARGV  id, "count" or "settle", then of each window: limit, length in microseconds, cost
-- A cost below zero is reserved only: it may turn out to be less. The field "sum" of the hash is all that counts now.
-- Returns microseconds until the call fits (0: it is counted), those that are sure, and the number of the window.
-- A call that is counted already is counted from now: this may be sent again when a reply was lost, or late.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local id, settle = ARGV[1], ARGV[2] == 'settle'
local wait, sure, which = 0, 0, 0

local function cost_of(costs, call)
  return tonumber(redis.call('HGET', costs, call) or 0)
end

local function window(w)
  return KEYS[2 * w - 1], KEYS[2 * w], tonumber(ARGV[3 * w]), tonumber(ARGV[3 * w + 1]), tonumber(ARGV[3 * w + 2])
end

local function write(w)
  local stops, costs, _, span, cost = window(w)
  redis.call('HINCRBY', costs, 'sum', math.abs(cost) - math.abs(cost_of(costs, id)))
  redis.call('HSET', costs, id, cost)
  if not settle then redis.call('ZADD', stops, now + span, id) end  -- moves one that is there
  for _, key in ipairs({stops, costs}) do redis.call('PEXPIRE', key, math.ceil(span / 1000) + 1000) end
end

local function forget_old(stops, costs, span)
  for _, call in ipairs(redis.call('ZRANGEBYSCORE', stops, '-inf', now)) do
    redis.call('HINCRBY', costs, 'sum', -math.abs(cost_of(costs, call)))
    redis.call('HDEL', costs, call)
    redis.call('ZREM', stops, call)
  end
  -- the server's clock was put back: a call counts for one window from now at most
  for _, call in ipairs(redis.call('ZRANGEBYSCORE', stops, string.format('(%.0f', now + span), '+inf')) do
    redis.call('ZADD', stops, now + span, call)
  end
end

local known = false
for w = 1, #KEYS / 2 do
  local stops, costs, limit, span, cost = window(w)
  forget_old(stops, costs, span)
  known = known or redis.call('HEXISTS', costs, id) == 1
  local over = cost_of(costs, 'sum') + math.abs(cost) - limit
  if over > 0 and not known and not settle then
    local calls, surely_over = redis.call('ZRANGE', stops, 0, -1, 'WITHSCORES'), over
    for c = 1, #calls, 2 do surely_over = surely_over + math.min(0, cost_of(costs, calls[c])) end
    for c = 1, #calls, 2 do
      local taken, left = cost_of(costs, calls[c]), calls[c + 1] - now
      if over > 0 and left > wait then wait, which = left, w end
      over = over - math.abs(taken)
      if taken > 0 and surely_over > 0 then
        sure, surely_over = math.max(sure, left), surely_over - taken
      end
    end
  end
end

if known then wait, sure = 0, 0 end
if known or (wait == 0 and not settle) then
  for w = 1, #KEYS / 2 do write(w) end
end
return {wait, sure, which}
