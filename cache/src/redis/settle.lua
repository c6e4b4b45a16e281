-- Settles one gateway's share of one quota.
-- KEYS[1]: the quota. ARGV: gateway, units a second, units left (below zero: owed), units asked for, lease in ms, most units
-- that a gateway has of one that nobody knows.
-- The quota is a bucket of one second's worth. What gateways hold counts as in it, so that a burst is never larger.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local gateway, limit, left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local asked, lease, first = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- One that nobody knows is full; what is given back to it was never taken from it.
local level, at, held, others, sharers = limit - math.max(0, left), now, 0, 0, 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == '#level' then
    level = tonumber(value)
  elseif name == '#at' then
    at = tonumber(value)
  elseif name ~= gateway then
    local units, weight, time = string.match(value, '^(%S+) (%S+) (%S+)$')
    if now - tonumber(time) > lease then
      redis.call('HDEL', KEYS[1], name)
    else
      held, others, sharers = held + tonumber(units), others + tonumber(weight), sharers + 1
    end
  end
end
level = math.min(limit - held, level + left + math.max(0, now - at) * limit / 1000)
local grant = 0
if asked > 0 then
  sharers = sharers + 1
  -- By what each asks for, of all that there is; one at least, or a small quota would serve nobody.
  local share = math.max(1, math.floor((level + held) * asked / (asked + others)))
  if #fields == 0 then
    -- Others may have let their part pass, and will say so in a moment: the rest waits for that.
    share = math.min(share, first + math.min(0, left))
  end
  grant = math.max(0, math.min(math.floor(level), share))
  redis.call('HSET', KEYS[1], gateway, grant .. ' ' .. asked .. ' ' .. now)
else
  redis.call('HDEL', KEYS[1], gateway)
end
redis.call('HSET', KEYS[1], '#level', tostring(level - grant), '#at', now)
-- As long as it takes to be full again; then it is as good as new.
redis.call('PEXPIRE', KEYS[1], lease + math.ceil((limit - level + grant) * 1000 / limit))
return {grant, sharers}
