-- SPDX-License-Identifier: Apache-2.0
-- Begins every script. Rules for all of them: keys are declared; time is Redis TIME; numbers are doubles below 2^53, packed as
-- 8 bytes and so exact; every script may be repeated after a lost reply; what stands in a key in another type, length or
-- format counts as absent and is replaced. Values are as gf/balance.h says.
local call, pack, unpack, sub, find, byte = redis.call, struct.pack, struct.unpack, string.sub, string.find, string.byte
local time = call('TIME')
local second = tonumber(time[1])
local now = second * 1000 + math.floor(time[2] / 1000)
local HEAD, HOLD = 50, 32 -- bytes of a wallet's head, of each hold behind it

-- A wallet's value or false; the second is true when there is something else.
local function read(key)
  local value = redis.pcall('GET', key)
  if not value then return false, false end
  if type(value) ~= 'string' or #value < HEAD or byte(value) ~= 119 or (#value - HEAD) % HOLD ~= 0 then return false, true end
  return value, false
end

-- Where the hold of this id begins, from a hold's beginning on; nil: nowhere.
local function find_hold(value, id, from)
  local at = find(value, id, from, true)
  while at and (at - HEAD - 1) % HOLD ~= 0 do at = find(value, id, at + 1, true) end
  return at
end
