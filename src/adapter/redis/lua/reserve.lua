-- SPDX-License-Identifier: Apache-2.0
-- RESERVE for many requests, each for itself.
-- KEYS  {w q [d]}*  d is given for keyless requests only
-- ARGV  wallet_ttl marker_ttl click_ttl
--       rate i8, lease_ms i8, hold_ttl_ms i8, holds_max i4, count i4,
--       count * (id 16, amount i8 (-1: lookup), fingerprint 8, nonce 8, price i8, quantity i8, keyless 1)
-- Reply: per request the answer (enum gf_reserved; 0: the script failed; + 128: its marker was none) and two i8: price and quantity, wait_ms, or what
--        is available; behind them the text of the last failure, if there was one.
local wallet_ttl, marker_ttl, click_ttl, blob = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local rate, lease_ms, hold_ms, max, count = unpack('<i8i8i8i4i4', blob)
local lease, due = pack('<i8', now + lease_ms), pack('<i8', now + hold_ms)
local full = HEAD + HOLD * max

local function answer(code, x) return pack('<Bi8i8', code, x or 0, 0) end

-- What a marker says; nil: the request goes on as a new one.
local function judge_marker(m, w, q, at, amount)
  local terms = sub(m, 26, 41) -- price and quantity of the first call
  if sub(m, 10, 17) ~= sub(blob, at + 24, at + 31) then return answer(3) end
  if sub(m, 18, 25) == sub(blob, at + 32, at + 39) then return '\1' .. terms end
  if byte(m) == 65 then return '\2' .. terms end
  local leased = unpack('<i8', m, 2)
  if leased > now then return answer(4, leased - now) end
  -- Take-over: the first call may be in Kafka, so this one goes on with the first price.
  local value = read(w)
  local held = value and find_hold(value, sub(blob, at, at + 15), HEAD + 1)
  if held then
    call('PSETEX', w, wallet_ttl, sub(value, 1, held + 23) .. due .. sub(value, held + HOLD))
  end
  if held or amount < 0 then
    call('PSETEX', q, marker_ttl, 'T' .. lease .. sub(blob, at + 24, at + 39) .. terms)
    return '\1' .. terms
  end
end

-- Holds without those that are due, and their sum.
local function purge(holds)
  local live, sum = {}, 0
  for i = 1, #holds, HOLD do
    local amount, deadline = unpack('<i8i8', holds, i + 16)
    if deadline > now then
      live[#live + 1] = sub(holds, i, i + HOLD - 1)
      sum = sum + amount
    end
  end
  return table.concat(live), sum
end

-- Every rule in its order; what is new holds.
local function judge(w, q, d, at, amount)
  local id, m = sub(blob, at, at + 15), redis.pcall('GET', q)
  local odd = m and (type(m) ~= 'string' or #m ~= 41)
  local said = m and not odd and judge_marker(m, w, q, at, amount)
  if said then return said end
  if amount < 0 then return answer(12) end
  local last = d and redis.pcall('GET', d)
  if last and type(last) == 'string' and last ~= id then return answer(11) end

  local value = read(w)
  if not value then return answer(5) end
  local s, b, v, f, c, h, r, k = unpack('<Bi8i8i8i8i8I4I4', value, 2)
  if f < now then return answer(5) end
  local confirmed = c >= now - 1000
  local used = r == second and k or 0
  if used >= rate then return answer(7, 1000 - now % 1000) end
  local holds = sub(value, HEAD + 1)
  local function write(sum, rest)
    call('PSETEX', w, wallet_ttl, sub(value, 1, 34) .. pack('<i8I4I4', sum, second, used + 1) .. rest)
  end
  if v == 0 or s ~= 1 then
    if not confirmed then return answer(5) end
    write(h, holds)
    return answer(v == 0 and 6 or 8)
  end

  -- A hold whose marker was evicted is replaced, not added to; until then it counts as it is.
  local own, mine, own_amount = find_hold(value, id, HEAD + 1), '', 0
  if own then
    mine, own_amount = sub(value, own, own + HOLD - 1), unpack('<i8', value, own + 16)
    holds = sub(value, HEAD + 1, own - 1) .. sub(value, own + HOLD)
    h = h - own_amount
  end
  if #holds > 0 and (#holds >= HOLD * max or b - h < amount) then
    holds, h = purge(holds)
    mine, own_amount = purge(mine)
  end
  if #holds >= HOLD * max then
    write(h + own_amount, holds .. mine)
    return answer(9)
  end
  if b - h < amount then
    if not confirmed then return answer(5) end
    write(h + own_amount, holds .. mine)
    return answer(10, math.max(b - h, 0)) -- a debit may have taken what is held
  end
  write(h + amount, holds .. sub(blob, at, at + 23) .. due)
  -- Where an earlier call has left its marker or its hold, that one may be in Kafka.
  call('PSETEX', q, marker_ttl, ((own or m and not odd) and 'T' or 'P') .. lease .. sub(blob, at + 24, at + 55))
  if d then call('PSETEX', d, click_ttl, id) end
  return (odd and '\129' or '\1') .. sub(blob, at + 40, at + 55)
end

-- The common case in three calls: nothing stands against the request and there is no marker, so all rules agree.
local function reserve(w, q, d, at)
  local amount = unpack('<i8', blob, at + 16)
  local value = amount >= 0 and not d and read(w)
  if value and #value < full then
    local s, b, v, f, _, h, r, k = unpack('<Bi8i8i8i8i8I4I4', value, 2)
    local used = r == second and k or 0
    if f >= now and v ~= 0 and s == 1 and used < rate and b - h >= amount and
      not find(value, sub(blob, at, at + 15), HEAD + 1, true) and
      call('SET', q, 'P' .. lease .. sub(blob, at + 24, at + 55), 'NX', 'PX', marker_ttl) then
      call('PSETEX', w, wallet_ttl, sub(value, 1, 34) .. pack('<i8I4I4', h + amount, second, used + 1) ..
        sub(value, HEAD + 1) .. sub(blob, at, at + 23) .. due)
      return '\1' .. sub(blob, at + 40, at + 55)
    end
  end
  return judge(w, q, d, at, amount)
end

local out, key, at, failure = {}, 1, 33, ''
for i = 1, count do
  local keyless = byte(blob, at + 56) == 1
  local ok, said = pcall(reserve, KEYS[key], KEYS[key + 1], keyless and KEYS[key + 2], at)
  if not ok then
    failure = type(said) == 'table' and said.err or tostring(said)
    said = answer(0)
  end
  out[i] = said
  key = key + (keyless and 3 or 2)
  at = at + 57
end
if sub(failure, 1, 8) == 'READONLY' then return redis.error_reply(failure) end -- for the link: look for the primary
return table.concat(out) .. failure
