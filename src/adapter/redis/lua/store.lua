-- SPDX-License-Identifier: Apache-2.0
-- LOAD and PUBLISH of many wallets, each for itself: holds are released first and always (F9: a rejected command does not
-- move the version, yet its hold must go), the balance is taken if it is not older.
-- KEYS  w*
-- ARGV  wallet_ttl
--       fresh_ms i8, then per wallet: 'w', status 1, balance i8, version i8 (-1: release only), count I2, count * id 16
-- Reply: per wallet 0 not taken, 1 taken, 2 taken in place of something that was no wallet, 3 failed; behind them the text of
--        the last failure, if there was one. An error where the server takes no writes at all.
local ttl, blob = ARGV[1], ARGV[2]
local fresh = pack('<i8i8', now + unpack('<i8', blob), now)
local EMPTY = string.rep('\0', 16) -- h, r, k

-- Without a hold to release, which under a backlog is the rule: only the head's first 34 bytes change.
local function store(key, at, version, count)
  local value, odd = read(key)
  if not value then
    if version < 0 then return '0' end
    call('PSETEX', key, ttl, sub(blob, at, at + 17) .. fresh .. EMPTY)
    return odd and '2' or '1'
  end
  local taken = version >= unpack('<i8', value, 11)
  local from, found, released = HEAD + 1, false, 0
  for i = 1, #value > HEAD and count or 0 do
    local id = at + 4 + 16 * i
    local hold = find_hold(value, sub(blob, id, id + 15), from)
    if hold then
      found = true
      released = released + unpack('<i8', value, hold + 16)
      if hold == from then -- nearly always: they go in the order in which they came
        from = from + HOLD
      else
        value = sub(value, 1, hold - 1) .. sub(value, hold + HOLD)
      end
    end
  end
  if not found then
    if not taken then return '0' end
    call('PSETEX', key, ttl, sub(blob, at, at + 17) .. fresh .. sub(value, 35))
    return '1'
  end
  call('PSETEX', key, ttl, (taken and sub(blob, at, at + 17) .. fresh or sub(value, 1, 34)) ..
    pack('<i8', unpack('<i8', value, 35) - released) .. sub(value, 43, HEAD) .. sub(value, from))
  return taken and '1' or '0'
end

local out, at, failure = {}, 9, ''
for i = 1, #KEYS do
  local version, count = unpack('<i8I2', blob, at + 10)
  local ok, said = pcall(store, KEYS[i], at, version, count)
  if not ok then
    failure = type(said) == 'table' and said.err or tostring(said)
    said = '3'
  end
  out[i] = said
  at = at + 20 + 16 * count
end
local code = string.match(failure, '^%u+')
if code == 'READONLY' or code == 'NOREPLICAS' or code == 'MISCONF' then return redis.error_reply(failure) end -- about no wallet
return table.concat(out) .. failure
